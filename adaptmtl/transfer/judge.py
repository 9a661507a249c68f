"""Estimators judged against measured transfers, target by target: one table of quality beside cost.

Everything is leave-target-out: what an estimator learned, it learned from other targets. Rows that no estimator made
stand in the same table: random (exact expectation), the popularity prior, one real seed, and the noise ceiling.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from adaptmtl.errors import DataError
from adaptmtl.statistics import mean_interval
from adaptmtl.transfer import quality
from adaptmtl.transfer.history import LEAST_BASELINE

LEVEL = 0.9
KS = (1, 3, 5)
#: Figures of which less is better.
LOSSES = frozenset(f"regret@{k}" for k in KS)
ORACLE = "one_seed_oracle"
#: Figures against the mean of all seeds but one, as the oracle has no other: what it is compared by.
LEFT_OUT = {name: f"{name}, one seed left out" for name in ("spearman", *sorted(LOSSES))}


@dataclass(frozen=True, eq=False)
class Truth:
    """What was really measured on one target.

    Attributes:
        target: the target.
        sources: names.
        results: (sources, seeds) on the target's metric.
        baseline: (seeds,) without a source, same seeds; None where it is not known (then there are no signs).
        seconds: (sources,) wall seconds of one transfer from each source.
    """

    target: str
    sources: tuple[str, ...]
    results: np.ndarray
    baseline: np.ndarray | None = None
    seconds: np.ndarray | None = None

    @property
    def mean(self) -> np.ndarray:
        """(sources,) mean result over seeds."""
        return self.results.mean(axis=1)

    @property
    def gains(self) -> np.ndarray:
        """(sources, seeds) gain relative to the baseline; without a baseline the result less the target's mean."""
        if self.baseline is None:
            return self.results - self.results.mean(axis=0)
        return (self.results - self.baseline) / np.maximum(np.abs(self.baseline), LEAST_BASELINE)


@dataclass(frozen=True)
class Predicted:
    """What one estimator says of one target.

    Attributes:
        scores: source -> score, higher is better; a source that it could not score is absent.
        seconds: what all its scores of this target took; None where that is not known.
        intervals: source -> (low, high) of the predicted gain at 90%, where it predicts gains.
    """

    scores: Mapping[str, float]
    seconds: float | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """One row of the table: means over targets.

    Attributes:
        name: of the estimator.
        figures: spearman, ndcg, ndcg_exponential, regret@k, auc, auc_pooled, coverage, width; absent where undefined.
        per_target: figure -> target -> value.
        targets: how many it scored any source of.
        scored: share of (target, source) pairs that it scored; the others take its median.
        seconds: per target.
        cost_share: of one real transfer from every source.
    """

    name: str
    figures: dict[str, float]
    per_target: dict[str, dict[str, float]]
    targets: int
    scored: float
    seconds: float | None = None
    cost_share: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


