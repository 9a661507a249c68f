"""Successive halving: train the best candidates on a part of the target's training rows, and drop the worse half.

Every round trains the candidates that are left, and the target alone, with one more seed, and scores them on held-out
training rows, other ones for every seed. What was predicted before counts as the prior of each gain, so that one lucky
seed does not decide.
After Jamieson and Talwalkar 2016 (Non-stochastic Best Arm Identification and Hyperparameter Optimization, AISTATS),
with seeds in place of steps: short trainings favour sources that start fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adaptmtl.selection.gains import Gain
from adaptmtl.statistics import ScoreFunction, paired
from adaptmtl.transfer.history import LEAST_BASELINE

Sources = tuple[str, ...]
#: The choice is clear when the best candidate's gain has this probability of being above 0, or of not being so.
CLEAR = 0.95
#: Least rows of a seed to score on.
LEAST_HELD_OUT = 8
#: How far one seed moves a gain, over how far candidates' gains differ (single seeds of 9 targets: .5 to .8).
SEED_SHARE = 0.6
_RESAMPLES = 500


@dataclass(frozen=True, eq=False)
class HeldOut:
    """One training, scored on held-out training rows.

    Attributes:
        value: of the target's main metric.
        statistics: (rows, d) sufficient statistics of that metric.
        seconds: wall seconds.
        examples, tokens: seen in training.
    """

    value: float
    statistics: np.ndarray
    seconds: float = 0.0
    examples: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Tried:
    """A candidate that was really trained.

    Attributes:
        sources: keys of its adapters.
        scores: on held-out rows, per seed.
        expected: what was predicted before.
        gain: posterior after the trainings.
        dropped: whether others went on without it. Its gain rests on fewer seeds of the target alone than theirs: a
            seed in which that did badly flatters whatever was dropped after it, so that the two do not compare.
    """

    sources: Sources
    scores: tuple[float, ...]
    expected: Gain
    gain: Gain
    dropped: bool = False


@dataclass(frozen=True)
class Trial:
    """What was found by trainings.

    Attributes:
        alone: held-out scores of the target alone, per seed.
        tried: those that were left first, best first by posterior mean; the choice is the first one or none.
        rows: held-out rows of a seed, at most.
        trainings: how many were made.
        seconds, examples, tokens: what they took in all, when they were first made.
    """

    alone: tuple[float, ...] = ()
    tried: tuple[Tried, ...] = ()
    rows: int = 0
    trainings: int = 0
    seconds: float = 0.0
    examples: int = 0
    tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "alone": list(self.alone), "rows": self.rows, "trainings": self.trainings, "seconds": self.seconds,
            "tried": [{"sources": list(one.sources), "scores": list(one.scores), "expected": one.expected.to_dict(),
                       "gain": one.gain.to_dict(), "dropped": one.dropped} for one in self.tried],
        }  # fmt: skip


@dataclass
class _Runs:
    """Trainings made so far."""

    train: Callable[[Sources, int], HeldOut]
    score: ScoreFunction
    overlap: float
    of: dict[Sources, list[HeldOut]] = field(default_factory=dict)

    def add(self, sources: Sources, seed: int) -> None:
        self.of.setdefault(sources, []).append(self.train(sources, seed))

    def posterior(self, sources: Sources, expected: Gain) -> Gain:
        """Returns the gain after what was measured with the seeds that the candidate and the target alone share."""
        own, alone = self.of[sources], self.of[()]
        pairs = [
            paired(one.statistics[None], base.statistics[None], self.score, resamples=_RESAMPLES)
            for one, base in zip(own, alone, strict=False)
        ]
        unit = max(float(np.mean([base.value for base in alone[: len(own)]])), LEAST_BASELINE)
        # models that agree on all of few rows are not shown to be equal: as if they differed on one
        by_rows = float(np.mean([max(one.row_error, 1 / one.n_rows) for one in pairs])) / unit
        by_rows *= (self.overlap + (1 - self.overlap) / len(pairs)) ** 0.5  # rows that come again tell nothing new
        by_seeds = SEED_SHARE * expected.sd / len(pairs) ** 0.5
        measured = float(np.mean([one.difference for one in pairs])) / unit
        return expected.updated(measured, float(np.hypot(by_rows, by_seeds)))


def successive_halving(
    candidates: Mapping[Sources, Gain], train: Callable[[Sources, int], HeldOut], score: ScoreFunction, budget: float,
    overlap: float = 0.0, price: Callable[[Sources], float] = lambda _: 1.0,
) -> Trial:  # fmt: skip
    """Trains candidates in rounds of one seed each, keeping the better half, until the budget is spent.

    As many of the best predicted candidates are taken as leave room for a second round. It stops early once one is
    left whose gain is clearly above or below 0.

    Args:
        candidates: predicted gain by source set; none of them empty.
        train: trains a source set (empty: the target alone) with a seed, and scores it on held-out training rows.
        score: maps summed statistics to the main metric.
        budget: in trainings of the target alone; below 2 none is made.
        overlap: share of the held-out rows of one seed that another seed holds out too.
        price: of one training from a source set, in the budget's unit.
    """
    order = [
        one for one in sorted(candidates, key=lambda one: (-candidates[one].mean, one)) if 1 + price(one) <= budget
    ]
    alive = order[: most_candidates(budget, [price(one) for one in order])]
    runs, spent, seed = _Runs(train, score, overlap), 0.0, 0
    posterior = {one: candidates[one] for one in alive}
    while alive and spent + (cost := 1 + sum(map(price, alive))) <= budget:
        runs.add((), seed)
        for one in alive:
            runs.add(one, seed)
            posterior[one] = runs.posterior(one, candidates[one])
        spent, seed = spent + cost, seed + 1
        alive = sorted(alive, key=lambda one: (-posterior[one].mean, one))[: (len(alive) + 1) // 2]
        if len(alive) == 1 and not 1 - CLEAR < posterior[alive[0]].probability < CLEAR:
            break
    if not runs.of:
        return Trial()
    made = [one for each in runs.of.values() for one in each]
    tried = [
        Tried(
            one, tuple(run.value for run in runs.of[one]), candidates[one], posterior[one],
            dropped=len(runs.of[one]) < len(runs.of[()]),
        )
        for one in posterior
    ]  # fmt: skip
    return Trial(
        alone=tuple(one.value for one in runs.of[()]),
        tried=tuple(sorted(tried, key=lambda one: (-len(one.scores), -one.gain.mean, one.sources))),
        rows=max(len(one.statistics) for one in made),
        trainings=len(made),
        seconds=sum(one.seconds for one in made),
        examples=sum(one.examples for one in made),
        tokens=sum(one.tokens for one in made),
    )


def most_candidates(budget: float, prices: Sequence[float]) -> int:
    """Returns how many of the first candidates leave room for two rounds, or whether there is room for one of one.

    Args:
        budget: in trainings of the target alone, which is trained in either round.
        prices: of the candidates, in the same unit; the dearest half of them may be what the second round trains.
    """
    found = 0
    while found < len(prices):
        tried = sorted(prices[: found + 1], reverse=True)
        if sum(tried) + sum(tried[: (found + 2) // 2]) + 2 > budget:
            break
        found += 1
    return found or int(bool(prices) and 1 + prices[0] <= budget)
