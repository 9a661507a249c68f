"""Puts what was measured on a target into the history, with what later estimates have to know of the target."""

from __future__ import annotations

from collections.abc import Sequence

from adaptmtl.training.data import TaskData
from adaptmtl.training.setup import Setup
from adaptmtl.transfer.history import History, Transfer
from adaptmtl.zoo.build import text_embedding


def remember_transfers(setup: Setup, target: TaskData, measured: Sequence[Transfer]) -> None:
    """Records transfers to a target, and the mean embedding of its texts where the history has none yet.

    Args:
        setup: backbone, workspace.
        target: only its training rows are read.
        measured: transfers to it; nothing happens without any.
    """
    if not measured:
        return
    history, name = History(setup.workspace), target.spec.name
    known = history.history(setup.backbone.hash).embeddings
    history.record(measured, {} if name in known else {name: text_embedding(setup, target).numpy()})
