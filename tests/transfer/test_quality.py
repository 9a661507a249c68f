from itertools import permutations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score, roc_auc_score

from adaptmtl.errors import DataError
from adaptmtl.transfer import quality

RNG = np.random.default_rng(0)
TRUTH = np.array([0.5, 0.9, 0.7, 0.2, 0.6])
TIED = np.array([1.0, 0.0, 1.0, 1.0, 0.0])


def orders(predicted: np.ndarray) -> list[list[int]]:
    """All orders of sources that agree with the predicted scores."""
    return [list(o) for o in permutations(range(len(predicted))) if (np.diff(predicted[list(o)]) <= 0).all()]


@pytest.mark.parametrize("predicted", [TIED, np.zeros(5), RNG.normal(size=5)], ids=["tied", "constant", "distinct"])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_regret_is_the_mean_over_orders_of_ties(predicted: np.ndarray, k: int) -> None:
    expected = np.mean([(0.9 - TRUTH[o[:k]].max()) / 0.9 for o in orders(predicted)])
    assert quality.regret(predicted, TRUTH, k) == pytest.approx(expected)


@pytest.mark.parametrize("predicted", [TIED, np.zeros(5), RNG.normal(size=5)], ids=["tied", "constant", "distinct"])
@pytest.mark.parametrize("gain", ["linear", "exponential"])
@pytest.mark.parametrize("k", [None, 1, 3])
def test_ndcg_is_the_mean_over_orders_of_ties(predicted: np.ndarray, gain: str, k: int | None) -> None:
    gains = TRUTH if gain == "linear" else 2**TRUTH - 1

    def dcg(order: list[int]) -> float:
        return sum(gains[source] / np.log2(place + 2) for place, source in enumerate(order[:k]))

    ideal = dcg(list(np.argsort(-TRUTH)))
    expected = np.mean([dcg(o) for o in orders(predicted)]) / ideal
    assert quality.ndcg(predicted, TRUTH, gain, k) == pytest.approx(expected)  # type: ignore[arg-type]
    assert quality.ndcg(predicted, TRUTH, gain, k) == pytest.approx(ndcg_score([gains], [predicted], k=k))  # type: ignore[arg-type]


def test_random_values_and_perfect_values() -> None:
    assert quality.random_ndcg(TRUTH) == pytest.approx(
        np.mean([quality.ndcg(RNG.permutation(5), TRUTH) for _ in range(4000)]), abs=0.01
    )
    assert quality.random_regret(TRUTH, 2) == pytest.approx(quality.regret(np.zeros(5), TRUTH, 2))
    assert quality.ndcg(TRUTH, TRUTH) == pytest.approx(1.0)
    assert quality.regret(TRUTH, TRUTH) == 0.0
    assert quality.ndcg(TRUTH, np.zeros(5)) == 1.0


def test_spearman_equals_scipy_and_is_averaged_not_pooled() -> None:
    a, b = RNG.integers(0, 4, 12).astype(float), RNG.normal(size=12)
    assert quality.spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert np.isnan(quality.spearman(np.ones(4), np.arange(4)))
    up, far = np.arange(4.0), np.arange(4.0) + 100
    mean, targets = quality.mean_spearman([(up, -up), (far, -far), (np.ones(4), up)])
    assert (mean, targets) == (pytest.approx(-1.0), 2)


def test_sign_auc_counts_pairs_that_seeds_agree_on() -> None:
    predicted = np.array([0.1, 0.9, 0.5, 0.5, 0.3, 0.8])
    gains = np.array([[-1, -1], [1, 2], [1, 1], [-1, -2], [1, -1], [0, 1]], dtype=float)
    result = quality.sign_auc(predicted, gains)
    assert (result.positive, result.negative, result.disputed) == (2, 2, 2)
    assert result.auc == pytest.approx(roc_auc_score([0, 1, 1, 0], [0.1, 0.9, 0.5, 0.5]))
    assert np.isnan(quality.sign_auc(predicted[:2], np.ones((2, 3))).auc)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
def test_split_half_against_all_splits(seeds: int) -> None:
    results = RNG.normal(size=(7, 1)) + 0.8 * RNG.normal(size=(7, seeds))
    h = seeds // 2
    values = [
        spearmanr(results[:, o[:h]].mean(axis=1), results[:, o[h : 2 * h]].mean(axis=1)).statistic
        for o in (list(p) for p in permutations(range(seeds)))
    ]
    ceiling = quality.split_half_ceiling(results)
    assert ceiling.half == pytest.approx(np.mean(values))
    m = seeds / h
    assert ceiling.reliability == pytest.approx(max(0.0, m * ceiling.half / (1 + (m - 1) * ceiling.half)))
    assert ceiling.ceiling == pytest.approx(np.sqrt(ceiling.reliability))


def test_ceiling_is_what_the_truth_itself_reaches() -> None:
    rng = np.random.default_rng(1)
    found, reached = [], []
    for _ in range(150):
        truth = rng.normal(size=25)
        results = truth[:, None] + rng.normal(size=(25, 4))
        found.append(quality.split_half_ceiling(results).ceiling)
        reached.append(quality.spearman(truth, results.mean(axis=1)))
    assert np.mean(found) == pytest.approx(np.mean(reached), abs=0.02)
    many = quality.split_half_ceiling(rng.normal(size=(6, 1)) + 0.01 * rng.normal(size=(6, 14)))
    assert many.ceiling == pytest.approx(1.0, abs=0.02)


def test_nonsense_is_refused() -> None:
    with pytest.raises(DataError, match="best result"):
        quality.regret(TRUTH, -TRUTH)
    with pytest.raises(DataError, match="relevance"):
        quality.ndcg(TRUTH, -TRUTH)
    with pytest.raises(DataError, match=r"\(3,\)"):
        quality.spearman(np.ones(3), TRUTH)
    with pytest.raises(DataError, match="at least 2"):
        quality.split_half_ceiling(np.ones((3, 1)))
    with pytest.raises(DataError, match="seeds"):
        quality.sign_auc(TRUTH, TRUTH)
