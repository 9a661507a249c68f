"""Intervals and tests on per-row sufficient statistics of several seeds.

Two things vary: which rows were drawn for evaluation, and which seeds were trained with. All seeds predict the same
rows. With the score of a seed as mean + seed + row + seed-by-row effects, the mean over S seeds has the variance
``rows + (seed + interaction) / S``.

Resampling S seeds along with the rows would understate the second term by (S - 1) / S, and percentiles of 3 to 5
resampled seeds know nothing of Student's t. So the second term is the plain variance of the seeds' scores, with t
quantiles on S - 1 degrees of freedom; only rows are resampled, and what they move seeds apart (the interaction, already
in the second term) is taken out. The half width is ``sqrt(z^2 rows + t^2 (seed + interaction) / S)``: of four ways
to join the two that were simulated, the only one that never covered less than it states. Satterthwaite's degrees of
freedom covered .92 with 3 seeds and .87 with 2 where seeds differ much.

Measured coverage at 95%, normal effects, over all shares of the three parts: 2 seeds .95 to .99, 3 seeds .95 to .98,
5 seeds .95 to .97, 10 seeds .95 to .96. Where only seeds and interaction differ, it is the t test over seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.special import ndtri, stdtrit

from adaptmtl.errors import DataError

ScoreFunction = Callable[[np.ndarray], np.ndarray]
VerdictName = Literal["better", "worse", "not inferior", "no difference shown"]
CHUNK = 4_000_000  # row weights held at once (32 MiB)
_KEPT = 16_000_000  # row counts that are kept for the next interval (32 MiB)


@dataclass(frozen=True)
class Interval:
    """A score over seeds with its interval.

    Attributes:
        mean: mean over seeds of the score on all rows.
        sd_seeds: standard deviation over seeds; NaN for one seed.
        low, high: bounds of the interval; for one seed they speak of that one trained model only.
        n_rows, n_seeds: what it rests on.
    """

    mean: float
    sd_seeds: float
    low: float
    high: float
    n_rows: int
    n_seeds: int


@dataclass(frozen=True)
class Paired:
    """A difference of two scores on the same rows and seeds.

    Attributes:
        difference: mean over seeds of score a - score b.
        low, high: bounds of its interval.
        p_two_sided: p of no difference.
        row_error: standard error that comes from the choice of rows (for one seed all of it).
        seed_error: standard error that comes from seeds and how they act on rows.
        level: of the interval.
        n_rows, n_seeds: what it rests on.
    """

    difference: float
    low: float
    high: float
    p_two_sided: float
    row_error: float
    seed_error: float
    level: float
    n_rows: int
    n_seeds: int

    def p_noninferior(self, margin: float) -> float:
        """One-sided p of a being worse than b by ``margin`` or more; small says that it is not.

        Raises:
            DataError: a negative margin.
        """
        if not margin >= 0:
            raise DataError(f"non-inferiority margin {margin}: give 0 or more, stated before the run")
        return _p_above(self.difference + margin, self.row_error, self.seed_error, self.n_seeds)


@dataclass(frozen=True)
class _Spread:
    """Errors of a mean over seeds: of the rows (also one-sided, where the bootstrap is skewed) and of the seeds."""

    rows: float
    below: float
    above: float
    seeds: float


def interval(
    stats: np.ndarray,
    score: ScoreFunction,
    level: float = 0.95,
    resamples: int = 2000,
    rng_seed: int = 0,
    limits: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """Interval of the mean score over seeds, for new rows and new seeds.

    Each side takes the bootstrap quantile of the rows (so it may be skewed) and adds the seeds' part in quadrature.
    A score at its limit on all rows (accuracy 1) has no bootstrap spread, and the interval then has no width.

    Args:
        stats: (seeds, rows, d) additive statistics per row; the same rows for all seeds.
        score: maps sums (..., d) to scores (...).
        level: in (0, 1).
        resamples: bootstrap resamples of the rows.
        rng_seed: the same seed gives the same interval.
        limits: least and greatest possible score, which the interval is cut at.

    Raises:
        DataError: a wrong shape, non-finite numbers, fewer than 2 rows, or a level outside (0, 1).
    """
    stats = _checked(stats, level, resamples)
    scores, replicates = _scores(stats, score), _resampled(stats, score, resamples, rng_seed)
    spread, mean = _spread(scores, replicates, level, stats.shape[1]), float(scores.mean())
    tail, seeds = (1 - level) / 2, len(scores)
    low = mean - _half_width(tail, spread.below, spread.seeds, seeds)
    high = mean + _half_width(tail, spread.above, spread.seeds, seeds)
    low, high = max(low, limits[0]), min(high, limits[1])
    return Interval(mean, _sd(scores), low, high, stats.shape[1], seeds)


def paired(
    stats_a: np.ndarray,
    stats_b: np.ndarray,
    score: ScoreFunction,
    level: float = 0.95,
    resamples: int = 2000,
    rng_seed: int = 0,
) -> Paired:
    """Compares two arms on the same rows, seed by seed: both see the same resampled rows.

    Args:
        stats_a: (seeds, rows, d) of the arm that is judged.
        stats_b: (seeds, rows, d) of the one it is judged against, same rows and seeds in the same order.
        score: maps sums (..., d) to scores (...).
        level: in (0, 1).
        resamples: bootstrap resamples of the rows.
        rng_seed: the same seed gives the same result.

    Raises:
        DataError: the arms differ in shape, or as in ``interval``.
    """
    stats_a, stats_b = _checked(stats_a, level, resamples), _checked(stats_b, level, resamples)
    if stats_a.shape != stats_b.shape:
        raise DataError(
            f"arms have statistics {stats_a.shape} and {stats_b.shape}: evaluate both on equal rows and seeds"
        )
    both = np.concatenate([stats_a, stats_b])
    seeds = len(stats_a)
    scores, replicates = _scores(both, score), _resampled(both, score, resamples, rng_seed)
    scores, replicates = scores[:seeds] - scores[seeds:], replicates[:, :seeds] - replicates[:, seeds:]
    return _compared(scores, replicates, level, stats_a.shape[1])


def against_constant(
    stats: np.ndarray,
    score: ScoreFunction,
    constant: float,
    level: float = 0.95,
    resamples: int = 2000,
    rng_seed: int = 0,
) -> Paired:
    """Compares an arm with a fixed figure, such as the majority rate; arguments as in ``interval``."""
    stats = _checked(stats, level, resamples)
    scores, replicates = _scores(stats, score), _resampled(stats, score, resamples, rng_seed)
    return _compared(scores - constant, replicates - constant, level, stats.shape[1])


def verdict(comparison: Paired, margin: float, p_adjusted: float | None = None) -> VerdictName:
    """Says in words what a comparison shows.

    Args:
        comparison: a against b.
        margin: largest loss that still counts as not inferior, stated before the run, in the score's unit.
        p_adjusted: Holm-adjusted two-sided p where several comparisons are made; else the comparison's own.

    Returns:
        better or worse where the difference is significant at 1 - level; else not inferior where a loss of ``margin``
        is excluded (one-sided at half that); else no difference shown.
    """
    p = comparison.p_two_sided if p_adjusted is None else p_adjusted
    if p < 1 - comparison.level:
        return "better" if comparison.difference > 0 else "worse"
    if comparison.p_noninferior(margin) < (1 - comparison.level) / 2:
        return "not inferior"
    return "no difference shown"


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjusts p values for their number, step down (Holm 1979): valid whatever their dependence.

    Args:
        p_values: (m,) in [0, 1].

    Returns:
        (m,) adjusted p values in the given order; those below a level keep the family-wise error at that level.

    Raises:
        DataError: a p value outside [0, 1], or NaN.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise DataError(f"p values {p.tolist()}: give a list of numbers in [0, 1]")
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return adjusted


def mean_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Returns the mean of independent values with Student's interval, as of differences on several targets.

    Args:
        values: NaN where one is undefined; those do not count.
        level: in (0, 1).

    Returns:
        Mean, low, high; the bounds are NaN with fewer than 2 values, and the mean as well with none.
    """
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if len(known) < 2:
        return (float(known[0]) if len(known) else np.nan), np.nan, np.nan
    half = float(stdtrit(len(known) - 1, (1 + level) / 2)) * float(known.std(ddof=1)) / len(known) ** 0.5
    return float(known.mean()), float(known.mean()) - half, float(known.mean()) + half


