"""Tasks of a person's own are kept in the workspace, and described before anything is trained."""

from __future__ import annotations

import json

import pytest
from tiny_tokenizers import bert
from toy_tasks import write_task

from adaptmtl.cli.main import main
from adaptmtl.errors import AdaptMTLError, UnknownNameError
from adaptmtl.tasks.catalogue import CatalogueError
from adaptmtl.tasks.describe import describe
from adaptmtl.tasks.infer import infer_task
from adaptmtl.tasks.load import load_rows
from adaptmtl.tasks.own import add_tasks, as_yaml, kept_task, known_tasks, own_names, remember, remove_task
from adaptmtl.tasks.spec import TaskSpec

ROWS = "text,label\n" + "".join(f"text number {i} is {'good' if i % 3 else 'bad'},{i % 3 > 0}\n" for i in range(30))


def test_an_added_task_is_known_until_it_is_removed(tmp_path, workspace):
    write_task(tmp_path, "opinion")
    assert [task.name for task in add_tasks(workspace, tmp_path / "opinion.yaml")] == ["opinion"]
    task = known_tasks(workspace).task("opinion")
    assert len(load_rows(task, workspace).train) == 48 and task.rows[0].train == str(tmp_path / "opinion-train.jsonl")
    assert add_tasks(workspace, tmp_path / "opinion.yaml")[0] == task  # the same again
    assert known_tasks(workspace, tmp_path / "opinion.yaml").task("opinion") == task
    remove_task(workspace, "opinion")
    assert "opinion" not in known_tasks(workspace).tasks and own_names(workspace) == ()
    with pytest.raises(UnknownNameError, match="unknown added task 'boolq'"):
        remove_task(workspace, "boolq")


def test_a_changed_task_is_not_overwritten_unasked(tmp_path, workspace):
    write_task(tmp_path, "opinion")
    add_tasks(workspace, tmp_path / "opinion.yaml")
    text = (tmp_path / "opinion.yaml").read_text()
    (tmp_path / "opinion.yaml").write_text(text + "metric: macro_f1\n")
    with pytest.raises(AdaptMTLError, match="added before; overwrite it with --replace"):
        add_tasks(workspace, tmp_path / "opinion.yaml")
    add_tasks(workspace, tmp_path / "opinion.yaml", replace=True)
    assert known_tasks(workspace).task("opinion").main_metric == "macro_f1"


def test_wrong_files_are_not_kept(tmp_path, workspace):
    write_task(tmp_path, "opinion", more="metrik: accuracy\n")
    with pytest.raises(CatalogueError, match="metrik: unknown key; did you mean metric"):
        add_tasks(workspace, tmp_path)
    (tmp_path / "opinion.yaml").write_text("name: both\ntasks: [boolq]\n")
    with pytest.raises(AdaptMTLError, match="holds the suite 'both'"):
        add_tasks(workspace, tmp_path)
    assert own_names(workspace) == ()
    workspace.folder("tasks").mkdir(parents=True)
    workspace.folder("tasks", "x.yaml").write_text("name: x\n")
    with pytest.raises(CatalogueError, match=r"tasks added before, in .*tasks remove NAME"):
        known_tasks(workspace)


@pytest.mark.parametrize("kind", ["remarks", "size", "right-word", "nouns", "where"])
def test_written_tasks_are_read_as_they_were(tmp_path, workspace, kind):
    write_task(tmp_path, kind)
    task = add_tasks(workspace, tmp_path)[0]
    assert known_tasks(workspace).task(kind) == task and "rows:" in as_yaml(task)


def test_a_file_is_remembered_under_its_name(tmp_path, workspace):
    (tmp_path / "mine.csv").write_text(ROWS)
    first = infer_task(tmp_path / "mine.csv").spec
    assert remember(workspace, first) is None and known_tasks(workspace).tasks["mine"] == first
    assert remember(workspace, infer_task(tmp_path / "mine.csv").spec) is None, "nothing was replaced"
    assert kept_task(workspace, "mine", tmp_path / "mine.csv") == first
    other = infer_task(tmp_path / "mine.csv", kind="multi_label_classification", label_column="label").spec
    assert remember(workspace, other) == first and known_tasks(workspace).tasks["mine"] == other
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.csv").write_text(ROWS)
    with pytest.raises(AdaptMTLError, match=r"already a task 'mine'.*--task-name"):
        remember(workspace, infer_task(tmp_path / "other" / "mine.csv").spec)
    with pytest.raises(AdaptMTLError, match="already a task 'boolq'"):
        remember(workspace, infer_task(tmp_path / "mine.csv", name="boolq").spec)


def test_a_task_that_a_person_wrote_is_not_replaced_by_a_guess(tmp_path, workspace):
    (tmp_path / "mine.csv").write_text(ROWS)
    guess = infer_task(tmp_path / "mine.csv").spec
    written = guess.model_copy(update={"metric": "macro_f1", "licence": "CC-BY-NC-4.0"})
    (tmp_path / "mine.yaml").write_text(as_yaml(written))
    add_tasks(workspace, tmp_path / "mine.yaml")
    with pytest.raises(AdaptMTLError, match=r"'mine' of this file says more than a guess knows.*--task-name"):
        remember(workspace, guess)
    assert kept_task(workspace, "mine", tmp_path / "mine.csv") == written
    assert kept_task(workspace, "mine", tmp_path / "other.csv") is None and kept_task(workspace, "b", tmp_path) is None


