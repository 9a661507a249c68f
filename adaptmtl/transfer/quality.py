"""How good estimates were, once the real transfers are known.

All figures are per target; average them over targets, never pool pairs of different targets. Where predictions tie,
regret and NDCG are the exact expectation over a random order of the tied sources, so a constant prediction gives the
value of a random ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Literal

import numpy as np
from scipy.stats import rankdata

from adaptmtl.errors import DataError

MOST_SPLITS = 2_000


@dataclass(frozen=True)
class SignAuc:
    """AUC of predicting the sign of transfer.

    Attributes:
        auc: probability that a helping pair is scored above a hurting one, ties half; NaN with one sign only.
        positive: pairs on which all seeds gain.
        negative: pairs on which all seeds lose.
        disputed: pairs left out, because the seeds do not agree or one gains nothing.
    """

    auc: float
    positive: int
    negative: int
    disputed: int


@dataclass(frozen=True)
class Ceiling:
    """How well sources can be ranked at all, given the noise of seeds.

    Attributes:
        half: mean Spearman correlation of the sources' means over two disjoint halves of the seeds.
        reliability: of the mean over all seeds (Spearman-Brown), in [0, 1].
        ceiling: correlation that a perfect estimator would reach with that mean, sqrt(reliability).
    """

    half: float
    reliability: float
    ceiling: float


def spearman(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Rank correlation over one target's sources, ties at their mean rank; NaN where either is constant.

    Args:
        predicted: (sources,) scores.
        truth: (sources,) real results.
    """
    predicted, truth = _pair(predicted, truth)
    a, b = rankdata(predicted), rankdata(truth)
    a, b = a - a.mean(), b - b.mean()
    norms = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float(a @ b) / norms if norms > 0 else float("nan")


def mean_spearman(targets: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, int]:
    """Spearman per target, then averaged.

    Args:
        targets: (predicted, truth) of each target.

    Returns:
        The mean over the targets where it is defined (NaN if none), and their number.
    """
    values = np.array([spearman(predicted, truth) for predicted, truth in targets])
    defined = values[~np.isnan(values)]
    return (float(defined.mean()) if len(defined) else float("nan")), len(defined)


def regret(predicted: np.ndarray, truth: np.ndarray, k: int = 1) -> float:
    """Regret@k: (best - best among the predicted top k) / best.

    Args:
        predicted: (sources,) scores.
        truth: (sources,) real results on the target's metric; the best must be above 0.
        k: how many sources may be tried, 1 or more.

    Returns:
        A share of the best result, 0 for none lost.

    Raises:
        DataError: the best result is not above 0, or k is below 1.
    """
    predicted, truth = _pair(predicted, truth)
    best = float(truth.max())
    if k < 1 or best <= 0:
        raise DataError(f"regret@{k} with a best result of {best}: give k of 1 or more and results above 0")
    if k >= len(truth):
        return 0.0
    edge = np.sort(predicted)[::-1][k - 1]
    sure, tied = truth[predicted > edge], np.sort(truth[predicted == edge])
    places = k - len(sure)
    # the maximum of a random choice of `places` among the tied is tied[i] with C(i, places - 1) of C(m, places) chances
    chances = np.array([comb(i, places - 1) for i in range(len(tied))], dtype=np.float64) / comb(len(tied), places)
    floor = sure.max() if len(sure) else -np.inf
    return (best - float((chances * np.maximum(tied, floor))[chances > 0].sum())) / best


def ndcg(
    predicted: np.ndarray, truth: np.ndarray, gain: Literal["linear", "exponential"] = "linear", k: int | None = None
) -> float:
    """Normalised discounted cumulative gain of the predicted order; the discount of place i is 1 / log2(i + 1).

    Args:
        predicted: (sources,) scores.
        truth: (sources,) relevances, 0 or more.
        gain: linear (the relevance) or exponential (2^relevance - 1).
        k: places that count; all by default.

    Returns:
        A value in [0, 1]; 1 where no source has any relevance.

    Raises:
        DataError: a negative relevance, or k below 1.
    """
    predicted, truth = _pair(predicted, truth)
    if truth.min() < 0 or (k is not None and k < 1):
        raise DataError(
            f"NDCG with k {k} and a least relevance of {truth.min()}: give k of 1 or more and relevances of 0 or more"
        )
    gains = truth if gain == "linear" else np.exp2(truth) - 1
    discounts = 1 / np.log2(np.arange(len(gains)) + 2)
    discounts[len(gains) if k is None else k :] = 0
    ideal = float(np.sort(gains)[::-1] @ discounts)
    if ideal == 0:
        return 1.0
    values, group = np.unique(-predicted, return_inverse=True)  # best first
    size = np.bincount(group, minlength=len(values))
    mean_gain = np.bincount(group, weights=gains) / size
    return float(np.repeat(mean_gain, size) @ discounts) / ideal


def random_ndcg(truth: np.ndarray, gain: Literal["linear", "exponential"] = "linear", k: int | None = None) -> float:
    """Expected NDCG of a random order: what an NDCG must be read against."""
    return ndcg(np.zeros(len(truth)), truth, gain, k)