def mean_ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns the rank of each value, 1 for the least; equal values share their mean rank.

    The same as ``scipy.stats.rankdata`` (NaN for all where one value is NaN), without the second that importing
    scipy.stats takes.
    """
    values = np.asarray(values, np.float64)
    if np.isnan(values).any():
        return np.full(len(values), np.nan)
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def _compared(scores: np.ndarray, replicates: np.ndarray, level: float, rows: int) -> Paired:
    spread, mean, seeds = _spread(scores, replicates, level, rows), float(scores.mean()), len(scores)
    half = _half_width((1 - level) / 2, spread.rows, spread.seeds, seeds)
    p = min(1.0, 2 * _p_above(abs(mean), spread.rows, spread.seeds, seeds))
    return Paired(mean, mean - half, mean + half, p, spread.rows, spread.seeds, level, rows, seeds)


def _spread(scores: np.ndarray, replicates: np.ndarray, level: float, rows: int) -> _Spread:
    """Parts the errors of rows and seeds.

    Args:
        scores: (seeds,) on all rows.
        replicates: (resamples, seeds) on resampled rows.
        level: of the interval.
        rows: number of rows.
    """
    seeds, means = len(scores), replicates.mean(axis=1)
    finite = rows / (rows - 1)  # a bootstrap variance is short by (n - 1) / n
    variance = float(means.var(ddof=1)) * finite
    tails = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    below, above = (max(0.0, float(side)) for side in (scores.mean() - tails[0], tails[1] - scores.mean()))
    observed = interaction = 0.0
    if seeds > 1:
        observed = float(scores.var(ddof=1)) / seeds
        interaction = float((replicates - means[:, None]).var(axis=0, ddof=1).sum()) * finite / (seeds - 1) / seeds
    shared = max(0.0, variance - min(interaction, observed))  # only what the seeds' term really holds is taken out
    scale = float(np.sqrt(finite * shared / variance)) / float(ndtri((1 + level) / 2)) if variance > 0 else 0.0
    return _Spread(float(np.sqrt(shared)), below * scale, above * scale, float(np.sqrt(observed)))


def _resampled(stats: np.ndarray, score: ScoreFunction, resamples: int, rng_seed: int) -> np.ndarray:
    """Scores (resamples, seeds) on rows drawn with replacement, the same rows for all seeds."""
    seeds, rows, d = stats.shape
    flat = np.ascontiguousarray(stats.transpose(1, 0, 2)).reshape(rows, seeds * d)
    parts = []
    for weights in _row_weights(rows, resamples, rng_seed):
        parts.append(np.asarray(score((weights @ flat).reshape(len(weights), seeds, d)), np.float64))
    replicates = np.concatenate(parts)
    broken = ~np.isfinite(replicates).all(axis=1)
    if broken.mean() > 0.05:
        raise DataError(
            f"the score is undefined on {broken.sum()} of {resamples} resamples of {rows} rows: "
            "evaluate on more rows, or with a metric that one label alone does not break"
        )
    return replicates[~broken]


def _row_weights(rows: int, resamples: int, rng_seed: int) -> Iterator[np.ndarray]:
    """Yields (chunk, rows) counts of how often each row was drawn, in chunks that fit memory; not dependent on them."""
    draw = _kept_counts if rows * resamples <= _KEPT else _counts
    for counts in draw(rows, resamples, rng_seed, max(1, CHUNK // rows)):
        yield counts.astype(np.float64)


def _counts(rows: int, resamples: int, rng_seed: int, chunk: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(rng_seed)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = rng.integers(0, rows, (size, rows)) + np.arange(size)[:, None] * rows
        yield np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows).astype(np.uint16)


@lru_cache(maxsize=1)
def _kept_counts(rows: int, resamples: int, rng_seed: int, chunk: int) -> tuple[np.ndarray, ...]:
    """The same draws serve every interval of a check: all arms and metrics are scored on the same rows."""
    return tuple(_counts(rows, resamples, rng_seed, chunk))


def _scores(stats: np.ndarray, score: ScoreFunction) -> np.ndarray:
    scores = np.asarray(score(stats.sum(axis=1)), np.float64)
    if scores.shape != stats.shape[:1] or not np.isfinite(scores).all():
        raise DataError(f"the score function gave {scores!r} for {len(stats)} seeds: give one finite number a seed")
    return scores


def _checked(stats: np.ndarray, level: float, resamples: int) -> np.ndarray:
    stats = np.asarray(stats, dtype=np.float64)
    if stats.ndim != 3 or stats.shape[0] < 1 or stats.shape[1] < 2 or not np.isfinite(stats).all():
        raise DataError(f"statistics have shape {stats.shape}: give finite (seeds, rows, d) with at least 2 rows")
    if not 0 < level < 1 or resamples < 100:
        raise DataError(f"level {level}, {resamples} resamples: give a level in (0, 1) and at least 100 resamples")
    return stats


def _sd(scores: np.ndarray) -> float:
    return float(scores.std(ddof=1)) if len(scores) > 1 else float("nan")


def _half_width(tail: float, row_error: float, seed_error: float, seeds: int) -> float:
    """Distance from the mean beyond which lies ``tail`` on one side."""
    seed_part = -float(stdtrit(seeds - 1, tail)) * seed_error if seed_error > 0 else 0.0
    return float(np.hypot(-ndtri(tail) * row_error, seed_part))


def _p_above(difference: float, row_error: float, seed_error: float, seeds: int) -> float:
    """One-sided p that a difference is above 0: the tail whose half width just reaches 0; 0.5 for no difference."""
    if difference == 0:
        return 0.5
    if row_error == 0 and seed_error == 0:
        return float(difference < 0)
    from scipy.optimize import brentq  # most commands print no p value, and do without this import

    least, distance = 1e-60, abs(difference)
    if _half_width(least, row_error, seed_error, seeds) <= distance:
        tail = least
    else:
        found = brentq(
            lambda log: _half_width(float(np.exp(log)), row_error, seed_error, seeds) - distance,
            np.log(least),
            np.log(0.5),
            xtol=1e-10,
        )
        tail = float(np.exp(found))
    return tail if difference > 0 else 1 - tail
