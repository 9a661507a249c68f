"""The kind of another package, as docs/extending.md has it, goes all the way from a file to a prediction."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fake_package import build, install

TEXT = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
EXAMPLE = TEXT.split("<!-- example: begin -->")[1].split("<!-- example: end -->")[0]
WORDS = {"one": "bad", "two": "poor", "three": "good", "four": "great"}
LOOP = """
import json
import sys
from pathlib import Path
from adaptmtl.adapters.methods import LoraMethod
from adaptmtl.evaluation.predict import load_predictor
from adaptmtl.fusion.fuse import ensure_fused
from adaptmtl.tasks.infer import infer_task
from adaptmtl.training.recipe import Encoding, Recipe
from adaptmtl.training.setup import make_setup
from adaptmtl.transfer.estimate import DEFAULT_ESTIMATORS, estimate
from adaptmtl.workspace import Workspace
from adaptmtl.zoo.build import train_adapters

home, backbone, table = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
recipe = Recipe(method=LoraMethod(rank=4), lower_layers=1, steps=120, batch_size=16, learning_rate=1e-2)
setup = make_setup(backbone, workspace=Workspace(home=home, offline=True), recipe=recipe, encoding=Encoding(32))
stars, opinion = train_adapters(setup, ["stars", "opinion"])
predictor = load_predictor(stars.name, setup.workspace)
own = infer_task(table, kind="ordinal_regression")
names = [*DEFAULT_ESTIMATORS, "leep"]
scored = {target: estimate(setup, setup.data(target), [source], names=names).sources[0]
          for target, source in (("stars", opinion), ("opinion", stars))}
