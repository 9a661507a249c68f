"""Every estimator's score of every source for one target; what was computed before is read from the workspace."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adaptmtl.errors import AdapterError, SelectionError
from adaptmtl.storage import read_json, write_json
from adaptmtl.training.data import TaskData
from adaptmtl.training.setup import Setup
from adaptmtl.transfer.contract import Score, estimators
from adaptmtl.transfer.first_order import set_value
from adaptmtl.transfer.probe import probe_rows, probe_score
from adaptmtl.transfer.sides import TOKEN_BUDGET, SourceSide, Start, TargetSide
from adaptmtl.zoo.index import Entry

#: Training rows of the target that estimators read.
ESTIMATE_ROWS = 500
DEFAULT_ESTIMATORS = ("probe", "logme", "hscore", "tupate", "text_embedding", "size")
#: What the target's side has to make for a part of the evidence.
_TARGET_PARTS = {
    "features": ("baseline", "folds"), "space_map": ("baseline",), "text": ("text_embedding",),
    "fisher": ("gradients",), "slopes": ("gradients",), "short_run": ("held_out", "short_run"), "delta": ("delta",),
}  # fmt: skip
#: Parts that change without the target's rows or the source's adapter changing.
_GROWS = frozenset({"history"})


@dataclass(frozen=True)
class SourceEstimate:
    """What the estimators say of one source.

    Attributes:
        entry: the source's adapter, or what was made of several.
        scores: by estimator; one that could not run is absent.
        skipped: estimator -> why it could not run.
        row_scores: (rows,) out-of-fold score of each target row with a probe on this source's features; empty where
            the probe was not asked for.
        estimator_seconds: by estimator, and by the parts of the evidence that more than one estimator reads.
    """

    entry: Entry | Start
    scores: dict[str, Score]
    skipped: dict[str, str]
    row_scores: np.ndarray
    estimator_seconds: dict[str, float]

    @property
    def seconds(self) -> float:
        """Wall seconds that this source took when it was first estimated."""
        return sum(self.estimator_seconds.values())


@dataclass(frozen=True)
class Estimates:
    """All sources of one target.

    Attributes:
        rows: training rows of the target that were read.
        sources: one per source, in the order given.
        baseline: (rows,) out-of-fold scores with the plain backbone; empty where the probe was not asked for.
        target_seconds: what the target's own side took when it was first read, by part of the evidence; all sources
            share it ("gradients" holds the slopes along all sources' updates).
    """

    rows: int
    sources: tuple[SourceEstimate, ...]
    baseline: np.ndarray
    target_seconds: dict[str, float] = field(default_factory=dict)

    def records(self) -> list[dict[str, Any]]:
        """Returns one row per source and estimator that scored it, as quality is judged by.

        ``seconds`` is what that estimator alone would take: its own, those of the evidence that it reads, and its share
        of the target's side.
        """
        return [
            {
                "source": one.entry.task, "estimator": name, "score": score.value,
                "standard_error": score.standard_error, "seconds": self._seconds(one, name),
            }
            for one in self.sources for name, score in one.scores.items()
        ]  # fmt: skip

    def _seconds(self, one: SourceEstimate, name: str) -> float:
        needs = estimators[name].needs
        parts = needs | ({"traits"} if needs & {"fisher", "space_map"} else set())
        own = sum(one.estimator_seconds.get(part, 0.0) for part in {name, *parts})
        shared = {part for need in needs for part in _TARGET_PARTS.get(need, ())}
        return own + sum(self.target_seconds.get(part, 0.0) for part in shared) / len(self.sources)


def estimate(
    setup: Setup, target: TaskData, entries: Sequence[Entry | Start], seed: int = 0,
    names: Sequence[str] = DEFAULT_ESTIMATORS, rows: int = ESTIMATE_ROWS, tokens: float = TOKEN_BUDGET,
) -> Estimates:  # fmt: skip
    """Scores every source with every estimator, from training rows of the target alone.

    Args:
        setup: backbone and recipe.
        target: only its training rows are read.
        entries: the sources' adapters, or weights made of them.
        seed: of the probe's folds, of short runs and of the random baseline.
        names: estimators.
        rows: at most so many training rows are read; a smaller number takes a part of the larger one's rows, so that
            many sources can be screened on few rows before the best are read on more.
        tokens: of long texts fewer rows are read, so that about so many tokens go through a source, but at least 128.

    Raises:
        UnknownNameError: an estimator that does not exist.
        DataError: too few target rows, or one class only.
    """
    for name in names:
        estimators[name]
    state = TargetSide(setup, target, entries, seed, rows, tokens)
    plain = _plain(state) if "probe" in names else []
    found = []
    for entry in setup.workspace.reporter.track(entries, f"estimating sources for {target.spec.name}", len(entries)):
        found.append(_one(state, entry, names))
    return Estimates(len(state.split.rows), tuple(found), np.asarray(plain), _kept_seconds(state))


def first_order_sets(
    setup: Setup, target: TaskData, entries: Sequence[Entry], sets: Sequence[Sequence[str]], rows: int = ESTIMATE_ROWS
) -> list[Score]:
    """Scores sets of sources by the first-order value of their mean update; one backward pass serves them all.

    Args:
        setup: backbone and recipe.
        target: only its training rows are read.
        entries: adapters of all sources that occur in a set.
        sets: names of source tasks.
        rows: at most so many training rows are read.

    Returns:
        One score per set, in nats per row, with its standard error; units are those of the ``first_order`` estimator.

    Raises:
        SelectionError: an empty set, or a source without an adapter among ``entries``.
    """
    places = {entry.task: place for place, entry in enumerate(entries)}
    for names in sets:
        if not names or (unknown := [name for name in names if name not in places]):
            seen = f"has no adapter of {unknown[0]!r}" if names else "is empty"
            raise SelectionError(f"set {list(names)} {seen}: give sets of {', '.join(sorted(places))}")
    slopes = TargetSide(setup, target, tuple(entries), 0, rows).gradients.slopes
    return [Score(*set_value(slopes, sorted({places[name] for name in names}))) for names in sets]


def _one(target: TargetSide, entry: Entry | Start, names: Sequence[str]) -> SourceEstimate:
    """Scores one source by the estimators whose scores are not kept yet; reasons to skip are never kept."""
    path = target.path(entry.key)
    held = read_json(path) or {"scores": {}, "seconds": {}, "rows": []}
    source, found, skipped, fresh = SourceSide(target, entry), {}, {}, False
    for name in names:
        estimator = estimators[name]
        slot = f"{name}@{target.own.key}" if "delta" in estimator.needs and target.own else name
        kept = held["scores"].get(slot)
        if kept is None:
            try:
                score, seconds = _score(source, name)
            except (SelectionError, AdapterError) as error:
                skipped[name] = str(error)
                continue
            kept = [score.value, score.standard_error]
            if not estimator.needs & _GROWS:
                held["scores"][slot], held["seconds"][name], fresh = kept, seconds, True
        found[name] = Score(*kept)
    if "probe" in source.made:
        held["rows"] = source.made["probe"].explained.tolist()
    if fresh:
        held["seconds"].update({part: s for part, s in source.seconds.items() if part not in estimators})
        write_json(path, held)
    return SourceEstimate(entry, found, skipped, np.asarray(held["rows"]), _seconds(held["seconds"], names))


def _score(source: SourceSide, name: str) -> tuple[Score, float]:
    estimator, target = estimators[name], source.target
    if name == "probe":  # its rows are what the guard reads: fitted once for both
        _ = target.folds  # the target's side is no cost of this source
        rows = source.part("probe")
        return probe_score(rows), source.seconds["probe"]
    if "slopes" in estimator.needs:
        _ = target.gradients
    if "short_run" in estimator.needs:
        _ = target.part
    evidence = source.evidence(estimator.needs)  # first: what cannot be had of a source costs the target nothing
    own = target.evidence(estimator.needs)
    started = time.perf_counter()
    return estimator.score(evidence, own), time.perf_counter() - started


def _seconds(kept: dict[str, float], names: Sequence[str]) -> dict[str, float]:
    """Seconds of the named estimators and of the parts that they read."""
    needs = {part for name in names for part in estimators[name].needs}
    needs |= {"traits"} if needs & {"fisher", "space_map"} else set()
    return {name: seconds for name, seconds in kept.items() if name in names or name in needs}


def _kept_seconds(target: TargetSide) -> dict[str, float]:
    """Returns the seconds of the target's side, those of earlier calls included, and keeps them."""
    path = target.path(None)
    held = read_json(path) or {}
    kept = {**target.seconds, **held.get("seconds", {})}
    if kept != held.get("seconds", {}):
        write_json(path, {**held, "seconds": kept})
    return kept


def _plain(target: TargetSide) -> list[float]:
    """Out-of-fold scores of the target's rows with the plain backbone."""
    path = target.path(None)
    held = read_json(path) or {}
    if "rows" not in held:
        held["rows"] = probe_rows(target.baseline, target.seed, target.folds).explained.tolist()
        write_json(path, held)
    return held["rows"]
