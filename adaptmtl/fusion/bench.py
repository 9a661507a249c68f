"""Sets of sources as the planner tries them: merged into one start, and really trained on part of the training rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adaptmtl.fusion.methods import start_from, trains_on_sources
from adaptmtl.fusion.run import adapters_of, rows_in_key, run_fusion
from adaptmtl.provenance import measured
from adaptmtl.selection.halving import HeldOut
from adaptmtl.selection.reading import STEP, training_tokens
from adaptmtl.storage import key_of, read_json, write_json
from adaptmtl.tasks.metrics import metrics
from adaptmtl.training.checkpoint import until_published
from adaptmtl.training.data import TaskData
from adaptmtl.training.score import score
from adaptmtl.training.setup import Setup
from adaptmtl.transfer.short_runs import hold_out
from adaptmtl.transfer.sides import Start
from adaptmtl.zoo.index import Entry

START_VERSION, TRIAL_VERSION = 4, 5


class FusionBench:
    """Makes and trains sets of sources for one target; what was trained before is read from the workspace.

    Args:
        setup: backbone, recipe.
        target: only its training rows are read; a quarter of them, and at most 250, are held out for scores.
        method: of fusion.
    """

    def __init__(self, setup: Setup, target: TaskData, method: str):
        self.setup, self.target, self.method = setup, target, method
        self.score = metrics[target.spec.main_metric].score
        self._parts: dict[int, TaskData] = {}

    def part(self, seed: int) -> TaskData:
        """Returns the training rows cut in two: to train on, and (as ``validation``) to score on.

        Every seed has its own cut: of few rows a single one would decide more than the sources do.
        """
        if seed not in self._parts:
            self._parts[seed] = hold_out(self.target, seed)
        return self._parts[seed]

    @property
    def held_out(self) -> int:
        """Training rows that a seed holds out."""
        return len(self.part(0).validation.rows)

    @property
    def overlap(self) -> float:
        """Share of the rows that one seed holds out which another seed, drawing anew, holds out too."""
        return self.held_out / len(self.target.train.rows)

    def price(self, entries: Sequence[Entry]) -> float:
        """What training one fusion costs, in trainings of the target alone; a trial's is counted as a whole one."""
        if not trains_on_sources(self.method):
            return 1.0
        seen = sum(float(entry.manifest().provenance.get("tokens_seen", 0)) for entry in entries)
        return 1.0 + STEP * seen / training_tokens(self.setup, self.target)

    def start(self, entries: Sequence[Entry]) -> Start:
        """Returns what a training from these sources begins with, as :func:`merge_and_tune` makes it."""
        return Start(
            task=" + ".join(sorted(entry.task for entry in entries)),
            key=key_of(step="start", version=START_VERSION, sources=sorted(entry.key for entry in entries)),
            train_rows=sum(entry.train_rows for entry in entries),
            weights=lambda: start_from(self.setup, [one.bundle for one in adapters_of(self.setup, entries)]),
        )

    def run(self, entries: Sequence[Entry], seed: int) -> HeldOut:
        """Trains a fusion, or without entries the target alone, and scores it on the held-out rows."""
        metric = self.target.spec.main_metric
        key = self.setup.key(
            "trial", trial_version=TRIAL_VERSION, train=self.target.train_identity, task=self.target.spec.name,
            sources=sorted(entry.key for entry in entries), method=self.method if entries else None, seed=seed,
            metric=metric, **rows_in_key(self.setup, self.method, entries),
        )  # fmt: skip
        path = self.setup.workspace.folder("trials", f"{key}.json")
        if (held := read_json(path)) is None:
            with until_published():
                with measured() as cost:
                    part = self.part(seed)
                    made = run_fusion(self.setup, part, entries, self.method, seed)
                    outputs = made.trained.outputs(self.setup.workspace, part.validation)
                    scored = score(part, part.validation, outputs)
                logs = made.logs
                cost.add(*(log.earlier for log in logs))
                held = {
                    "value": scored.values[metric], "statistics": scored.statistics[metric].tolist(),
                    "seconds": cost.seconds, "examples": sum(log.rows for log in logs),
                    "tokens": sum(log.tokens for log in logs),
                }  # fmt: skip
                write_json(path, held)
        return HeldOut(**{**held, "statistics": np.array(held["statistics"])})
