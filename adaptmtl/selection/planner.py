"""What ``--sources auto`` does: read all sources, predict gains, read sets of the best, try a few, and say why.

Only training rows of the target are read. What was measured on other targets before, by the package's authors or in
this workspace, makes the predictions (:mod:`adaptmtl.selection.gains`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from adaptmtl.provenance import measured
from adaptmtl.selection.budget import DEFAULT_BUDGET, Budget, Prices
from adaptmtl.selection.gains import Gain, Seen
from adaptmtl.selection.halving import LEAST_HELD_OUT, HeldOut, Sources, Trial, successive_halving
from adaptmtl.selection.reading import Reader, TransferTable, training_tokens, usual_tokens
from adaptmtl.statistics import ScoreFunction
from adaptmtl.training.data import TaskData
from adaptmtl.training.setup import Setup
from adaptmtl.training.speed import tokens_per_second
from adaptmtl.transfer.history import Transfer, recipe_of
from adaptmtl.transfer.remember import remember_transfers
from adaptmtl.transfer.sides import Start
from adaptmtl.transfer.sources import doubts_in_words, find_sources
from adaptmtl.zoo.index import Entry

#: Sizes of the sets that are considered: of so many of the best sources each; all but one are read as merges.
SET_SIZES = (1, 2, 3, 5)


@dataclass(frozen=True)
class Choice:
    """The source set of a fusion, with the reasons.

    Attributes:
        entries: the adapters to fuse, best first; none where the target is trained alone.
        summary: one sentence.
        reasons: task -> why it was kept or dropped; only of an automatic choice, as all that follows.
        table: the ranking of the sources.
        sets: the sets that were considered (task names) with the predicted gain of each.
        trial: what really training some of them showed.
        gain: expected of the chosen set.
        budget: what choosing was allowed to cost.
        seen: task names, sorted -> what was seen of that source or set; what a history keeps beside a measured gain.
    """

    entries: tuple[Entry, ...]
    summary: str
    reasons: dict[str, str]
    table: TransferTable | None = None
    sets: tuple[tuple[tuple[str, ...], Gain], ...] = ()
    trial: Trial = field(default_factory=Trial)
    gain: Gain | None = None
    budget: Budget | None = None
    seen: Mapping[tuple[str, ...], Seen] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "sources": [entry.task for entry in self.entries], "summary": self.summary, "reasons": self.reasons,
            "sets": [{"sources": list(names), "gain": gain.to_dict()} for names, gain in self.sets],
            "trial": self.trial.to_dict(), "gain": self.gain.to_dict() if self.gain else None,
            "budget": str(self.budget) if self.budget else None, "table": self.table.to_dict() if self.table else None,
        }  # fmt: skip


class Bench(Protocol):
    """How sets of sources are made into one start, and tried; fusion has it."""

    score: ScoreFunction
    method: str

    @property
    def held_out(self) -> int:
        """Training rows that a seed holds out."""

    @property
    def overlap(self) -> float:
        """Share of the rows that one seed holds out which another one holds out too."""

    def price(self, entries: Sequence[Entry]) -> float:
        """What training one fusion costs, in trainings of the target alone."""

    def start(self, entries: Sequence[Entry]) -> Start:
        """Returns the merged weights that the target's training would begin from."""

    def run(self, entries: Sequence[Entry], seed: int) -> HeldOut:
        """Trains a fusion (without entries: the target alone) on a part of the training rows, scored on the rest."""


def plan_sources(
    setup: Setup, target: str, bench: Bench, *, rows: int | None = None, seed: int = 0,
    budget: Budget = DEFAULT_BUDGET, remember: bool = True,
) -> Choice:  # fmt: skip
    """Chooses the sources of a fusion within a budget: ranks all, reads sets of the best, tries some for real.

    Args:
        setup: backbone, recipe, encoding, zoo.
        target: name of the target task.
        bench: makes and trains sets of sources.
        rows: at most so many training rows of the target.
        seed: of the probe's folds.
        budget: reading included where it is seconds or a share; a number of trainings leaves reading out, and what a
            fusion method trains on the sources first. Reading takes at most a minute or so, or as much as one training
            on the target.
        remember: put what was really trained into the workspace's history.
    """
    with measured() as cost:
        data = setup.data(target, rows)
        candidates = find_sources(setup, data)
        training = training_tokens(setup, data)
        allowed, total = tokens_to_read(setup, data, budget, len(candidates.entries))
        reader = Reader(setup, data, candidates, seed, allowed)
    table = reader.table(cost.seconds)
    if not table.sources:
        return Choice((), "the zoo has no source for this target", {}, table, budget=budget)
    sets = _sets(reader, bench)
    gains = dict(zip(sets, reader.predict(list(sets.values())), strict=True))

    def adapters(keys: Sources) -> list[Entry]:
        return [reader.entries[key] for key in keys]

    def price(keys: Sources) -> float:
        return 1.0 if total is None else bench.price(adapters(keys))

    left = budget.amount if total is None else (total - reader.tokens) / training
    too_few = left >= 2 and bench.held_out < LEAST_HELD_OUT
    trial = successive_halving(
        gains, lambda keys, seed: bench.run(adapters(keys), seed), bench.score, 0.0 if too_few else left,
        bench.overlap, price,
    )  # fmt: skip
    if remember:
        _remember(reader, sets, trial, bench.method)
    seen = {one.sources: one for one in (*reader.seen.values(), *sets.values())}
    return _chosen(reader, table, gains, trial, budget, seen, too_few)


