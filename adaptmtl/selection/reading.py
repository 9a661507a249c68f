"""Reads a target's training rows through all sources, and predicts the gain of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from adaptmtl.errors import SelectionError
from adaptmtl.provenance import measured
from adaptmtl.registry import name_list
from adaptmtl.selection.gains import (
    Gain,
    GainModel,
    Past,
    Reading,
    Seen,
    in_usual_sizes,
    past_of,
    pooled,
    profile_of,
    shipped_past,
    standardised,
    together,
)
from adaptmtl.tasks.kind import kinds
from adaptmtl.tasks.overlap import tasks_related_to
from adaptmtl.tasks.spec import TaskSpec
from adaptmtl.training.data import TaskData
from adaptmtl.training.setup import Setup
from adaptmtl.training.sizes import sizes_of
from adaptmtl.transfer.estimate import DEFAULT_ESTIMATORS, ESTIMATE_ROWS, Estimates, SourceEstimate, estimate
from adaptmtl.transfer.history import History
from adaptmtl.transfer.sides import Start
from adaptmtl.transfer.signatures import nearest_texts
from adaptmtl.transfer.sources import Candidates, doubts_in_words, find_sources
from adaptmtl.zoo.index import Entry

#: Tokens read through all sources together, unless the budget says less: with all that goes with it, a minute of two
#: cores without AVX-512 (MiniLM-L6).
READING_TOKENS = 170_000
#: Least rows that are read; of each row of the second kind several tokens are.
LEAST = {"rows": 90, "tokens": 64}
#: Target rows that are read: few different numbers, so that another source in the zoo seldom means to read all anew.
ROW_STEPS = (64, 90, 128, 180, 256, 360, ESTIMATE_ROWS)
#: What is read beside the single sources: up to three merges of them, and the plain backbone.
ROOM = 4
#: Sources that are read at all, where the zoo has more: those of which most is expected before anything is read.
MOST_READ = 64
#: A training step costs so much more than reading its tokens: once forwards, about twice backwards.
STEP = 3.0


@dataclass(frozen=True)
class SourceScore:
    """One source in the ranking.

    Attributes:
        task: the source task.
        adapter: name of its adapter in the zoo.
        key: of the adapter.
        train_rows: rows it was trained on.
        scores: by estimator, higher is better, units differ.
        standard_errors: by estimator, None where it has none.
        rank: 1 for the largest predicted gain.
        gain: predicted, relative to the target's score without a source.
        explained: label uncertainty of the target's training rows that a probe explains with this source and not with
            the plain backbone, a share.
        seconds: wall seconds of estimating it.
    """

    task: str
    adapter: str
    key: str
    train_rows: int
    scores: dict[str, float]
    standard_errors: dict[str, float | None]
    rank: int
    gain: Gain
    explained: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return {**self.__dict__, "gain": self.gain.to_dict()}


@dataclass(frozen=True)
class TransferTable:
    """The ranking of all sources for a target, best first.

    Attributes:
        target: the target task.
        metric: its main metric.
        rows: training rows of the target that the estimators read.
        seed: of the probe's folds.
        seconds: wall seconds of this call; less when estimates were at hand.
        sources: best first.
        excluded: (task, reason) of sources that were not considered.
        overlapping: (task, reason) of sources that share texts with the evaluation rows, where that is allowed.
        unchecked: (task, reason) of sources whose texts could not be compared with those.
        estimator_seconds: what each estimator took over all sources when first computed.
        past_targets: targets whose measured transfers the predicted gains rest on.
    """

    target: str
    metric: str
    rows: int
    seed: int
    seconds: float
    sources: tuple[SourceScore, ...]
    excluded: tuple[tuple[str, str], ...]
    estimator_seconds: dict[str, float]
    past_targets: int
    overlapping: tuple[tuple[str, str], ...] = ()
    unchecked: tuple[tuple[str, str], ...] = ()

    @property
    def summary(self) -> str:
        """One sentence for a person."""
        return self._verdict + doubts_in_words((*self.overlapping, *self.unchecked), [one.task for one in self.sources])

    @property
    def _verdict(self) -> str:
        if not self.sources:
            return "there is no source to choose from"
        hopeful = [one for one in self.sources if one.gain.mean > 0]
        if not hopeful:
            return f"none of {len(self.sources)} sources is expected to help: train on the target alone"
        best = hopeful[0]
        return (
            f"{len(hopeful)} of {len(self.sources)} sources are expected to help, most of all {best.task}: "
            f"{best.gain.in_words}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return {**self.__dict__, "sources": [one.to_dict() for one in self.sources], "summary": self.summary}


def rank_sources(
    setup: Setup, target: str, *, sources: Literal["auto"] | Sequence[str] = "auto", rows: int | None = None,
    seed: int = 0,
) -> TransferTable:  # fmt: skip
    """Ranks the zoo's adapters as sources for a target by predicted gain; evaluation rows play no part in it.

    Args:
        setup: backbone, recipe, encoding, zoo.
        target: name of the target task.
        sources: "auto" for all in the zoo, or names of tasks to consider.
        rows: at most so many training rows of the target; the estimators read at most 500 of them.
        seed: of the probe's folds.

    Raises:
        UnknownNameError: no such target or source.
        SelectionError: the target is among the sources, or a source has no adapter.
    """
    with measured() as cost:
        data = setup.data(target, rows)
        named = None if sources == "auto" else name_list(sources, "sources")
        reader = Reader(setup, data, find_sources(setup, data, named), seed, most=MOST_READ if named is None else None)
    return reader.table(cost.seconds)


class Reader:
    """Reads the target through its sources and predicts gains.

    Args:
        setup: backbone, recipe, zoo.
        data: the target.
        candidates: what may be read.
        seed: of the probe's folds.
        allowed: tokens that may be read through all sources together.
        most: sources to read, or as many as ``allowed`` allows; None for all, however many tokens that takes.
    """

    def __init__(
        self, setup: Setup, data: TaskData, candidates: Candidates, seed: int,
        allowed: float = float(READING_TOKENS), most: int | None = MOST_READ,
    ):  # fmt: skip
        self.setup, self.data, self.seed = setup, data, seed
        self.reading: Reading = reading_of(data.spec.kind)
        past = _past(setup, data.spec)
        per_row = sizes_of(data.train).tokens / len(data.train.rows)
        kept: tuple[Entry, ...] = candidates.entries
        left: tuple[Entry, ...] = ()
        if most is not None:
            least = min(LEAST[self.reading], len(data.train.rows))
            readings = int(min(allowed / (per_row * least), 2.0 * len(candidates.entries) + ROOM))
            most = max(1, min(most, max(readings // 2, readings - ROOM)))  # of few sources there are fewer merges
            kept, left = self._screened(candidates.entries, most, past)
        reasons = tuple((entry.task, f"only the {most} most promising are read") for entry in left)
        self.candidates, self.excluded = candidates, (*candidates.excluded, *reasons)
        rows = allowed / (per_row * (len(kept) + ROOM))
        self.rows = max(LEAST[self.reading], max((step for step in ROW_STEPS if step <= rows), default=0))
        self.entries = {entry.key: entry for entry in kept}
        self.singles = self._estimate(kept, DEFAULT_ESTIMATORS)
        self._leave_out_broken(named=most is None)
        self.explained = {one.entry.key: self._explained(one) for one in self.singles.sources}
        self.seen = {one.entry.key: self._seen(one) for one in self.singles.sources}
        self.tokens = per_row * self.singles.rows * (len(kept) + ROOM)  # merges included, though they come later
        profile = profile_of(self.seen.values())
        self.model = GainModel(past, setup.backbone.hash, data.spec.name, profile)
        self.gains = dict(zip(self.seen, self.predict(list(self.seen.values())), strict=True))
        self.order = sorted(self.gains, key=lambda key: (-self.gains[key].mean, self.entries[key].task, key))

    def _screened(
        self, entries: Sequence[Entry], most: int, past: tuple[Past, ...]
    ) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
        """Splits sources into those of which most is expected, at most so many, and the others.

        Before anything is read, what they did for other targets tells, and whether their model is given the same
        columns; of equal ones those with the nearest texts are taken.
        """
        if len(entries) <= most:
            return tuple(entries), ()
        blind = GainModel(past, self.setup.backbone.hash, self.data.spec.name)
        gains = blind.predict([Seen((one.task,), alike=self._alike(one)) for one in entries], self.reading)
        expected = {one.key: -round(gain.mean, 9) for one, gain in zip(entries, gains, strict=True)}
        near = nearest_texts(self.setup, self.data, entries)
        kept = set(sorted(near, key=expected.__getitem__)[:most])
        return tuple(e for e in entries if e.key in kept), tuple(e for e in entries if e.key not in kept)

    def _leave_out_broken(self, named: bool) -> None:
        """Leaves out sources that could not be read, such as damaged adapters; those that were named are an error."""
        broken = {one.entry.key: one.skipped["probe"] for one in self.singles.sources if "probe" in one.skipped}
        for key, reason in broken.items():
            if named:
                raise SelectionError(f"source {self.entries[key].task!r} cannot be used: {reason}")
            self.excluded += ((self.entries.pop(key).task, reason),)
        sources = tuple(one for one in self.singles.sources if one.entry.key not in broken)
        self.singles = replace(self.singles, sources=sources)

    def _alike(self, entry: Entry) -> float:
        return float(inputs_of(self.setup, entry) == self.data.spec.inputs)

    def _estimate(self, entries: Sequence[Entry | Start], names: Sequence[str]) -> Estimates:
        if not entries:
            return Estimates(0, (), np.empty(0))
        return estimate(self.setup, self.data, entries, self.seed, names=names, rows=self.rows, tokens=float("inf"))

    def predict(self, candidates: Sequence[Seen]) -> list[Gain]:
        """Returns the predicted gains."""
        return self.model.predict(candidates, self.reading)

    def read(self, merges: Mapping[tuple[str, ...], Start]) -> dict[tuple[str, ...], Seen]:
        """Returns what is seen of sets of sources, given by their adapters' keys, beside the single ones."""
        found = self._estimate(list(merges.values()), ("probe", "hscore")).sources if merges else ()
        return {
            keys: together(self._seen(one), [self.seen[key] for key in keys])
            for keys, one in zip(merges, found, strict=True)
        }

    def _seen(self, one: SourceEstimate) -> Seen:
        """What is seen of a source, or of a merge, beside the single sources."""
        gains, errors = zip(*self.explained.values(), strict=True)
        rivals = [other.scores["hscore"].value for other in self.singles.sources if "hscore" in other.scores]
        own = one.scores.get("hscore")
        return Seen(
            sources=(one.entry.task,),
            probe=in_usual_sizes(self._explained(one)[0], gains, errors),
            hscore=standardised(own.value, rivals) if own else 0.0,
            alike=self._alike(one.entry) if isinstance(one.entry, Entry) else 0.0,
        )

    def _explained(self, one: SourceEstimate) -> tuple[float, float]:
        """Mean and standard error, over the target's rows, of what the probe explains beyond the plain backbone."""
        difference = one.row_scores - self.singles.baseline
        return float(difference.mean()), float(difference.std(ddof=1) / len(difference) ** 0.5)

    def table(self, seconds: float) -> TransferTable:
        """Returns the ranking; it took so many wall seconds."""
        by_key = {one.entry.key: one for one in self.singles.sources}
        total: dict[str, float] = {}
        for one in self.singles.sources:
            for name, took in one.estimator_seconds.items():
                total[name] = total.get(name, 0.0) + took
        return TransferTable(
            target=self.data.spec.name, metric=self.data.spec.main_metric, rows=self.singles.rows, seed=self.seed,
            seconds=seconds, sources=tuple(
                self._row(by_key[key], self.entries[key], rank) for rank, key in enumerate(self.order, start=1)
            ),
            excluded=self.excluded, estimator_seconds=total, past_targets=self.model.past_targets,
            overlapping=self.candidates.overlapping, unchecked=self.candidates.unchecked,
        )  # fmt: skip

    def _row(self, one: SourceEstimate, entry: Entry, rank: int) -> SourceScore:
        return SourceScore(
            task=entry.task, adapter=entry.name, key=entry.key, train_rows=entry.train_rows,
            scores={name: score.value for name, score in one.scores.items()},
            standard_errors={name: score.standard_error for name, score in one.scores.items()},
            rank=rank, gain=self.gains[entry.key], explained=self.explained[entry.key][0], seconds=one.seconds,
        )  # fmt: skip


