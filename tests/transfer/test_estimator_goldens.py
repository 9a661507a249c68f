"""Estimators against other people's code and against slow versions written from the papers' formulas."""

import math

import numpy as np
import pytest
from sklearn.metrics import pairwise_distances
from sklearn.metrics.cluster import contingency_matrix

from adaptmtl.transfer.contract import Features, SourceEvidence, TargetEvidence, estimators
from adaptmtl.transfer.esm_logme import fit_space_map
from adaptmtl.transfer.first_order import set_value
from adaptmtl.transfer.history import Transfer, Transfers
from adaptmtl.transfer.hscore import hscore
from adaptmtl.transfer.knn import knn_rows
from adaptmtl.transfer.leep import labels_of, leep
from adaptmtl.transfer.logme import logme
from adaptmtl.transfer.pivot import pivot_score

# From transformer-ranker 0.2.0 (pip install --no-deps transformer-ranker), on the features of ``shared_features``:
#     LogME().fit(torch.from_numpy(x), torch.from_numpy(y))
#     HScore().fit(torch.from_numpy(x), torch.from_numpy(y))
#     LogME(regression=True).fit(torch.from_numpy(x), torch.from_numpy(values))
# Its H-score divides the covariance of class means by n - 1 and the other by n; ours divides both by n.
RANKER = {
    0: ((200, 16, 3), -0.5067494182259993, 1.0900187878475236, -0.5218309405617247),
    1: ((300, 48, 5), 0.05146389607164111, 3.2375328747974668, -0.562855424189764),
    2: ((120, 8, 2), -0.588348469699181, 0.8022361714778922, -0.3535941918869714),
}


