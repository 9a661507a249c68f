"""docs/tasks.md tells what is: its table is fresh, and its example of a package with tasks works as it stands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_package import build, install

from adaptmtl.errors import AdaptMTLError
from adaptmtl.tasks import catalogue as catalogue_module
from adaptmtl.tasks.catalogue import CatalogueError, load_catalogue
from adaptmtl.tasks.catalogue_table import with_table
from adaptmtl.tasks.kind import kinds

DOCUMENT = Path(__file__).parents[2] / "docs" / "tasks.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")


def test_the_table_is_fresh():
    assert with_table(TEXT, load_catalogue()) == TEXT, "run: python -m adaptmtl.tasks.catalogue_table docs/tasks.md"
    with pytest.raises(AdaptMTLError, match="has no lines"):
        with_table("nothing", load_catalogue())


def test_the_time_to_screen_sources_is_that_of_the_benchmark():
    results = DOCUMENT.parents[1] / "benchmarks" / "results" / "screen_overlap.json"
    cold, warm = json.loads(results.read_text())["table"]
    told = " ".join(TEXT.split())
    assert f"Screening {cold['sources']} sources ({cold['source_rows']:,} training rows, none left out)" in told
    assert f"takes {cold['cpu_seconds']:.0f} processor seconds and {cold['peak_mib']} MiB with nothing kept" in told
    assert (
        f"{cold['seconds']:.0f} s by the clock" in told
        and f"the comparison is {cold['parts']['comparison']:.0f} s" in told
    )
    assert f"it takes {warm['cpu_seconds']:.0f} processor seconds, {warm['seconds']:.0f} s by the clock" in told
    assert f"and {warm['peak_mib']} MiB" in told


def test_every_kind_is_told():
    assert all(f"| `{kind}` |" in TEXT for kind in kinds)


def test_the_example_works_as_it_stands(tmp_path):
    example = TEXT.split("<!-- example: begin -->")[1].split("<!-- example: end -->")[0]
    toml, code = (block.split("```")[0] for block in (example.split("```toml\n")[1], example.split("```python\n")[1]))
    assert len(code.strip().splitlines()) <= 20
    source, site = tmp_path / "source", tmp_path / "site"
    tasks = source / "my_tasks" / "tasks"
    tasks.mkdir(parents=True)
    (source / "pyproject.toml").write_text(toml)
    (source / "my_tasks" / "__init__.py").write_text(code)
    rows = "text,label\n" + "".join(f"row number {i},{'ab'[i % 2]}\n" for i in range(20))
    (tasks / "rows.csv").write_text(rows)
    (tasks / "mine.yaml").write_text(
        "name: mine\nkind: sequence_classification\nmetric: hit_rate\n"
        "rows: [{type: file, train: rows.csv, columns: {text: text, label: label}}]\n"
    )
    build(source, site)
    check = (
        "from adaptmtl.tasks.catalogue import load_catalogue\n"
        "from adaptmtl.tasks.load import load_rows\n"
        "from adaptmtl.tasks.metrics import evaluate_predictions\n"
        "from adaptmtl.workspace import Workspace\n"
        "from pathlib import Path\n"
        f"rows = load_rows(load_catalogue().task('mine'), Workspace(home=Path({str(tmp_path)!r})))\n"
        "held = rows.validation\n"
        "found = [held.rows[0]['label']] * len(held)\n"
        "print(evaluate_predictions(found, held, rows.spec))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, env={"PYTHONPATH": str(site), "PATH": ""}
    )
    assert done.returncode == 0, done.stderr
    assert "'hit_rate': 0.5" in done.stdout and "'accuracy': 0.5" in done.stdout


@pytest.mark.parametrize(
    ("module", "part"),
    [
        (
            "raise RuntimeError('broken on import')\n",
            "'x' (my_other:FOLDER) cannot be had: RuntimeError: broken on import",
        ),
        ("FOLDER = __import__('pathlib').Path(__file__).parent / 'bad'\n", "wrong.yaml: kind: Field required"),
    ],
)
def test_a_broken_package_is_named(tmp_path, monkeypatch, module, part):
    install(tmp_path, "my_tasks", "[adaptmtl.tasks]\nx = my_other:FOLDER\n")
    (tmp_path / "my_other.py").write_text(module)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "wrong.yaml").write_text("name: wrong\nrows: [{type: file, train: x.csv, columns: {}}]\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_other", raising=False)
    catalogue_module._installed.cache_clear()
    try:
        with pytest.raises(CatalogueError) as caught:
            load_catalogue()
        assert part in str(caught.value)
    finally:
        sys.modules.pop("my_other", None)
        catalogue_module._installed.cache_clear()
