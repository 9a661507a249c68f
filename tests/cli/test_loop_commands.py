"""The whole loop by command, on a tiny backbone and a person's own tasks: train, rank, fuse, check, predict."""

import csv
import json
import random
import signal
import subprocess
import sys

import pytest
from tiny import write_tiny_backbone

from adaptmtl.cli.main import main

GOOD, BAD = ["good", "great", "happy", "won"], ["bad", "poor", "sad", "lost"]
NOUNS = ["dog", "cat", "house", "river", "city", "song", "book", "film", "game", "team"]
TASKS = ("opinion", "mood", "verdict")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a backbone, three tasks and their rows."""
    folder = tmp_path_factory.mktemp("loop")
    write_tiny_backbone(folder / "backbone")
    for seed, task in enumerate(TASKS):
        draw = random.Random(seed)
        with (folder / f"{task}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["t", "y"])
            for number in range(120):
                word = draw.choice(BAD if number % 2 else GOOD)
                rows.writerow([f"the {draw.choice(NOUNS)} {number} is {word}", "bad" if number % 2 else "good"])
        (folder / f"{task}.yaml").write_text(
            f"name: {task}\nkind: sequence_classification\nlabel_names: [bad, good]\n"
            f"rows: [{{type: file, train: {task}.csv, columns: {{text: t, label: y}}}}]\n"
        )
    return folder


@pytest.fixture(scope="module")
def training(place):
    options = ["--task-file", place, "--backbone", place / "backbone", "--steps", 12, "--max-length", 32, "--rank", 2]
    return [*map(str, options), *general(place)]


def general(place):
    return ["--home", str(place / "home"), "--offline"]


@pytest.fixture(scope="module")
def trained(place, training):
    assert main(["train-adapters", "--tasks", ",".join(TASKS), "--quiet", *training]) == 0


def run(capsys, *arguments):
    capsys.readouterr()
    status = main([str(one) for one in arguments])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out, err


def test_trained_adapters_are_in_the_zoo(capsys, place, trained):
    out, err = run(capsys, "zoo", "list", "--json", *general(place))
    assert err == ""
    assert [one["task"] for one in json.loads(out)["adapters"]] == sorted(TASKS)
    table, _ = run(capsys, "zoo", "list", *general(place))
    assert "training rows" in table and all(f"{task}-lora-" in table for task in TASKS)


def test_training_again_trains_nothing(capsys, training, trained):
    out, err = run(capsys, "train-adapters", "--tasks", "opinion", *training)
    assert "in the zoo as opinion-lora-" in err
    assert "opinion-lora-" in out and "accuracy" in out
    assert "evaluation rows" in out and "training rows" in out


def test_transfer_ranks_the_others(capsys, training, trained):
    out, err = run(capsys, "transfer", "--target", "verdict", "--json", "--quiet", *training)
    assert err == ""
    result = json.loads(out)
    assert sorted(one["task"] for one in result["sources"]) == ["mood", "opinion"]
    table, _ = run(capsys, "transfer", "--target", "verdict", *training)
    assert "mood" in table and "expected gain [90%]" in table and "past transfers to" in table
    assert max(map(len, table.splitlines()[2:-2])) <= 100


def test_an_automatic_choice_is_explained(capsys, training, trained):
    fuse = ["fuse", "--target", "verdict", "--budget", "4", "--quiet", *training]
    out, _ = run(capsys, *fuse)
    assert "held-out training rows" in out and "held-out score (alone)" in out and "gain after the trial" in out
    result = json.loads(run(capsys, *fuse, "--json")[0])
    assert result["choice"]["budget"] == "4" and result["choice"]["trial"]["trainings"] == 4
    assert {one["task"] for one in result["choice"]["table"]["sources"]} == {"mood", "opinion"}
    assert main(["fuse", "--target", "verdict", "--budget", "soon", *map(str, training)]) == 2
    assert "budget is 'soon'; give seconds" in capsys.readouterr().err


def test_fuse_then_show_then_predict(capsys, place, training, trained):
    fused = ["fuse", "--target", "verdict", "--sources", "mood,opinion", "--name", "verdict-fused", "--quiet"]
    out, _ = run(capsys, *fused, *training)
    assert "verdict-fused" in out and "accuracy" in out
    shown, _ = run(capsys, "zoo", "show", "verdict-fused", *general(place))
    assert "mood-lora-" in shown and "opinion-lora-" in shown
    manifest = json.loads(run(capsys, "zoo", "show", "verdict-fused", "--json", *general(place))[0])
    assert manifest["task"]["name"] == "verdict" and len(manifest["sources"]) == 2

    predict = ["predict", "--adapter", "verdict-fused", *general(place)]
    answers = json.loads(run(capsys, *predict, "the dog is good", "the cat is bad", "--json")[0])
    assert len(answers) == 2 and all(set(one["probabilities"]) == {"bad", "good"} for one in answers)
    rows = place / "new.jsonl"
    rows.write_text('{"text": "the dog is good"}\n{"text": "the cat is bad"}\n')
    assert json.loads(run(capsys, *predict, "--file", rows, "--json")[0]) == answers
    table, _ = run(capsys, *predict, "the dog is good")
    assert answers[0]["label"] in table and "the dog is good" in table


def test_check_prints_every_arm(capsys, training, trained):
    check = [
        "check",
        "--target",
        "verdict",
        "--sources",
        "mood",
        "--seeds",
        2,
        "--arms",
        "target_adapter,fused",
        "--quiet",
    ]
    result = json.loads(run(capsys, *check, "--json", *training)[0])
    assert [arm["name"] for arm in result["arms"]] == ["target_adapter", "fused"]
    table, _ = run(capsys, *check, *training)
    assert "target-only adapter" in table and "most frequent label" in table


def test_with_all_products_at_hand_no_model_code_is_imported(place, training, trained):
    """Commands repeated on a filled workspace are as quick as imports allow; torch alone takes 1 s, these 3 s more."""
    commands = [
        ["train-adapters", "--tasks", ",".join(TASKS)],
        ["transfer", "--target", "verdict"],
        ["fuse", "--target", "verdict", "--sources", "mood,opinion"],
        ["check", "--target", "verdict", "--sources", "mood", "--seeds", "2", "--arms", "target_adapter,fused"],
    ]
    commands = [[*command, "--quiet", "--json", *training] for command in commands]
    for command in commands:
        assert main(command) == 0
    code = (
        "import sys\nfrom adaptmtl.cli.main import main\n"
        f"assert [main(command) for command in {commands!r}] == [0] * {len(commands)}\n"
        "heavy = {'transformers', 'peft', 'accelerate', 'datasets', 'sklearn', 'scipy.stats', 'pandas', 'tokenizers'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, f"imported: {done.stderr}"


def test_the_target_among_its_sources_is_refused(capsys, training, trained):
    capsys.readouterr()
    assert main(["fuse", "--target", "mood", "--sources", "mood", *training]) == 2
    assert "error: target 'mood' is among its own sources" in capsys.readouterr().err


def test_push_and_pull_offline_are_refused(capsys, place, trained):
    for command in (["push", "mood", "me/mood"], ["pull", "me/mood"]):
        capsys.readouterr()
        assert main([*command, *general(place)]) == 2
        assert "the network is off; leave out --offline" in capsys.readouterr().err


def test_an_adapter_can_be_removed(capsys, place, training, trained):
    run(capsys, "train-adapters", "--tasks", "mood", "--seeds", 2, "--quiet", *training)
    listed = json.loads(run(capsys, "zoo", "list", "--task", "mood", "--json", *general(place))[0])["adapters"]
    assert {one["seed"] for one in listed} == {0, 1}
    name, key = next((one["name"], one["key"]) for one in listed if one["seed"] == 1)
    capsys.readouterr()
    assert main(["zoo", "remove", name[:-1], *general(place)]) == 2, "the beginning of a name is not enough"
    assert f"did you mean {name}" in capsys.readouterr().err
    assert run(capsys, "zoo", "remove", name, *general(place))[0] == f"removed {name} ({key})\n"
    capsys.readouterr()
    assert main(["zoo", "show", name, *general(place)]) == 2
    assert "unknown adapter" in capsys.readouterr().err


def test_ctrl_c_stops_training_in_one_line_and_leaves_nothing_half_made(place, training, trained):
    command = [sys.executable, "-m", "adaptmtl.cli.main", "train-adapters", "--tasks", "mood", *training]
    command[command.index("--steps") + 1] = "100000"
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    first = running.stderr.readline()  # the note on its rows: training begins
    assert "validation is 20% of the rows" in first
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    # where the signal falls into an import's exec, Python ends itself by that signal, which a shell shows as 130 too
    assert running.returncode in (130, -signal.SIGINT) and out == ""
    assert err == "\ninterrupted; run the same command again to go on\n"
    assert not list((place / "home" / "zoo" / "adapters").glob(".partial-*"))