def tokens_to_read(setup: Setup, data: TaskData, budget: Budget, sources: int) -> tuple[float, float | None]:
    """Returns the tokens that may be read, and the whole budget in tokens; None where that is a number of trainings.

    Args:
        setup: whose machine's speed counts, for a budget in seconds.
        data: the target.
        budget: of the choice.
        sources: that the target has.
    """
    training = training_tokens(setup, data)
    if budget.unit == "trainings":
        return usual_tokens(training), None
    per_second = tokens_per_second(setup) if budget.unit == "seconds" else 1.0
    total = budget.tokens(Prices(training, per_second), sources)
    return min(usual_tokens(training), total), total


def _remember(reader: Reader, sets: dict[Sources, Seen], trial: Trial, method: str) -> None:
    """Puts what was really trained into the workspace's history, but for what owes its gain to shared texts."""
    setup, spec, overlapping = reader.setup, reader.data.spec, dict(reader.candidates.overlapping)
    recipe = recipe_of(setup)
    remember_transfers(setup, reader.data, [
        Transfer(
            setup.backbone.hash, spec.name, sets[one.sources].sources, seed, score, alone, spec.main_metric,
            reader.data.n_train, f"trial of {method}", recipe, trial.seconds / trial.trainings,
            seen=sets[one.sources].to_json(),
        )
        for one in trial.tried if not overlapping.keys() & set(sets[one.sources].sources)
        for seed, (score, alone) in enumerate(zip(one.scores, trial.alone, strict=False))
    ])  # fmt: skip


def _sets(reader: Reader, bench: Bench) -> dict[Sources, Seen]:
    """Returns what is seen of the best source, and of sets of the best, read through their merges."""
    wanted = [tuple(reader.order[:size]) for size in SET_SIZES if size <= len(reader.order)]
    merges = {keys: bench.start([reader.entries[key] for key in keys]) for keys in wanted if len(keys) > 1}
    return {keys: reader.seen[keys[0]] for keys in wanted if len(keys) == 1} | reader.read(merges)


def _chosen(
    reader: Reader, table: TransferTable, sets: dict[Sources, Gain], trial: Trial, budget: Budget,
    seen: Mapping[tuple[str, ...], Seen], too_few: bool,
) -> Choice:  # fmt: skip
    """Takes the set with the largest expected gain, of those that the trial left, if that is above 0."""
    names = {key: entry.task for key, entry in reader.entries.items()}
    if trial.tried:
        best, gain = trial.tried[0].sources, trial.tried[0].gain
    else:
        best = max(sets, key=lambda keys: (sets[keys].mean, -len(keys)))
        gain = sets[best]
    taken = best if gain.mean > 0 else ()
    asked = ", ".join(names[key] for key in best)
    how = f", after {trial.trainings} trainings on {trial.rows} held-out training rows" if trial.trainings else ""
    if too_few:
        how = ", predicted without a trial: there are too few training rows to hold some out"
    if taken:
        note = doubts_in_words(reader.candidates.doubtful, [names[key] for key in taken])
        summary = f"{asked} {'are' if len(best) > 1 else 'is'} expected to gain {gain.in_words}{how}{note}"
    else:
        summary = f"no source is expected to help (best: {asked}, {gain.in_words}{how}): the target is trained alone"
    reasons = {}
    for one in table.sources:
        place = f"predicted {one.gain}, rank {one.rank}"
        reasons[one.task] = f"{'kept' if one.key in taken else 'dropped'}: {place}"
    return Choice(
        entries=tuple(reader.entries[key] for key in taken), summary=summary, reasons=reasons, table=table,
        sets=tuple((tuple(names[key] for key in keys), one) for keys, one in sets.items()),
        trial=replace(trial, tried=tuple(
            replace(one, sources=tuple(names[key] for key in one.sources)) for one in trial.tried
        )),
        gain=gain if taken else None, budget=budget, seen=seen,
    )  # fmt: skip
