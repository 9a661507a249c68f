"""What people get wrong: one line on stderr, exit 2, nothing half-made, and no traceback."""

import json
import shutil

import pytest
from tiny import write_tiny_backbone
from toy_tasks import write_rows, write_task

from adaptmtl.adapters.bundle import ADAPTER
from adaptmtl.cli.main import main
from adaptmtl.workspace import Workspace
from adaptmtl.zoo.store import Zoo

COLUMNS = "rows: [{type: file, train: own.csv, validation: held.csv, columns: {text: t, label: y}}]\n"
GOOD = "t,y\n" + "".join(
    f"the dog {n} is {'good' if n % 2 else 'bad'},{'good' if n % 2 else 'bad'}\n" for n in range(12)
)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_backbone):
    folder = tmp_path_factory.mktemp("bad")
    (folder / "tasks").mkdir()
    for name in ("opinion", "mood", "colour"):
        write_task(folder / "tasks", name)
    done = [
        "train-adapters",
        "--tasks",
        "mood,colour",
        "--quiet",
        *options(folder / "tasks", folder / "home", tiny_backbone),
    ]
    assert main(done) == 0
    return folder


@pytest.fixture
def home(place, tmp_path):
    shutil.copytree(place / "home" / "zoo", tmp_path / "home" / "zoo")
    return tmp_path / "home"


def options(tasks, home, backbone):
    return ["--task-file", str(tasks), "--home", str(home), "--backbone", str(backbone), "--steps", "3",
            "--max-length", "32", "--rank", "2", "--offline"]  # fmt: skip


def refused(capsys, arguments, *parts):
    """Runs a command that must end with one error line that holds all ``parts``."""
    capsys.readouterr()
    status = main([str(one) for one in arguments])
    out, err = capsys.readouterr()
    last = err.rstrip("\n").splitlines()[-1] if err else ""
    assert (status, out) == (2, ""), (status, out, err)
    assert last.startswith("error: ") and "Traceback" not in err
    assert sum(line.startswith("error: ") for line in err.splitlines()) == 1
    for part in parts:
        assert part in last, last
    return last


def keys(home):
    return {entry.key for entry in Zoo(Workspace(home=home, mirror=None, offline=True)).entries()}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train-adapters", "--tasks", "opinon"], ["unknown task 'opinon'; did you mean opinion"]),
        (["train-adapters", "--tasks", "opinion,moood"], ["unknown task 'moood'; did you mean mood"]),
        (["train-adapters"], ["no tasks given", "--tasks"]),
        (["train-adapters", "--suite", "embeded"], ["unknown suite 'embeded'; did you mean embedded"]),
        (["train-adapters", "--tasks", "opinion", "--rows", "1"], ["1 training rows were asked for; at least 2"]),
        (["train-adapters", "--tasks", "opinion", "--rows", "0"], ["--rows"]),
        (["train-adapters", "--tasks", "opinion", "--learning-rate", "0"], ["learning_rate is 0"]),
        (["train-adapters", "--tasks", "opinion", "--lower-layers", "9"], ["lower_layers is 9", "4 layers"]),
        (["train-adapters", "--tasks", "opinion", "--row-source", "hubb"], ["unknown row source 'hubb'"]),
        (["train-adapters", "--tasks", "trec", "--row-source", "hub"], ["trec"]),
        (["transfer", "--target", "opinon"], ["unknown task 'opinon'; did you mean opinion"]),
        (["transfer", "--target", "opinion", "--sources", "moood"], ["unknown source 'moood'; did you mean mood"]),
        (["transfer", "--target", "mood", "--sources", "mood"], ["target 'mood' is among its own sources"]),
        (["fuse", "--target", "mood", "--sources", "colour,mood"], ["target 'mood' is among its own sources"]),
        (["fuse", "--target", "opinion", "--sources", "trec"], ["source 'trec' has no adapter", "--tasks trec"]),
        (["fuse", "--target", "opinion", "--sources", ""], ["give 'auto' or"]),
        (["fuse", "--target", "opinion", "--method", "mrge"], ["unknown fusion method 'mrge'; did you mean merge"]),
        (["check", "--target", "opinion", "--arms", "fusd"], ["unknown arm 'fusd'; did you mean fused"]),
        (["check", "--target", "opinion", "--seeds", "0"], ["--seeds"]),
        (["check", "--target", "colour", "--sources", "colour"], ["target 'colour' is among its own sources"]),
    ],
)  # fmt: skip
def test_wrong_names_and_numbers(capsys, place, home, tiny_backbone, arguments, parts):
    before = keys(home)
    refused(capsys, [*arguments, *options(place / "tasks", home, tiny_backbone)], *parts)
    assert keys(home) == before and not (home / "checks").exists()


