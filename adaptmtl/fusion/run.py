"""Trains a fusion of some sources for a target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adaptmtl.fusion.methods import FusedModel, SourceAdapter, fusions, trains_on_sources
from adaptmtl.training.adapter import train_adapter
from adaptmtl.training.data import TaskData
from adaptmtl.training.setup import Setup
from adaptmtl.zoo.index import Entry


def run_fusion(setup: Setup, target: TaskData, entries: Sequence[Entry], method: str, seed: int) -> FusedModel:
    """Trains a fusion without saving it; without sources, the target's own adapter.

    Sources go in by the order of their names, so that the order given does not matter to the last bit.
    """
    if not entries:
        return FusedModel(train_adapter(setup.workspace, setup.backbone, target, setup.recipe, seed))
    return fusions[method](setup, target, adapters_of(setup, entries), seed)


def rows_behind(setup: Setup, entries: Sequence[Entry]) -> dict[str, Any]:
    """Returns task -> what identifies the rows that it has now, for keys of products that are made of those.

    Tasks that are not known here have none.
    """
    known = [one for one in entries if one.task in setup.catalogue.tasks]
    return {one.task: setup.data(one.task, one.train_rows).train_identity for one in known}


def rows_in_key(setup: Setup, method: str, entries: Sequence[Entry]) -> dict[str, Any]:
    """Returns the part of a fusion's key that says which rows its method trains on before the target's, if any."""
    return {"source_rows": rows_behind(setup, entries)} if entries and trains_on_sources(method) else {}


def adapters_of(setup: Setup, entries: Sequence[Entry]) -> list[SourceAdapter]:
    """Loads sources as fusion sees them, in the order of their names."""
    ordered = sorted(entries, key=lambda one: (one.task, one.key))
    return [SourceAdapter(one.task, one.train_rows, one.load(backbone_hash=setup.backbone.hash)) for one in ordered]
