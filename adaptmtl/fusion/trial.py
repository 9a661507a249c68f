"""A trial on held-out training rows says whether the target is better off with some sources or alone.

The guard asks for proof source by source, from a probe. Where it finds none, and still the measured gain of some
sources is above 0, the question is put directly: both ways are trained for the same steps on three quarters of the
target's training rows and scored on the rest. Evaluation rows play no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from adaptmtl.fusion.run import run_fusion
from adaptmtl.provenance import measured
from adaptmtl.storage import read_json, write_json
from adaptmtl.training.data import TaskData
from adaptmtl.training.loop import Log
from adaptmtl.training.score import score
from adaptmtl.training.setup import Setup
from adaptmtl.zoo.index import Entry

VERSION = 2
HELD_OUT = 0.25
MOST_HELD_OUT = 250
SEEDS = (0, 1)


@dataclass(frozen=True)
class Trial:
    """What the trial found.

    Attributes:
        fused, alone: score of the main metric on the held-out training rows, per seed.
        rows: held-out rows.
        seconds: wall seconds of all its trainings, when they were done.
        examples, tokens: seen in these trainings.
    """

    fused: tuple[float, ...]
    alone: tuple[float, ...]
    rows: int
    seconds: float = 0.0
    examples: int = 0
    tokens: int = 0

    @property
    def gain(self) -> float:
        """Mean score with the sources minus mean score alone."""
        return float(np.mean(self.fused) - np.mean(self.alone))


def try_sources(setup: Setup, target: TaskData, entries: Sequence[Entry], method: str) -> Trial:
    """Trains the fusion of some sources and the target alone on a part of the training rows, and scores both.

    Args:
        setup: backbone, recipe; a trial done before is read from its workspace.
        target: only its training rows are read; at most a quarter of them, and 250, are held out.
        entries: the sources' adapters.
        method: of fusion.
    """
    key = setup.key("trial", trial_version=VERSION, train=target.train_identity, task=target.spec.name,
                    sources=sorted(entry.key for entry in entries), method=method, seeds=SEEDS)  # fmt: skip
    path = setup.workspace.folder("trials", f"{key}.json")
    if (held := read_json(path)) is not None:
        return Trial(**{**held, "fused": tuple(held["fused"]), "alone": tuple(held["alone"])})
    part = target.hold_out(HELD_OUT, MOST_HELD_OUT, seed=0)
    logs: list[Log] = []

    def scores(sources: Sequence[Entry]) -> tuple[float, ...]:
        found = []
        for seed in SEEDS:
            made = run_fusion(setup, part, sources, method, seed)
            logs.extend((made.trained.log, made.before or Log()))
            outputs = made.trained.outputs(setup.workspace, part.validation)
            found.append(score(part, part.validation, outputs).values[part.spec.main_metric])
        return tuple(found)

    with measured() as cost:
        fused, alone = scores(entries), scores(())
    trial = Trial(fused, alone, len(part.validation.rows), cost.seconds,
                  examples=sum(log.rows for log in logs), tokens=sum(log.tokens for log in logs))  # fmt: skip
    write_json(path, asdict(trial))
    return trial
