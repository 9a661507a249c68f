"""What ``--sources auto`` does: rank the sources, guard against negative transfer, keep a few, and say why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from adaptmtl.provenance import measured
from adaptmtl.selection.aggregate import aggregate
from adaptmtl.selection.guard import Selection, Verdict, choose, guard
from adaptmtl.training.setup import Setup
from adaptmtl.transfer.estimate import estimate
from adaptmtl.transfer.sources import find_sources
from adaptmtl.zoo.index import Entry

MAX_SOURCES = 3


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
        rank: 1 for the best by the weighted mean of the estimators' ranks.
        mean_rank: that mean, 0 best and 1 worst.
        gain: mean paired difference, over target training rows, of the label uncertainty that a probe explains with
            this source and with the plain backbone.
        gain_error: its standard error.
        verdict: helps, neutral or hurts.
        seconds: wall seconds of estimating it.
    """

    task: str
    adapter: str
    key: str
    train_rows: int
    scores: dict[str, float]
    standard_errors: dict[str, float | None]
    rank: int
    mean_rank: float
    gain: float
    gain_error: float
    verdict: str
    seconds: float


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
        estimator_seconds: what each estimator took over all sources when first computed.
        selection: what ``--sources auto`` takes of it, and why.
    """

    target: str
    metric: str
    rows: int
    seed: int
    seconds: float
    sources: tuple[SourceScore, ...]
    excluded: tuple[tuple[str, str], ...]
    estimator_seconds: dict[str, float]
    selection: Selection

    @property
    def chosen(self) -> tuple[str, ...]:
        """Task names of the chosen sources, best first; empty when none is expected to help."""
        names = {source.key: source.task for source in self.sources}
        return tuple(names[key] for key in self.selection.sources)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return {**asdict(self), "chosen": list(self.chosen)}


def rank_sources(
    setup: Setup, target: str, *, sources: Sequence[str] | None = None, rows: int | None = None, seed: int = 0,
    max_sources: int = MAX_SOURCES,
) -> TransferTable:  # fmt: skip
    """Ranks the zoo's adapters as sources for a target and chooses among them; evaluation rows play no part in it.

    Args:
        setup: backbone, recipe, encoding, zoo.
        target: name of the target task.
        sources: names of tasks to consider; None for all in the zoo.
        rows: at most so many training rows of the target; the estimators read at most 500 of them.
        seed: of the probe's folds.
        max_sources: most sources to choose.

    Raises:
        UnknownNameError: no such target or source.
        SelectionError: the target is among the sources, or a source has no adapter.
    """
    with measured() as cost:
        data = setup.data(target, rows)
        candidates = find_sources(setup, data, sources)
        found = estimate(setup, data, candidates.entries, seed)
        verdicts = guard(found.baseline, {one.entry.key: one.row_scores for one in found.sources})
        names = {name for one in found.sources for name in one.scores}
        scores = {
            name: {o.entry.key: o.scores[name] for o in found.sources if name in o.scores} for name in sorted(names)
        }
        ranked = aggregate(scores) if scores else []
        selection = choose(ranked, verdicts, max_sources)
    by_key = {one.entry.key: one for one in found.sources}
    total: dict[str, float] = {}
    for one in found.sources:
        for name, seconds in one.estimator_seconds.items():
            total[name] = total.get(name, 0.0) + seconds
    return TransferTable(
        target=target,
        metric=data.spec.main_metric,
        rows=found.rows,
        seed=seed,
        seconds=cost.seconds,
        sources=tuple(_row(by_key[r.source].entry, by_key[r.source], r, verdicts[r.source]) for r in ranked),
        excluded=candidates.excluded,
        estimator_seconds=total,
        selection=_in_words(selection, {one.entry.key: one.entry.task for one in found.sources}),
    )


def _row(entry: Entry, one: Any, ranked: Any, verdict: Verdict) -> SourceScore:
    return SourceScore(
        task=entry.task,
        adapter=entry.name,
        key=entry.key,
        train_rows=entry.train_rows,
        scores={name: score.value for name, score in one.scores.items()},
        standard_errors={name: score.standard_error for name, score in one.scores.items()},
        rank=ranked.rank,
        mean_rank=ranked.position,
        gain=verdict.gain,
        gain_error=verdict.standard_error,
        verdict=verdict.verdict,
        seconds=one.seconds,
    )


def _in_words(selection: Selection, names: dict[str, str]) -> Selection:
    """Puts task names for keys where a person reads them."""
    summary = selection.summary
    for key, name in names.items():
        summary = summary.replace(key, name)
    reasons = {names[key]: why for key, why in selection.reasons.items()}
    return replace(selection, summary=summary, reasons=reasons)