def shared_features(seed: int, n: int, hidden: int, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = (rng.normal(size=(n, hidden)) + 0.7 * rng.normal(size=(classes, hidden))[y]).astype(np.float32)
    return x, y, (x[:, 0] + 0.3 * rng.normal(size=n)).astype(np.float32)


@pytest.mark.parametrize("seed", RANKER)
def test_logme_and_hscore_agree_with_transformer_ranker(seed: int) -> None:
    (n, hidden, classes), expected_logme, expected_hscore, expected_values = RANKER[seed]
    x, y, values = shared_features(seed, n, hidden, classes)
    hot = np.eye(classes)[y]
    assert logme(x.astype(float), hot) == pytest.approx(expected_logme, abs=1e-4)
    assert hscore(x.astype(float), hot) * n / (n - 1) == pytest.approx(expected_hscore, abs=1e-4)
    assert logme(x.astype(float), values.astype(float)[:, None]) == pytest.approx(expected_values, abs=1e-4)


def paper_logme(x: np.ndarray, y: np.ndarray) -> float:
    """Algorithm 1 of You et al. 2021 with plain matrices: A = alpha I + beta X^T X, m = beta A^-1 X^T y."""
    n, hidden = x.shape
    alpha = beta = 1.0
    for _ in range(500):
        a = alpha * np.eye(hidden) + beta * x.T @ x
        m = beta * np.linalg.solve(a, x.T @ y)
        values = beta * np.linalg.eigvalsh(x.T @ x)
        gamma = (values / (alpha + values)).sum()
        alpha, beta = gamma / (m @ m), (n - gamma) / ((x @ m - y) ** 2).sum()
    a = alpha * np.eye(hidden) + beta * x.T @ x
    m = beta * np.linalg.solve(a, x.T @ y)
    evidence = n / 2 * np.log(beta) + hidden / 2 * np.log(alpha) - n / 2 * np.log(2 * np.pi)
    evidence -= beta / 2 * ((x @ m - y) ** 2).sum() + alpha / 2 * (m @ m) + 0.5 * np.linalg.slogdet(a)[1]
    return float(evidence / n)


@pytest.mark.parametrize("seed", range(4))
def test_logme_is_the_papers_algorithm(seed: int) -> None:
    x, y, values = shared_features(seed, 60, 7, 2)
    for target in (y.astype(float), values.astype(float)):
        assert logme(x.astype(float), target[:, None]) == pytest.approx(paper_logme(x.astype(float), target), abs=1e-4)


def test_leep_is_the_papers_formula() -> None:
    rng = np.random.default_rng(0)
    classes, y = rng.dirichlet(np.ones(4), size=50), rng.integers(0, 3, 50)
    joint = np.zeros((3, 4))
    for i in range(50):
        joint[y[i]] += classes[i] / 50
    given = joint / joint.sum(axis=0)
    expected = [math.log(sum(given[y[i], z] * classes[i, z] for z in range(4))) for i in range(50)]
    np.testing.assert_allclose(leep(classes, y), expected)


def test_nce_is_minus_the_conditional_entropy() -> None:
    rng = np.random.default_rng(1)
    z, y = rng.integers(0, 4, 200), rng.integers(0, 3, 200)
    table = contingency_matrix(y, z) / 200
    entropy = -sum(p * math.log(p / table[:, j].sum()) for j in range(4) for p in table[:, j] if p > 0)
    assert leep(np.eye(4)[z], y).mean() == pytest.approx(-entropy)
    assert leep(np.eye(3)[y], y).mean() == pytest.approx(0)


def test_values_become_fifths_and_choices_marks() -> None:
    x = np.zeros((50, 2), np.float32)
    assert np.bincount(labels_of(Features(x, np.arange(50, dtype=np.float32), None, "values"))).tolist() == [10] * 5
    two = Features(x, np.repeat([1.0, 4.0], 25).astype(np.float32), None, "values")
    assert len(set(labels_of(two).tolist())) == 2
    marks = Features(x, np.tile([0, 1], 25), np.repeat(np.arange(25), 2), "choices")
    assert labels_of(marks).tolist() == [0, 1] * 25


def slow_knn(features: Features, k: int) -> np.ndarray:
    """Classes and values, one vector a row."""
    distance = pairwise_distances(features.x - features.x.mean(axis=0), metric="cosine")
    y, out = features.y, []
    for i in range(len(y)):
        near = [j for j in np.argsort(distance[i], kind="stable") if j != i][:k]
        if features.target == "values":
            z = (y - y.mean()) / y.std()
            out.append(1 - (z[near].sum() / (k + 1) - z[i]) ** 2)
        else:
            right = ((y[near] == y[i]).sum() + (y == y[i]).mean()) / (k + 1)
            shares = np.bincount(y) / len(y)
            out.append(1 + np.log(right) / -(shares * np.log(shares)).sum())
    return np.array(out)


@pytest.mark.parametrize("kind", ["classes", "values"])
def test_knn_equals_a_slow_loop(kind: str) -> None:
    x, y, values = shared_features(0, 70, 6, 3)
    features = Features(x, y if kind == "classes" else values, None, kind)  # type: ignore[arg-type]
    np.testing.assert_allclose(knn_rows(features, 5), slow_knn(features, 5), atol=1e-6)


def test_tokens_of_a_row_are_no_neighbours_of_each_other() -> None:
    """Each row's two tokens are equal and no other row's: with them as neighbours, labels would be known."""
    x = np.repeat(np.eye(20, dtype=np.float32), 2, axis=0)
    features = Features(x, np.repeat(np.arange(20) % 2, 2), np.repeat(np.arange(20), 2), "classes")
    assert knn_rows(features, 3).mean() < 0.05


def test_a_low_rank_change_is_recovered_by_the_space_map() -> None:
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(300, 20))
    change = rng.normal(size=(20, 3)) @ rng.normal(size=(3, 20))
    adapted = plain + plain @ change + 0.7
    exact = fit_space_map(plain, adapted, penalty=1e-9)
    fresh = rng.normal(size=(10, 20))
    np.testing.assert_allclose(exact(fresh), fresh + fresh @ change + 0.7, rtol=1e-3, atol=1e-3)
    assert np.linalg.matrix_rank(exact.down.astype(float) @ exact.up, tol=1e-3) == 3
    wide = fit_space_map(plain[:8], adapted[:8])  # fewer rows than features: falls back towards the identity
    assert np.linalg.norm(wide.down @ wide.up) < np.linalg.norm(change)
    still = fit_space_map(plain, plain)
    np.testing.assert_allclose(still(fresh), fresh, atol=1e-6)
    constant = fit_space_map(np.ones((5, 4)), np.ones((5, 4)) + 2)
    np.testing.assert_allclose(constant(np.zeros((2, 4))), 2, atol=1e-6)


