"""Help pages: every command has one with an example, and they come quickly."""

import subprocess
import sys
import time

import pytest
import typer
from typer.testing import CliRunner

from adaptmtl.cli.main import app


def commands(group=None, before=()):
    """The program, its commands, and theirs."""
    group = group or typer.main.get_command(app)
    yield list(before)
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*before, name))


COMMANDS = list(commands())
SECONDS = 0.8


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example_of_the_command(command):
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0, result.output
    assert "Example" in result.stdout
    examples = result.stdout.split("Example")[1]
    assert " ".join(["adaptmtl", *command]) in examples


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_a_page_and_says_what_each_option_is(command):
    text = CliRunner().invoke(app, [*command, "--help"]).stdout
    assert max(map(len, text.split("Example")[0].splitlines())) <= 100
    options = [line.split("  ", 2)[-1] for line in text.splitlines() if line.startswith("  --")]
    assert all(option.strip() for option in options)
    assert "<" not in text  # a type's name in place of a word for a person


def test_training_options_stand_apart_from_general_ones():
    text = CliRunner().invoke(app, ["fuse", "--help"]).stdout
    order = [text.index(title) for title in ("\nOptions:", "\nTraining options:", "\nGeneral options:", "\nExamples:")]
    assert order == sorted(order)


def test_the_seed_of_transfer_is_that_of_folds_and_of_fuse_that_of_training():
    texts = {name: CliRunner().invoke(app, [name, "--help"]).stdout for name in ("transfer", "fuse")}
    assert "Seed of the probe's folds." in texts["transfer"] and "row order" not in texts["transfer"]
    assert "Seed of row order, head and dropout." in texts["fuse"]


def test_shown_defaults_are_those_of_the_library():
    from dataclasses import fields

    from adaptmtl.backbone.load import DEFAULT_BACKBONE
    from adaptmtl.cli.options import Training
    from adaptmtl.training.recipe import LEAST_STEPS, Encoding, Recipe

    told = next(field for field in fields(Training) if field.name == "epochs").type
    assert f"below {LEAST_STEPS} steps" in str(told)
    shown = {field.name: field.default for field in fields(Training)}
    recipe = Recipe()
    assert shown.pop("rank") == recipe.method.rank
    assert shown.pop("alpha") == recipe.method.alpha
    assert shown.pop("max_length") == Encoding().max_length
    assert shown.pop("backbone") == DEFAULT_BACKBONE
    assert (shown.pop("row_source"), shown.pop("rows"), shown.pop("eval_rows")) == ("auto", None, None)
    assert shown == {name: getattr(recipe, name) for name in shown}


def test_help_is_quick_and_imports_no_model_code():
    code = (
        "import sys\nfrom adaptmtl.cli.main import main\nmain(['--help'])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'numpy', 'pydantic', 'rich'} & set(sys.modules)\n"
        "sys.exit(str(sorted(heavy)) if heavy else 0)"
    )
    took = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        took.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        if took[-1] < SECONDS:
            break
    assert min(took) < SECONDS, took  # about 0.2 s on an idle machine


def test_version_is_that_of_the_package():
    import adaptmtl

    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"adaptmtl {adaptmtl.__version__}\n")