def judge(name: str, truths: Sequence[Truth], predicted: Mapping[str, Predicted]) -> Judged:
    """Compares an estimator's scores with what was measured.

    Args:
        name: of the estimator.
        truths: one per target.
        predicted: target -> scores; targets without any scored source are left out of its means.
    """
    per_target: dict[str, dict[str, float]] = {}
    signs, pairs, scored, seconds, shares = [], 0, 0, [], []
    intervals = _conformal(truths, predicted)
    for truth in truths:
        one = predicted.get(truth.target)
        values = None if one is None else _filled(one.scores, truth.sources)
        pairs += len(truth.sources)
        if one is None or values is None:
            continue
        scored += sum(source in one.scores for source in truth.sources)
        figures = _figures(values, truth) | _left_out(truth, values)
        if truth.baseline is not None:
            figures["auc"] = quality.sign_auc(values, truth.gains).auc
            signs.append((values, truth.gains))
        given = [source in one.intervals for source in truth.sources]
        if any(given):
            bounds = np.array([one.intervals[s] for s in truth.sources if s in one.intervals])
            figures |= _covered(bounds, truth.gains.mean(axis=1)[given], "")
        if truth.target in intervals:
            figures |= _covered(intervals[truth.target], truth.gains.mean(axis=1), "conformal_")
        for figure, value in figures.items():
            per_target.setdefault(figure, {})[truth.target] = value
        if one.seconds is not None:
            seconds.append(one.seconds)
            if truth.seconds is not None:
                shares.append(one.seconds / float(truth.seconds.sum()))
    means = {figure: _mean(values.values()) for figure, values in per_target.items()}
    if signs:
        means["auc_pooled"] = quality.sign_auc(
            np.concatenate([values for values, _ in signs]), np.concatenate([gains for _, gains in signs])
        ).auc
    means = {figure: value for figure, value in means.items() if not np.isnan(value)}
    targets = len(per_target.get("regret@1", {}))
    return Judged(
        name, means, per_target, targets, scored / max(pairs, 1),
        _mean(seconds) if seconds else None, _mean(shares) if shares else None,
    )  # fmt: skip


def references(truths: Sequence[Truth], related: Mapping[str, Collection[str]] = MappingProxyType({})) -> list[Judged]:
    """Returns the rows that no estimator made: random, popularity, one real seed, the noise ceiling.

    Args:
        truths: one per target.
        related: target -> tasks that share texts with it, whose transfers popularity must not know.
    """
    nothing = {truth.target: Predicted(dict.fromkeys(truth.sources, 0.0), 0.0) for truth in truths}
    random = judge("random", truths, nothing)
    random.figures["spearman"] = 0.0
    random.per_target["spearman"] = {truth.target: 0.0 for truth in truths}
    rows = [random, judge("popularity", truths, popularity(truths, related))]
    several = [truth for truth in truths if truth.results.shape[1] > 1]
    if several:
        rows += [_one_seed(several), _ceiling(several)]
    return rows


def popularity(
    truths: Sequence[Truth], related: Mapping[str, Collection[str]] = MappingProxyType({})
) -> dict[str, Predicted]:
    """Returns each source's mean gain over the other targets, for every target; those related to it are left out."""
    found = {}
    for truth in truths:
        others: dict[str, list[float]] = {}
        for other in truths:
            if other.target != truth.target and other.target not in related.get(truth.target, ()):
                for source, gain in zip(other.sources, other.gains.mean(axis=1), strict=True):
                    others.setdefault(source, []).append(float(gain))
        found[truth.target] = Predicted({s: float(np.mean(others[s])) for s in truth.sources if s in others}, 0.0)
    return found