def reading_of(kind: str) -> Reading:
    """Returns whether rows of a kind are read as one vector or token by token."""
    return "tokens" if kinds[kind].per_token else "rows"


def inputs_of(setup: Setup, entry: Entry) -> tuple[str, ...] | None:
    """Returns the columns that an adapter's model is given; None where neither it nor the catalogue says."""
    facts = entry.manifest().task
    known = setup.catalogue.tasks.get(facts.name)
    return facts.inputs or (known.inputs if known and known.kind == facts.kind else None)


def usual_tokens(training: float) -> float:
    """Returns the tokens that are read where no budget says less: as many as one training costs, if that is more."""
    return max(float(READING_TOKENS), training)


def training_tokens(setup: Setup, data: TaskData) -> float:
    """Returns the cost of one training on the target, in tokens read forwards."""
    sizes = sizes_of(data.train)
    rows = setup.recipe.steps_for(sizes.units) * setup.recipe.batch_size
    return STEP * rows * sizes.tokens / max(sizes.units, 1)


def _past(setup: Setup, target: TaskSpec) -> tuple[Past, ...]:
    """Measured transfers: this workspace's own, and those that come with the package.

    What was measured on a task that shares texts with the target is left out: it would tell of the target's own rows.
    """
    left_out = tasks_related_to(target, setup.catalogue.tasks)
    readings = {name: reading_of(spec.kind) for name, spec in setup.catalogue.tasks.items()}
    own = past_of(History(setup.workspace).history(setup.backbone.hash), readings)
    return tuple(one for one in pooled(own, shipped_past()) if one.target not in left_out)