@pytest.mark.parametrize(("backbone", "part"), [("minilmm", "did you mean minilm"), ("no/such", "'no/such'")])
def test_an_unknown_backbone(capsys, place, home, backbone, part):
    refused(capsys, ["transfer", "--target", "opinion", *options(place / "tasks", home, backbone)], "backbone", part)


@pytest.mark.parametrize(
    ("train", "held", "parts"),
    [
        ("a,y\nx,good\ny,bad\n", GOOD, ["own.csv, train", "no column 't'", "columns there: a, y"]),
        (GOOD, "t,y\nthe dog,goood\nthe cat,bad\n", ["validation row 1", "unknown label 'goood'; did you mean good"]),
        ("t,y\nthe dog,good\n,bad\n", GOOD, ["train row 2", "the text is empty"]),
        ("", GOOD, ["own.csv holds no rows"]),
        ("t,y\n", GOOD, ["own.csv holds no rows"]),
        ("t,y\nthe dog,good\n", GOOD, ["own"]),
        ("t,y\nthe dog,good\nthe cat,good\n", "t,y\na dog,good\nb,good\n", ["every row has the label 'good'"]),
        ("t,y\nthe dog,\nthe cat,good\n", GOOD, ["train row 1", "no label"]),
        ("t,y\nthe dog,good,more\n", GOOD, ["line 2", "3 fields where the header has 2"]),
        (b"t,y\nthe dog,good\nthe c\xe4t,bad\n", GOOD, ["line 3", "0xe4", "not UTF-8"]),
        (None, GOOD, ["no file", "own.csv"]),
    ],
)
def test_wrong_files(capsys, tmp_path, tiny_backbone, train, held, parts):
    (tmp_path / "own.yaml").write_text("name: own\nkind: sequence_classification\n" + COLUMNS)
    if train is not None:
        (tmp_path / "own.csv").write_bytes(train if isinstance(train, bytes) else train.encode())
    (tmp_path / "held.csv").write_text(held)
    given = options(tmp_path / "own.yaml", tmp_path / "home", tiny_backbone)
    refused(capsys, ["train-adapters", "--tasks", "own", *given], *parts)
    assert keys(tmp_path / "home") == set()


@pytest.mark.parametrize("value", ["nan", "", "inf", "three", None])
def test_labels_of_a_regression_that_are_no_numbers(capsys, tmp_path, tiny_backbone, value):
    write_task(tmp_path, "size")
    rows = [json.loads(line) for line in (tmp_path / "size-train.jsonl").read_text().splitlines()]
    rows[4]["label"] = float(value) if value in ("nan", "inf") else value
    write_rows(tmp_path / "size-train.jsonl", rows)
    given = options(tmp_path / "size.yaml", tmp_path / "home", tiny_backbone)
    refused(capsys, ["train-adapters", "--tasks", "size", *given], "train row 5, column 'label'")


def test_one_enormous_text_is_no_error(capsys, tmp_path, tiny_backbone):
    (tmp_path / "own.yaml").write_text("name: own\nkind: sequence_classification\n" + COLUMNS)
    (tmp_path / "own.csv").write_text(GOOD + f"{'the dog ' * 12_500},good\n")
    (tmp_path / "held.csv").write_text(GOOD + f"{'the cat ' * 12_500},bad\n")
    given = options(tmp_path / "own.yaml", tmp_path / "home", tiny_backbone)
    assert main(["train-adapters", "--tasks", "own", *given]) == 0
    assert "own-lora-" in capsys.readouterr().out