def differences(rows: Iterable[Judged], best: Judged) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Paired differences of one row to all others, over the targets that both have: mean, low, high at 95%.

    Signs are such that above 0 the given row is better, also for regret.
    """
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for row in rows:
        if row.name == best.name:
            continue
        for figure in ("spearman", "regret@1", "regret@3", "regret@5", "ndcg", "auc"):
            name = LEFT_OUT.get(figure, figure) if row.name == ORACLE else figure
            mine, other = best.per_target.get(name, {}), row.per_target.get(name, {})
            shared = sorted(set(mine) & set(other))
            if shared:
                sign = -1 if figure in LOSSES else 1
                values = np.array([sign * (mine[target] - other[target]) for target in shared])
                found.setdefault(row.name, {})[figure] = mean_interval(values)
    return found


def _figures(values: np.ndarray, truth: Truth) -> dict[str, float]:
    relevance = np.maximum(truth.mean, 0.0)
    found = {
        "spearman": quality.spearman(values, truth.mean),
        "ndcg": quality.ndcg(values, relevance, "linear"),
        "ndcg_exponential": quality.ndcg(values, relevance, "exponential"),
    }
    return found | {f"regret@{k}": quality.regret(values, truth.mean, k) for k in KS}


def _left_out(truth: Truth, scores: np.ndarray | None = None) -> dict[str, float]:
    """Figures against the mean of all seeds but one, of (sources,) scores or of the seed left out; none of one seed."""
    if truth.results.shape[1] < 2:
        return {}
    figures = {"spearman": quality.spearman} | {f"regret@{k}": partial(quality.regret, k=k) for k in KS}
    return {LEFT_OUT[name]: quality.one_seed_oracle(truth.results, one, scores) for name, one in figures.items()}


def _one_seed(truths: Sequence[Truth]) -> Judged:
    """One real transfer per source and target, judged against the mean of the other seeds."""
    per_target: dict[str, dict[str, float]] = {}
    for truth in truths:
        for name, value in _left_out(truth).items():
            per_target.setdefault(name, {})[truth.target] = value
    seconds = [float(truth.seconds.sum()) for truth in truths if truth.seconds is not None]
    means = {name: _mean(per_target[left_out].values()) for name, left_out in LEFT_OUT.items()}
    return Judged(ORACLE, means, per_target, len(truths), 1.0, _mean(seconds) if seconds else None, 1.0)


def _ceiling(truths: Sequence[Truth]) -> Judged:
    """The Spearman that a perfect estimator would reach, from split halves of the seeds."""
    found = {truth.target: quality.split_half_ceiling(truth.results) for truth in truths}
    per_target = {
        "spearman": {target: one.ceiling for target, one in found.items()},
        "spearman_half": {target: one.half for target, one in found.items()},
    }
    means = {name: _mean(values.values()) for name, values in per_target.items()}
    return Judged("split_half_ceiling", means, per_target, len(truths), 1.0)


def _conformal(truths: Sequence[Truth], predicted: Mapping[str, Predicted]) -> dict[str, np.ndarray]:
    """90% intervals of the gain from an estimator's scores, learned on the other targets: (sources, 2) per target.

    A line from scores, standardised within the target, to gains; its residuals on the other targets give the width.
    """
    known = []
    for truth in truths:
        one = predicted.get(truth.target)
        values = None if one is None or truth.baseline is None else _filled(one.scores, truth.sources)
        if values is not None:
            spread = float(values.std())
            known.append((truth.target, (values - values.mean()) / (spread or 1.0), truth.gains.mean(axis=1)))
    found = {}
    for target, z, _ in known if len(known) > 2 else []:
        x = np.concatenate([other for name, other, _ in known if name != target])
        y = np.concatenate([gain for name, _, gain in known if name != target])
        slope = float((x * (y - y.mean())).sum() / max(float((x**2).sum()), 1e-12))
        line = y.mean() + slope * z
        residuals = np.sort(np.abs(y - y.mean() - slope * x))
        place = min(int(np.ceil((len(residuals) + 1) * LEVEL)), len(residuals)) - 1
        found[target] = np.stack([line - residuals[place], line + residuals[place]], axis=1)
    return found


def _covered(bounds: np.ndarray, gains: np.ndarray, prefix: str) -> dict[str, float]:
    low, high = bounds.T
    return {f"{prefix}coverage": quality.coverage(low, high, gains), f"{prefix}width": float((high - low).mean())}


def _filled(scores: Mapping[str, float], sources: Sequence[str]) -> np.ndarray | None:
    """(sources,) scores, an absent one at the median of the others; None where there is none at all."""
    values = np.array([scores.get(source, np.nan) for source in sources], np.float64)
    if np.isinf(values).any():
        raise DataError(f"score of {sources[int(np.isinf(values).argmax())]!r} is infinite: give finite scores")
    if np.isnan(values).all():
        return None
    return np.where(np.isnan(values), np.nanmedian(values), values)


def _mean(values: Iterable[float]) -> float:
    array = np.array(list(values), np.float64)
    array = array[~np.isnan(array)]
    return float(array.mean()) if len(array) else float("nan")
