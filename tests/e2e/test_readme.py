"""The README's Python example runs as it stands, on fewer rows; its tables are those of the results files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from adaptmtl.workspace import Workspace
from adaptmtl.zoo.store import Zoo

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example() -> str:
    found = re.search(r"<!-- example -->\n```python\n(.*?)```", README, re.DOTALL)
    assert found, "README.md has no marked example"
    return found.group(1)


def test_example_is_at_most_ten_lines() -> None:
    assert len([line for line in example().splitlines() if line.strip()]) <= 10


@pytest.mark.real
def test_example_runs(
    real_workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADAPTMTL_HOME", str(tmp_path))
    for part in ("backbones", "archives"):  # downloads are kept between runs, and nothing else
        kept = real_workspace.folder(part)
        kept.mkdir(parents=True, exist_ok=True)
        (tmp_path / part).symlink_to(kept)
    code = example().replace("rows=500", "rows=16").replace("seeds=3", "seeds=1")
    code = code.replace('make_setup("minilm", ', 'make_setup("minilm", eval_rows=20, ').replace(
        "max_length=96", "max_length=32"
    )
    code = code.replace('setup.catalogue.suite("embedded")', '["boolq", "privacy_policy", "social_i_qa"]')
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "privacy_policy" in printed and "full multi-task on all, then target" in printed
    made = Zoo(Workspace(home=tmp_path, mirror=None, offline=True)).entries()
    assert {entry.task for entry in made} == {"boolq", "privacy_policy", "social_i_qa"}


@pytest.mark.parametrize("script", ["check_tables.py", "performance_tables.py"])
def test_tables_are_those_of_the_results_files(script: str) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / script), "--check"])
    assert done.returncode == 0, f"a document is out of date: run python benchmarks/{script}"