def test_description(tmp_path, workspace):
    (tmp_path / "t.csv").write_text(
        "text,label\n" + "the quick fox,a\n" * 3 + "the quick fox,b\nthe lazy dog sleeps on,b\n"
    )
    (tmp_path / "v.csv").write_text(
        "text,label\nThe lazy dog sleeps on!,b\nunbelievable weather " + "dog " * 40 + ",a\n"
    )
    spec = TaskSpec.model_validate(
        {
            "name": "mine",
            "kind": "sequence_classification",
            "rows": [
                {
                    "type": "file",
                    "train": str(tmp_path / "t.csv"),
                    "validation": str(tmp_path / "v.csv"),
                    "columns": {"text": "text", "label": "label"},
                }
            ],
        }
    )
    found = describe(load_rows(spec, workspace), bert(), 16)
    assert found.train.labels == {"a": 3, "b": 2} and (found.train.rows, found.validation.rows) == (5, 2)
    assert (found.train.duplicates, found.train.contradictions) == (3, 1)
    assert found.shared["exact"] == 0.5 and found.validation.cut_rows == 0.5 and found.train.cut_rows == 0.0
    seen = bert().decode(bert()("the quick fox", padding=False, truncation=False)["input_ids"])
    assert found.example["answer"] == "a" and found.example["seen"] == [seen]
    whole = [
        len(bert()(row["text"], padding=False, truncation=False)["input_ids"])
        for row in load_rows(spec, workspace).train.rows
    ]
    assert found.train.tokens[0] == min(whole) and found.train.tokens[3] == max(whole)
    json.dumps(found.to_dict())


@pytest.mark.parametrize("kind", ["remarks", "size", "right-word", "nouns", "where"])
def test_every_kind_is_described(tmp_path, workspace, kind):
    write_task(tmp_path, kind)
    found = describe(load_rows(add_tasks(workspace, tmp_path)[0], workspace), bert(), 32)
    assert bool(found.train.labels) == (kind != "size") == (found.train.label_range is None)
    assert found.example["answer"] and found.example["seen"] and found.train.rows == 48


# the commands


def test_from_file_to_adapter_in_one_command(tmp_path, tiny_backbone, capsys, monkeypatch):
    (tmp_path / "mine.csv").write_text(ROWS)
    own = ["--data", str(tmp_path / "mine.csv")]
    rest = ["--home", str(tmp_path / "home"), "--offline", "--backbone", tiny_backbone]
    assert main(["train-adapters", *own, "--steps", "2", "--rank", "2", *rest, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)[0]["task"] == "mine" and "read as sequence_classification (confidence" in said.err
    assert main(["tasks", "show", "mine", "--home", str(tmp_path / "home")]) == 0
    assert "mine" in capsys.readouterr().out
    assert main(["tasks", "check", "mine", *rest, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["rows"] == 24
    assert main(["transfer", *own, *rest, "--steps", "2", "--rank", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == "mine"
    assert main(["transfer", "--target", str(tmp_path / "mine.csv"), *rest, "--steps", "2", "--rank", "2"]) == 0
    assert capsys.readouterr().out.startswith("mine: ")
    both = ["tasks", "check", str(tmp_path / "mine.csv"), "--data", str(tmp_path / "mine.csv"), *rest, "--json"]
    assert main(both) == 0 and json.loads(capsys.readouterr().out)["train"]["rows"] == 24


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["transfer"], "no task given: name one (--target NAME), or give your own rows with --data FILE"),
        (["transfer", "--target", "nothing.csv"], "no file nothing.csv"),
        (["transfer", "--target", "boolk"], "unknown task 'boolk'; did you mean boolq"),
        (["transfer", "--target", "{csv}", "--task-name", "my.csv"], "task name 'my.csv': give one of a to z"),
        (["transfer", "--target", "{csv}", "--kind", "clasification"], "unknown kind"),
        (["fuse", "--kind", "regression", "--target", "boolq"], "--kind goes with --data"),
        (["check", "--data", "{csv}", "--target", "boolq"], "'boolq' is not the task of --data, 'mine'"),
        (["train-adapters", "--data", "{csv}", "--label-column", "lable"], "no column 'lable'; did you mean label"),
        (["train-adapters", "--data", "{csv}", "--kind", "clasification"], "unknown kind"),
        (["train-adapters", "--data", "nothing.csv"], "nothing.csv"),
        (["tasks", "remove", "mine"], "unknown added task 'mine'"),
        (["tasks", "add", "nothing.yaml"], "no task file or folder nothing.yaml"),
        (["tasks", "list", "--language", "xx"], "unknown language 'xx'"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, capsys, arguments, part):
    (tmp_path / "mine.csv").write_text(ROWS)
    given = [one.format(csv=tmp_path / "mine.csv") for one in arguments]
    assert main([*given, "--home", str(tmp_path / "home"), "--offline"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert part in error[-1] and error[-1].startswith("error: ")


def test_list_filters(tmp_path, capsys):
    def names(*options):
        assert main(["tasks", "list", "--json", "--home", str(tmp_path), *options]) == 0
        return {task["name"] for task in json.loads(capsys.readouterr().out)["tasks"]}

    everything = names()
    assert names("--language", "de") and names("--language", "de") < everything
    assert "go_emotions" in names("--kind", "multi_label_classification", "--licence", "apache")
    assert names("--suite", "glue", "--kind", "regression") == {"stsb"}
