"""Each estimator against a slow version written from its definition."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf

from adaptmtl.errors import SelectionError
from adaptmtl.transfer import size, text_embedding, tupate
from adaptmtl.transfer.contract import Features, SourceEvidence, TargetEvidence, estimators
from adaptmtl.transfer.hscore import hscore, ledoit_wolf
from adaptmtl.transfer.logme import logme

BASE = Features(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))


def slow_logme(x: np.ndarray, y: np.ndarray) -> float:
    """Maximises the density of y under N(0, X X^T / alpha + I / beta) over both precisions, from several starts."""

    def loss(logs: np.ndarray) -> float:
        alpha, beta = np.exp(logs)
        return -multivariate_normal.logpdf(y, cov=x @ x.T / alpha + np.eye(len(y)) / beta, allow_singular=False)

    runs = [
        minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000})
        for start in ([0.0, 0.0], [4.0, 1.0], [-4.0, 2.0])
    ]
    return -min(run.fun for run in runs) / len(y)


@pytest.mark.parametrize(("n", "hidden", "rank"), [(20, 4, 4), (12, 30, 30), (20, 6, 3)])
@pytest.mark.parametrize("noise", [0.3, 2.0])
def test_logme_is_the_maximum_of_the_evidence(n: int, hidden: int, rank: int, noise: float) -> None:
    rng = np.random.default_rng(n + hidden)
    x = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, hidden))
    y = x @ rng.normal(size=hidden) / np.sqrt(hidden) + noise * rng.normal(size=n)
    assert logme(x, y[:, None]) == pytest.approx(slow_logme(x, y), abs=2e-5)


def test_logme_averages_over_columns_and_bounds_a_perfect_fit() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(15, 3))
    targets = rng.normal(size=(15, 2))
    assert logme(x, targets) == pytest.approx(np.mean([logme(x, targets[:, :1]), logme(x, targets[:, 1:])]))
    assert 1 < logme(x, x[:, :1]) < 20


@pytest.mark.parametrize(("n", "hidden"), [(40, 5), (10, 25)])
def test_hscore_follows_its_definition(n: int, hidden: int) -> None:
    rng = np.random.default_rng(n)
    y = np.arange(n) % 3
    x = rng.normal(size=(n, hidden)) + rng.normal(size=(3, hidden))[y]
    covariance = LedoitWolf().fit(x)
    means = np.stack([x[y == c].mean(axis=0) for c in range(3)])[y]
    between = np.cov(means, rowvar=False, bias=True)
    expected = (1 - covariance.shrinkage_) * np.trace(np.linalg.inv(covariance.covariance_) @ between)
    assert hscore(x, np.eye(3)[y]) == pytest.approx(expected, rel=1e-6)


def test_ledoit_wolf_equals_scikit_learn() -> None:
    x = np.random.default_rng(1).normal(size=(30, 8)) * np.arange(1, 9)
    x -= x.mean(axis=0)
    reference = LedoitWolf(assume_centered=True).fit(x)
    covariance, shrinkage = ledoit_wolf(x)
    np.testing.assert_allclose(covariance, reference.covariance_, rtol=1e-9, atol=1e-9)
    assert shrinkage == pytest.approx(reference.shrinkage_)


def test_hscore_of_values_is_r2_with_many_rows() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(4000, 3)) * np.array([1.0, 4.0, 0.2])
    y = x @ np.array([1.0, -2.0, 0.5]) + rng.normal(size=4000)
    residual = y - y.mean() - (x - x.mean(axis=0)) @ np.linalg.lstsq(x - x.mean(axis=0), y - y.mean(), rcond=None)[0]
    assert hscore(x, (y - y.mean())[:, None]) == pytest.approx(1 - residual.var() / y.var(), abs=0.01)


def full(delta: dict) -> np.ndarray:
    return np.concatenate([(delta[name][1] @ delta[name][0]).ravel() for name in sorted(delta)])


def test_tupate_is_the_cosine_of_the_full_updates() -> None:
    rng = np.random.default_rng(3)
    a, b = ({m: (rng.normal(size=(r, 6)), rng.normal(size=(5, r))) for m in ("q", "v")} for r in (2, 3))
    first, second = full(a), full(b)
    expected = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    source, target = SourceEvidence("s", "s", 1, delta=a), TargetEvidence("t", BASE, delta=b)
    assert estimators["tupate"].score(source, target).value == pytest.approx(expected, rel=1e-12)
    turn = rng.normal(size=(2, 2))
    same = {m: (np.linalg.inv(turn) @ pair[0], pair[1] @ turn) for m, pair in a.items()}
    turned = estimators["tupate"].score(SourceEvidence("s", "s", 1, delta=same), target).value
    assert turned == pytest.approx(expected, rel=1e-9)
    only_q = {"q": a["q"]}
    more = estimators["tupate"].score(SourceEvidence("s", "s", 1, delta=only_q), target).value
    padded = {"q": a["q"], "v": (np.zeros((2, 6)), np.zeros((5, 2)))}
    cosine = full(padded) @ second / np.linalg.norm(full(padded)) / np.linalg.norm(second)
    assert more == pytest.approx(cosine, rel=1e-12)


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        ({"k": (np.ones((1, 6)), np.ones((5, 1)))}, "share no module"),
        ({"q": (np.ones((1, 7)), np.ones((5, 1)))}, "'q' is 5 x 7"),
        ({"q": (np.full((1, 6), np.nan), np.ones((5, 1)))}, "NaN"),
    ],
)
def test_tupate_refuses_updates_that_do_not_fit(delta: dict, message: str) -> None:
    target = TargetEvidence("t", BASE, delta={"q": (np.ones((2, 6)), np.ones((5, 2)))})
    with pytest.raises(SelectionError, match=message):
        tupate.TuPaTE().score(SourceEvidence("s", "s", 1, delta=delta), target)


def test_text_embedding_and_size() -> None:
    target = TargetEvidence("t", BASE, np.array([1.0, 0.0]))
    source = SourceEvidence("s", "s", 1000, text_embedding=np.array([3.0, 4.0]))
    assert text_embedding.TextEmbedding().score(source, target).value == pytest.approx(0.6)
    assert size.Size().score(source, target).value == pytest.approx(np.log(1000))
    with pytest.raises(SelectionError, match="same backbone"):
        text_embedding.TextEmbedding().score(SourceEvidence("s", "s", 1, text_embedding=np.ones(3)), target)
