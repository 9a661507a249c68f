"""Short real trainings on a part of the target's training rows, scored on the rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from adaptmtl.adapters.bundle import Bundle
from adaptmtl.adapters.methods import weights_from_peft
from adaptmtl.training.adapter import train_adapter
from adaptmtl.training.data import TaskData
from adaptmtl.training.gradients import split_losses
from adaptmtl.training.setup import Setup
from adaptmtl.transfer.evidence import method_of

STEPS = 32
HELD_OUT = 0.25
MOST_HELD_OUT = 250


def hold_out(target: TaskData, seed: int = 0) -> TaskData:
    """Cuts a quarter of the target's training rows off, at most 250, drawn by ``seed``: 0 for all short runs."""
    return target.hold_out(HELD_OUT, MOST_HELD_OUT, seed)


def short_run(setup: Setup, part: TaskData, source: Bundle | None, seed: int, steps: int | None = None) -> np.ndarray:
    """Trains from a source's adapter for a few steps and scores held-out training rows.

    All runs of a target share the head's first weights and the order of batches. The learning rate warms up and decays
    within these steps.

    Args:
        setup: backbone, recipe.
        part: from :func:`hold_out`; its ``validation`` are training rows of the target.
        source: adapter to start from, in its own rank and scale; None for a fresh one.
        seed: of the head, batches and dropout.
        steps: optimiser steps; 32 by default.

    Returns:
        (rows,) minus the loss of each held-out row (mean over its windows).
    """
    steps = steps or STEPS
    recipe = replace(setup.recipe, steps=steps)
    start = None
    if source is not None:
        recipe, start = replace(recipe, method=method_of(source, setup)), weights_from_peft(source.adapter)
    trained = train_adapter(setup.workspace, setup.backbone, part, recipe, seed, start=start,
                            description=f"{part.spec.name}, {steps} steps")  # fmt: skip
    losses = split_losses(setup, trained.model, part.validation, trained.k).astype(np.float64)
    encoded = part.validation.encoded
    row_of = np.unique(encoded.feature_row[encoded.unit_offsets[:-1]], return_inverse=True)[1]
    return -np.bincount(row_of, weights=losses) / np.bincount(row_of)