def random_regret(truth: np.ndarray, k: int = 1) -> float:
    """Expected regret@k of a random choice."""
    return regret(np.zeros(len(truth)), truth, k)


def sign_auc(predicted: np.ndarray, gains: np.ndarray) -> SignAuc:
    """AUC of the sign of transfer, on pairs whose sign all seeds agree on.

    Args:
        predicted: (pairs,) scores.
        gains: (pairs, seeds) real gains over target-only training.

    Raises:
        DataError: the shapes do not fit, or a number is not finite.
    """
    predicted, gains = np.asarray(predicted, np.float64), np.asarray(gains, np.float64)
    if (
        gains.ndim != 2
        or predicted.shape != (len(gains),)
        or not (np.isfinite(predicted).all() and np.isfinite(gains).all())
    ):
        raise DataError(f"scores {predicted.shape} and gains {gains.shape}: give finite (pairs,) and (pairs, seeds)")
    up, down = np.all(gains > 0, axis=1), np.all(gains < 0, axis=1)
    positive, negative = int(up.sum()), int(down.sum())
    disputed = len(gains) - positive - negative
    if not positive or not negative:
        return SignAuc(float("nan"), positive, negative, disputed)
    agreed = np.flatnonzero(up | down)
    ranks = rankdata(predicted[agreed])
    wins = ranks[np.asarray(up)[agreed]].sum() - positive * (positive + 1) / 2
    return SignAuc(float(wins) / (positive * negative), positive, negative, disputed)


def split_half_ceiling(results: np.ndarray, rng_seed: int = 0) -> Ceiling:
    """Noise ceiling of a target's ranking: correlate halves of the seeds, step up by Spearman-Brown, take the root.

    Args:
        results: (sources, seeds) real results, at least 2 of each.
        rng_seed: used only where there are more than 2,000 ways to split the seeds.

    Returns:
        The ceiling; for an odd number of seeds each split leaves one out.

    Raises:
        DataError: too few sources or seeds, or a number is not finite.
    """
    results = np.asarray(results, np.float64)
    if results.ndim != 2 or min(results.shape) < 2 or not np.isfinite(results).all():
        raise DataError(f"results have shape {results.shape}: give finite (sources, seeds) with at least 2 of each")
    seeds = results.shape[1]
    size = seeds // 2
    if comb(seeds, size) * comb(seeds - size, size) // 2 <= MOST_SPLITS:
        halves = [
            (first, second)
            for first in combinations(range(seeds), size)
            for second in combinations([s for s in range(seeds) if s not in first], size)
            if first < second
        ]
    else:
        rng = np.random.default_rng(rng_seed)
        orders = [rng.permutation(seeds).tolist() for _ in range(MOST_SPLITS)]
        halves = [(tuple(order[:size]), tuple(order[size : 2 * size])) for order in orders]
    values = [spearman(results[:, list(a)].mean(axis=1), results[:, list(b)].mean(axis=1)) for a, b in halves]
    half = float(np.mean(np.nan_to_num(values)))  # a constant half ranks nothing: correlation 0
    longer = seeds / size
    reliability = float(np.clip(longer * half / (1 + (longer - 1) * half), 0.0, 1.0)) if half > 0 else 0.0
    return Ceiling(half, reliability, float(np.sqrt(reliability)))


def one_seed_oracle(
    results: np.ndarray, figure: Callable[[np.ndarray, np.ndarray], float], scores: np.ndarray | None = None
) -> float:
    """How good the ranking of one real seed is: judged against the mean of the other seeds, averaged over seeds.

    Args:
        results: (sources, seeds) real results.
        figure: maps (predicted, truth) to a number, such as :func:`spearman` or a regret.
        scores: (sources,) of an estimator, judged against the same means in place of the seed.

    Returns:
        The mean over seeds, undefined ones left out; NaN if none is defined.

    Raises:
        DataError: fewer than 2 seeds.
    """
    results = np.asarray(results, np.float64)
    if results.ndim != 2 or results.shape[1] < 2:
        raise DataError(f"results have shape {results.shape}: the oracle needs (sources, seeds) with at least 2 seeds")
    values = np.array([
        figure(results[:, seed] if scores is None else scores, np.delete(results, seed, axis=1).mean(axis=1))
        for seed in range(results.shape[1])
    ])  # fmt: skip
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def coverage(low: np.ndarray, high: np.ndarray, truth: np.ndarray) -> float:
    """Share of real gains inside their intervals, bounds included.

    Raises:
        DataError: shapes differ, or an interval ends before it begins.
    """
    low, high, truth = (np.asarray(one, np.float64) for one in (low, high, truth))
    if not low.shape == high.shape == truth.shape or truth.size == 0 or not (low <= high).all():
        raise DataError(f"intervals {low.shape}, {high.shape} for {truth.shape} gains: give one low <= high per gain")
    return float(((low <= truth) & (truth <= high)).mean())


def _pair(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    fits = predicted.ndim == 1 and predicted.shape == truth.shape and len(truth) > 0
    if not fits or not (np.isfinite(predicted).all() and np.isfinite(truth).all()):
        raise DataError(f"scores {predicted.shape} and results {truth.shape}: give one finite number each per source")
    return predicted, truth
