"""The documents name what there is: every document, every variable of the environment, every arm of a check."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_readme_links_every_document():
    assert not [path.name for path in (ROOT / "docs").glob("*.md") if f"](docs/{path.name})" not in read("README.md")]


def test_every_variable_is_told():
    files = [path for folder in ("adaptmtl", "cli", "tests") for path in (ROOT / folder).rglob("*.py")]
    used = {name for path in files for name in re.findall(r"\bADAPTMTL_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8"))}
    assert used == set(re.findall(r"^\| `(ADAPTMTL_\w+)`", read("docs/architecture.md"), re.MULTILINE))


def test_every_arm_is_told_in_the_help_and_in_the_document():
    from adaptmtl.cli.main import app
    from adaptmtl.evaluation.arms import arms

    text = " ".join(CliRunner().invoke(app, ["check", "--help"]).stdout.split())
    document = read("docs/fusion.md")
    assert not [name for name in arms if name not in text or f"| `{name}`" not in document]


def test_every_kind_is_told():
    from adaptmtl.tasks.kind import kinds

    told = read("README.md").split("Kinds: ")[1].split(". Backbones")[0]
    assert not [name for name in kinds if name not in told]