def test_a_damaged_source_is_named_and_training_mends_it(capsys, place, home, tiny_backbone):
    zoo = Zoo(Workspace(home=home, mirror=None, offline=True))
    path = zoo.get("mood").path / ADAPTER
    raw = path.read_bytes()
    given = options(place / "tasks", home, tiny_backbone)
    for damaged in (raw[: len(raw) // 2], b"", raw[:-1] + bytes([raw[-1] ^ 1])):
        path.write_bytes(damaged)
        fuse = ["fuse", "--target", "opinion", "--sources", "mood", *given]
        refused(capsys, fuse, "adapter_model.safetensors was changed or truncated", "make or pull the adapter again")
        refused(capsys, ["predict", "--adapter", "mood", "hi", "--home", home, "--offline"], "was changed or truncated")
    assert main(["train-adapters", "--tasks", "mood", *given]) == 0
    assert path.read_bytes() == raw


def test_another_backbone_of_the_same_shape(capsys, place, home, tiny_backbone, tmp_path):
    other = write_tiny_backbone(tmp_path / "other", seed=1)
    predict = ["predict", "--adapter", "mood", "the dog is good", "--home", home, "--offline"]
    refused(capsys, [*predict, "--backbone", other], "was trained on backbone", "--backbone")
    given = options(place / "tasks", home, other)
    refused(
        capsys, ["fuse", "--target", "opinion", "--sources", "mood", *given], "source 'mood' has no adapter on backbone"
    )
    refused(capsys, ["fuse", "--target", "opinion", *given], "the zoo has no source for 'opinion'")


def test_a_backbone_folder_that_was_changed_or_is_gone(capsys, place, home, tmp_path, tiny_backbone):
    folder = tmp_path / "backbone"
    shutil.copytree(tiny_backbone, folder)
    given = options(place / "tasks", home, folder)
    assert main(["train-adapters", "--tasks", "opinion", "--quiet", *given]) == 0
    (name,) = [entry.name for entry in Zoo(Workspace(home=home, mirror=None, offline=True)).find(task="opinion")]
    predict = ["predict", "--adapter", name, "the dog is good", "--home", home, "--offline"]
    assert main([str(one) for one in predict]) == 0
    shutil.rmtree(folder)
    write_tiny_backbone(folder, seed=1)
    refused(capsys, predict, "was trained on backbone", "another one")
    shutil.rmtree(folder)
    refused(capsys, predict, f"adapter {name} was trained on backbone", "is not found from here", "--backbone")


def test_a_full_disk_while_saving(capsys, place, home, tiny_backbone, monkeypatch):
    import adaptmtl.storage as storage

    before = keys(home)

    def full(_):
        raise OSError(28, "No space left on device")

    given = options(place / "tasks", home, tiny_backbone)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_sync_tree", full)
        refused(
            capsys, ["train-adapters", "--tasks", "opinion", *given], "disk full while writing", "run the command again"
        )
        refused(capsys, ["fuse", "--target", "opinion", "--sources", "mood", *given], "disk full while writing")
        check = [
            "check",
            "--target",
            "opinion",
            "--sources",
            "mood",
            "--seeds",
            "1",
            "--arms",
            "target_adapter",
            *given,
        ]
        refused(capsys, check, "disk full while writing")
    assert keys(home) == before
    assert not [path for path in home.rglob(".partial-*")]
    assert main(["train-adapters", "--tasks", "opinion", "--quiet", *given]) == 0


@pytest.mark.parametrize("name", ["no such", "../up", ""])
def test_a_name_that_cannot_be_an_alias(capsys, place, home, tiny_backbone, name):
    given = options(place / "tasks", home, tiny_backbone)
    refused(capsys, ["fuse", "--target", "opinion", "--sources", "mood", "--name", name, *given], "cannot be an alias")
