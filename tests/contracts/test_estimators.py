"""One contract that every registered estimator passes."""

import math

import numpy as np
import pytest

from adaptmtl.errors import AdaptMTLError, SelectionError
from adaptmtl.transfer import hscore, logme, probe, size, text_embedding, tupate  # noqa: F401  (they register themselves)
from adaptmtl.transfer.contract import (
    EVIDENCE,
    Estimator,
    Features,
    Score,
    SourceEvidence,
    TargetEvidence,
    estimators,
    score_all,
)

NAMES = sorted(estimators)
SCALE_FREE = {"logme", "hscore", "probe", "text_embedding", "tupate"}
FORMS = ("classes", "values", "choices", "tokens")


def make_features(form: str, rows: int, hidden: int, seed: int, signal: float = 1.0) -> Features:
    labels, rng = np.random.default_rng(0), np.random.default_rng(seed)
    groups, target = None, form
    if form == "classes":
        y = labels.permutation(np.arange(rows) % 3)
        mean = rng.normal(size=(3, hidden))[y]
    elif form == "values":
        y = labels.normal(size=rows).astype(np.float32)
        mean = y[:, None] * rng.normal(size=hidden)
    elif form == "choices":
        y = (labels.permuted(np.tile(np.arange(4), (rows, 1)), axis=1) == 0).astype(np.int64).ravel()
        groups = np.repeat(np.arange(rows), 4)
        mean = y[:, None] * rng.normal(size=hidden)
    else:
        groups, target = np.repeat(np.arange(rows), 3), "classes"
        y = labels.permutation(np.arange(rows * 3) % 2)
        mean = rng.normal(size=(2, hidden))[y]
    x = (rng.normal(size=(len(y), hidden)) + signal * mean).astype(np.float32)
    return Features(x, y, groups, target)  # type: ignore[arg-type]


def make_delta(seed: int, factor: float = 1.0) -> dict:
    rng = np.random.default_rng(seed)
    return {f"layer.{i}": (rng.normal(size=(2, 6)), factor * rng.normal(size=(5, 2))) for i in range(2)}


def make_source(features: Features, seed: int = 1) -> SourceEvidence:
    embedding = np.random.default_rng(seed).normal(size=7)
    return SourceEvidence(f"source{seed}", f"key{seed}", 100 * seed, features, embedding, make_delta(seed))


def make_target(baseline: Features) -> TargetEvidence:
    return TargetEvidence("target", baseline, np.random.default_rng(99).normal(size=7), make_delta(99))


def permuted(features: Features, order: np.ndarray) -> Features:
    groups = None if features.groups is None else features.groups[order]
    return Features(features.x[order], features.y[order], groups, features.target)


@pytest.mark.parametrize("name", NAMES)
def test_declares_itself(name: str) -> None:
    estimator = estimators[name]
    assert isinstance(estimator, Estimator)
    assert estimator.name == name
    assert estimator.needs
    assert estimator.needs <= set(EVIDENCE)
    assert any(character.isdigit() for character in estimator.paper)
    assert "\n" not in estimator.paper


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "hidden"), [(30, 8), (12, 40)], ids=["tall", "wide"])
def test_finite_and_deterministic(name: str, form: str, rows: int, hidden: int) -> None:
    target, source = (
        make_target(make_features(form, rows, hidden, 0)),
        make_source(make_features(form, rows, hidden, 1)),
    )
    first, second = (estimators[name].score(source, target) for _ in range(2))
    assert first == second
    assert isinstance(first, Score)
    assert math.isfinite(first.value)
    assert first.standard_error is None or (math.isfinite(first.standard_error) and first.standard_error >= 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMS)
def test_order_of_rows_does_not_matter(name: str, form: str) -> None:
    base, features = make_features(form, 24, 10, 0), make_features(form, 24, 10, 1)
    order = np.random.default_rng(5).permutation(len(base.y))
    plain = estimators[name].score(make_source(features), make_target(base)).value
    mixed = estimators[name].score(make_source(permuted(features, order)), make_target(permuted(base, order))).value
    assert mixed == pytest.approx(plain, abs=1e-6, rel=1e-6)


def test_order_of_sources_does_not_matter() -> None:
    target = make_target(make_features("classes", 20, 6, 0))
    sources = [make_source(make_features("classes", 20, 6, i), i) for i in (1, 2, 3)]
    forward, backward = score_all(NAMES, sources, target), score_all(NAMES, sources[::-1], target)
    assert forward.scores == backward.scores
    assert not forward.skipped
    assert {len(row) for row in forward.scores.values()} == {3}


@pytest.mark.parametrize("name", sorted(SCALE_FREE))
@pytest.mark.parametrize("form", ["classes", "values", "choices"])
def test_scale_of_the_evidence_does_not_matter(name: str, form: str) -> None:
    base, features = make_features(form, 24, 10, 0), make_features(form, 24, 10, 1)
    scaled = Features(features.x * np.float32(1024), features.y, features.groups, features.target)
    source, target = make_source(features), make_target(base)
    embedding = np.asarray(source.text_embedding) * 7
    larger = SourceEvidence(source.name, source.key, source.train_rows, scaled, embedding, make_delta(1, 4.0))
    expected = estimators[name].score(source, target).value
    assert estimators[name].score(larger, target).value == pytest.approx(expected, abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_missing_evidence_is_named(name: str) -> None:
    target = make_target(make_features("classes", 12, 4, 0))
    with pytest.raises(AdaptMTLError, match=r"'bare'") as caught:
        estimators[name].score(SourceEvidence("bare", "k", 0), target)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    table = score_all([name], [SourceEvidence("bare", "k", 0)], target)
    assert table.scores == {name: {}}
    assert [(skip.estimator, skip.source) for skip in table.skipped] == [(name, "k")]


@pytest.mark.parametrize("name", [name for name in NAMES if "features" in estimators[name].needs])
def test_features_of_other_rows_are_refused(name: str) -> None:
    target = make_target(make_features("classes", 12, 4, 0))
    with pytest.raises(SelectionError, match="not of the rows"):
        estimators[name].score(make_source(make_features("classes", 15, 4, 1)), target)


@pytest.mark.parametrize("name", [name for name in NAMES if "features" in estimators[name].needs])
@pytest.mark.parametrize("form", FORMS)
def test_degenerate_features(name: str, form: str) -> None:
    informative = make_features(form, 30, 6, 1, signal=3.0)
    target = make_target(make_features(form, 30, 6, 0))
    value = estimators[name].score(make_source(informative), target).value
    for constant in (np.ones_like(informative.x), np.zeros_like(informative.x), np.ones_like(informative.x[:, :1])):
        flat = Features(constant, informative.y, informative.groups, informative.target)
        lost = estimators[name].score(make_source(flat), target).value
        assert math.isfinite(lost)
        assert lost < value


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [3, 6])
def test_few_rows_per_class(name: str, rows: int) -> None:
    base, features = make_features("classes", rows, 20, 0), make_features("classes", rows, 20, 1)
    assert math.isfinite(estimators[name].score(make_source(features), make_target(base)).value)


@pytest.mark.parametrize("name", [name for name in NAMES if "features" in estimators[name].needs])
@pytest.mark.parametrize("form", FORMS)
def test_more_signal_scores_higher(name: str, form: str) -> None:
    target = make_target(make_features(form, 60, 8, 0))
    values = [
        estimators[name].score(make_source(make_features(form, 60, 8, 1, signal)), target).value
        for signal in (0.0, 0.5, 2.0)
    ]
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.05
