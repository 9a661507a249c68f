"""Every task of a mirror at hand loads whole, has as many rows as its manifest says, and trains for a few steps."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from adaptmtl.adapters.methods import LoraMethod
from adaptmtl.tasks.catalogue import load_catalogue
from adaptmtl.tasks.load import load_rows
from adaptmtl.tasks.sources.mirror import in_mirror
from adaptmtl.tasks.spec import HubRows
from adaptmtl.training.adapter import train_adapter
from adaptmtl.training.recipe import Encoding, Recipe
from adaptmtl.training.score import score
from adaptmtl.training.setup import make_setup
from adaptmtl.workspace import Workspace

MIRROR = os.environ.get("ADAPTMTL_TEST_MIRROR")
#: Rows that the manifest counts and a task leaves out, as its notes say: answers that stand elsewhere, labels to drop.
MOST_LEFT_OUT = 0.04
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not MIRROR, reason="NOT RUN: set ADAPTMTL_TEST_MIRROR to a mirror folder"),
]


def held_tasks():
    mirror = Path(MIRROR or ".")
    return {
        task.name: (task, rows)
        for task in load_catalogue().tasks.values()
        for rows in task.rows
        if isinstance(rows, HubRows) and in_mirror(rows, mirror)
    }


@pytest.mark.timeout(900)
def test_every_entry_of_the_manifest_is_a_task_with_its_rows(tmp_path):
    workspace = Workspace(home=tmp_path, mirror=Path(MIRROR), offline=True)
    manifest = json.loads((Path(MIRROR) / "manifest.json").read_text())
    tasks, wrong = held_tasks(), []
    for entry in manifest:
        found = [
            (task, rows)
            for task, rows in tasks.values()
            if (rows.id, rows.config or "default") == (entry["hub_id"], entry["config"])
        ]
        if not found:
            wrong.append(f"{entry['task']}: no task declares it")
        for task, rows in found:
            loaded = load_rows(task, workspace, "mirror")
            for part, split in (("train", loaded.train), ("validation", loaded.validation)):
                counted, missing = entry["rows"][rows.splits[part]], entry["rows"][rows.splits[part]] - len(split)
                noted = any(note.startswith(f"{part}: left out {missing} rows") for note in loaded.notes)
                if missing and not (noted and 0 < missing <= MOST_LEFT_OUT * counted):
                    wrong.append(f"{task.name} {part}: {len(split)} rows, {counted} in the manifest")
            facts = task.verified
            if facts is None or (facts.source == "mirror" and facts.train != len(loaded.train)):
                wrong.append(f"{task.name}: 'verified' says {facts}")
    assert not wrong, "\n".join(wrong)
    assert len(manifest) >= 96


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_task_trains_for_a_few_steps(tmp_path, tiny_backbone):
    workspace = Workspace(home=tmp_path, mirror=Path(MIRROR), offline=True)
    recipe = Recipe(method=LoraMethod(rank=2, alpha=4.0), steps=3, batch_size=4)
    setup = make_setup(
        tiny_backbone, workspace=workspace, recipe=recipe, encoding=Encoding(32), row_source="mirror", eval_rows=16
    )
    wrong = []
    for name in held_tasks():
        data = setup.data(name, 32)
        trained = train_adapter(workspace, setup.backbone, data, recipe, 0)
        values = score(data, data.validation, trained.outputs(workspace, data.validation)).values
        if trained.log.steps != 3 or not all(-1 <= value <= 1 for value in values.values()):
            wrong.append(f"{name}: {trained.log.steps} steps, {values}")
    assert not wrong, "\n".join(wrong)