def test_esm_logme_is_logme_through_the_map() -> None:
    x, y, _ = shared_features(0, 80, 10, 3)
    base = Features(x, y)
    space = fit_space_map(x, x * 2 + 1)
    target = TargetEvidence("t", base)
    score = estimators["esm_logme"].score(SourceEvidence("s", "s", 1, space_map=space), target).value
    assert score == pytest.approx(logme(space(x).astype(float), np.eye(3)[y]), abs=1e-9)
    assert score != pytest.approx(estimators["logme"].score(SourceEvidence("s", "s", 1, base), target).value, abs=1e-4)


def test_set_value_is_the_fall_at_the_best_step() -> None:
    rng = np.random.default_rng(0)
    slopes = rng.normal(loc=[-0.3, 0.2, -0.05], size=(400, 3))
    for chosen in ([0], [1], [0, 1, 2]):
        d = slopes[:, chosen].mean(axis=1)
        steps = np.linspace(-5, 5, 200001)
        falls = -(steps * d.mean() + steps**2 / 2 * (d**2).mean())
        value, error = set_value(slopes, chosen)
        assert abs(value) == pytest.approx(falls.max(), abs=1e-6)
        assert np.sign(value) == -np.sign(d.mean()) and error > 0
    assert set_value(np.zeros((5, 1)), [0]) == (0.0, 0.0)
    draws = [set_value(rng.normal(loc=-0.3, size=(400, 1)), [0])[0] for _ in range(600)]
    errors = [set_value(rng.normal(loc=-0.3, size=(400, 1)), [0])[1] for _ in range(50)]
    assert np.mean(errors) == pytest.approx(np.std(draws), rel=0.1)


def test_taskemb_is_the_mean_cosine_over_modules() -> None:
    a, b = (
        {"q": np.array([3.0, 4.0]), "v": np.array([1.0, 0.0])},
        {"q": np.array([4.0, 3.0]), "v": np.array([0.0, 2.0])},
    )
    target = TargetEvidence("t", Features(np.eye(4, dtype=np.float32), np.arange(4) % 2), fisher=b)
    assert estimators["taskemb"].score(SourceEvidence("s", "s", 1, fisher=a), target).value == pytest.approx(0.96 / 2)
    tiny = {name: value * 1e-300 for name, value in a.items()}
    assert estimators["taskemb"].score(SourceEvidence("s", "s", 1, fisher=tiny), target).value == pytest.approx(0.48)


def test_popularity_and_pivot_by_hand() -> None:
    def past(target: str, source: str, score: float, seed: int = 0) -> Transfer:
        return Transfer("h", target, (source,), seed, score, 0.5)

    rows = (
        past("near", "a", 0.6), past("near", "a", 0.7, 1), past("near", "b", 0.4), past("near", "b", 0.4, 1),
        past("far", "a", 0.4), past("far", "b", 0.6), past("t", "a", 0.0),
    )  # fmt: skip
    history = Transfers(rows, {"near": np.array([1.0, 0.0]), "far": np.array([0.0, 1.0])})
    base = Features(np.eye(4, dtype=np.float32), np.arange(4) % 2)
    target = TargetEvidence("t", base, text_embedding=np.array([1.0, 0.0]), history=history)
    a, b = SourceEvidence("a", "ka", 1), SourceEvidence("b", "kb", 1)
    found = estimators["popularity"].score(a, target)
    assert found.value == pytest.approx((0.3 - 0.2) / 2)
    assert found.standard_error == pytest.approx(np.std([0.3, -0.2], ddof=1) / np.sqrt(2))
    weight = math.exp(-1 / 0.1)
    assert estimators["pivot"].score(a, target).value == pytest.approx((1 - weight) / (1 + weight))
    assert estimators["pivot"].score(b, target).value == pytest.approx(-(1 - weight) / (1 + weight))
    assert pivot_score("a", {("p", "a"): 1.0, ("p", "b"): 1.0}, {"p": 0.3}, "t") == 0