quick = setup.with_steps(3)
fused = ensure_fused(quick, "stars", [opinion], "merge", None, 0)
print(json.dumps({
    "metrics": {name: figure.value for name, figure in stars.manifest().metrics.items()},
    "task": stars.manifest().task.model_dump(mode="json"),
    "head": list(stars.load().head["output.weight"].shape),
    "card": stars.path.joinpath("README.md").read_text(),
    "columns": predictor.columns,
    "predictions": predictor.predict([{"text": "the film 7 is bad"}, {"text": "the book 8 is great"}]),
    "guessed": {"kind": own.spec.kind, "columns": own.spec.rows[0].columns},
    "scores": {target: {name: score.value for name, score in one.scores.items()} for target, one in scored.items()},
    "skipped": {target: one.skipped for target, one in scored.items()},
    "fused": [fused.kind, fused.manifest().metrics["spearman"].n],
}))
"""


def blocks() -> dict[str, str]:
    return {kind: body for kind, body in re.findall(r"```(\w+)\n(.*?)```", EXAMPLE, re.DOTALL)}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package as pip would install it."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    tasks = source / "ordinal" / "tasks"
    tasks.mkdir(parents=True)
    (source / "pyproject.toml").write_text(blocks()["toml"])
    (source / "ordinal" / "__init__.py").write_text(blocks()["python"])
    (tasks / "stars.yaml").write_text(blocks()["yaml"])
    draw, names = random.Random(0), list(WORDS)
    rows = [(draw.choice(names), draw.choice(["film", "book", "song"]), number) for number in range(160)]
    lines = [f"the {noun} {number} is {WORDS[name]},{name}" for name, noun, number in rows]
    (tasks / "stars.csv").write_text("\n".join(["text,stars", *lines, ""]))
    lines = [line.replace(",one", ",no").replace(",two", ",no") for line in lines]
    lines = [line.replace(",three", ",yes").replace(",four", ",yes") for line in lines]
    (tasks / "opinion.csv").write_text("\n".join(["text,label", *lines, ""]))
    (tasks / "opinion.yaml").write_text(
        "name: opinion\nkind: sequence_classification\n"
        "rows: [{type: file, train: opinion.csv, columns: {text: text, label: label}}]\n"
    )
    build(source, folder)
    return folder


def python(package: Path | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [*([str(package)] if package else []), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def done(package: Path, home: Path, tiny_backbone: str) -> dict:
    ran = python(package, "-c", LOOP, str(home), tiny_backbone, str(package / "ordinal" / "tasks" / "stars.csv"))
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_the_example_is_short():
    assert len([line for line in blocks()["python"].splitlines() if line.strip()]) <= 20


def test_it_trains_is_saved_and_is_loaded(done):
    """Loading checks that the saved outputs are reproduced, so an answer is a whole round trip."""
    assert done["task"]["kind"] == "ordinal_regression" and done["task"]["metric"] == "spearman"
    assert done["head"] == [3, 32]  # a threshold less than labels
    assert set(done["metrics"]) == {"spearman", "accuracy"}
    assert done["metrics"]["spearman"] > 0.8 and done["metrics"]["accuracy"] > 0.6
    assert "ordinal regression" in done["card"]


def test_it_predicts(done):
    assert done["columns"] == ["text"]  # what it was trained on
    assert done["predictions"] == [{"label": "one"}, {"label": "four"}]


def test_it_is_estimated_for_transfer_as_target_and_as_source_and_is_fused(done):
    assert set(done["scores"]["stars"]) >= {"logme", "probe", "leep"}
    assert set(done["scores"]["opinion"]) == set(done["scores"]["stars"]) - {"leep"}
    assert "its head chooses no class" in done["skipped"]["opinion"]["leep"]  # thresholds are no labels' probabilities
    assert done["fused"] == ["ordinal_regression", 32]


def test_a_persons_own_file_is_read_as_the_kind(done):
    assert done["guessed"] == {"kind": "ordinal_regression", "columns": {"text": "text", "label": "stars"}}


def test_without_the_package_an_adapter_of_its_kind_is_listed_and_refused_in_one_line(done, home):
    code = (
        "import sys\nfrom pathlib import Path\nfrom adaptmtl.errors import AdapterError\n"
        "from adaptmtl.evaluation.predict import load_predictor\nfrom adaptmtl.workspace import Workspace\n"
        "from adaptmtl.zoo.store import Zoo\n"
        "workspace = Workspace(home=Path(sys.argv[1]), offline=True)\n"
        "print(sorted(entry.kind for entry in Zoo(workspace).entries()))\n"
        "try:\n    load_predictor('stars-lora', workspace)\nexcept AdapterError as error:\n    print(error)\n"
    )
    ran = python(None, "-c", code, str(home))
    assert ran.returncode == 0, ran.stderr
    listed, refused = ran.stdout.strip().splitlines()
    assert listed == "['ordinal_regression', 'ordinal_regression', 'sequence_classification']"
    assert "is of kind 'ordinal_regression', which no installed package brings" in refused
    assert refused.endswith("install the one that does")


def test_commands_know_the_kind(package):
    code = (
        "import sys\nfrom adaptmtl.cli.main import main\nsys.argv = ['adaptmtl', 'tasks', 'list', '--kind', "
        "'ordinal_regression', '--json']\ntry:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
    )
    ran = python(package, "-c", code)
    assert ran.returncode == 0, ran.stderr
    assert [task["name"] for task in json.loads(ran.stdout)["tasks"]] == ["stars"]


def test_kinds_are_known_without_model_code():
    code = (
        "import sys\nfrom adaptmtl.tasks.kind import kinds\nassert len(list(kinds)) >= 6\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'sklearn', 'scipy'} & set(sys.modules)))\n"
    )
    assert python(None, "-c", code).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("raise RuntimeError('broken')", "RuntimeError: broken"),
        ("KIND = 3", "it is a int, not a Kind"),
        ("from adaptmtl.tasks.kinds import TextKind\nKIND = TextKind('other')", "the kind calls itself 'other'"),
    ],
)
def test_a_broken_kind_is_named_in_one_line(tmp_path, module, said):
    install(tmp_path, "mine", "[adaptmtl.kinds]\nmine = mine:KIND\n")
    (tmp_path / "mine.py").write_text(module)
    code = (
        "from adaptmtl.errors import AdaptMTLError\nfrom adaptmtl.tasks.kind import kinds\n"
        "for name in ('mine', 'regression'):\n"
        "    try:\n        kinds[name]\n    except AdaptMTLError as error:\n        print(error)\n"
    )
    ran = python(tmp_path, "-c", code)
    lines = ran.stdout.strip().splitlines()
    assert ran.returncode == 0 and len(lines) == 2 and lines[0] == lines[1], ran.stderr  # also the second time
    assert lines[0].startswith("kind 'mine' (mine:KIND) of another package cannot be used: ") and said in lines[0]
    assert lines[0].endswith("update or uninstall that package")
