"""One contract that every registered estimator passes."""

import math
from dataclasses import replace

import numpy as np
import pytest

import adaptmtl.transfer  # noqa: F401  (estimators register themselves)
from adaptmtl.errors import AdaptMTLError, SelectionError
from adaptmtl.transfer.contract import (
    EVIDENCE,
    Estimator,
    Features,
    Score,
    SourceEvidence,
    SpaceMap,
    TargetEvidence,
    estimators,
    score_all,
)
from adaptmtl.transfer.history import Transfer, Transfers

NAMES = sorted(estimators)
NEEDY = [name for name in NAMES if estimators[name].needs]
#: Estimators that claim not to depend on the scale of the evidence in brackets.
SCALE_FREE = {
    "logme": "features", "hscore": "features", "probe": "features", "knn": "features",
    "esm_logme": "baseline and map", "text_embedding": "embedding", "pivot": "embedding", "tupate": "delta",
    "taskemb": "fisher", "first_order": "slopes", "random": "everything", "popularity": "embedding",
}  # fmt: skip
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


def make_fisher(seed: int, factor: float = 1.0) -> dict:
    rng = np.random.default_rng(seed)
    return {f"layer.{i}": factor * rng.gamma(0.5, size=6) for i in range(2)}


def make_source(features: Features, seed: int = 1) -> SourceEvidence:
    """All parts of the evidence; those that hold one value per vector or row follow from the features' first column."""
    rng = np.random.default_rng(seed)
    width = features.x.shape[1]
    logits = np.stack([features.x[:, 0], np.zeros(len(features.x)), -features.x[:, 0]], axis=1)
    by_row = np.bincount(features.row_of, weights=features.x[:, 0]) / np.bincount(features.row_of)
    return SourceEvidence(
        name=f"source{seed}", key=f"key{seed}", train_rows=100 * seed, features=features,
        text_embedding=rng.normal(size=7), delta=make_delta(seed),
        classes=np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True),
        space_map=SpaceMap(rng.normal(size=(width, 2)), rng.normal(size=(2, width)), rng.normal(size=width)),
        fisher=make_fisher(seed), slopes=by_row + 0.1, short_run=by_row,
    )  # fmt: skip


def make_target(baseline: Features) -> TargetEvidence:
    rng = np.random.default_rng(99)
    rows = tuple(
        Transfer("hash", target, (f"source{source}",), seed, 0.5 + rng.uniform(), 0.6)
        for target in ("past1", "past2", "target") for source in (1, 2, 3) for seed in (0, 1)
    )  # fmt: skip
    embeddings = {"past1": rng.normal(size=7), "past2": rng.normal(size=7)}
    return TargetEvidence(
        name="target", baseline=baseline, text_embedding=rng.normal(size=7), delta=make_delta(99),
        fisher=make_fisher(99), short_run=np.zeros(baseline.n_rows), history=Transfers(rows, embeddings),
    )  # fmt: skip


def permuted(features: Features, order: np.ndarray) -> Features:
    groups = None if features.groups is None else features.groups[order]
    return Features(features.x[order], features.y[order], groups, features.target)


def scaled(source: SourceEvidence, factor: float) -> SourceEvidence:
    """The same source with every part of its evidence that has a scale multiplied by a power of two."""
    f, space = source.features, source.space_map
    assert f is not None and space is not None and source.text_embedding is not None and source.slopes is not None
    return replace(
        source,
        features=Features(f.x * np.float32(factor), f.y, f.groups, f.target),
        text_embedding=source.text_embedding * factor,
        delta=make_delta(1, factor),
        fisher=make_fisher(1, factor),
        slopes=source.slopes * factor,
        space_map=SpaceMap(space.down, space.up, space.shift * factor),
    )


@pytest.mark.parametrize("name", NAMES)
def test_declares_itself(name: str) -> None:
    estimator = estimators[name]
    assert isinstance(estimator, Estimator)
    assert estimator.name == name
    assert estimator.needs <= set(EVIDENCE)
    assert bool(estimator.needs) == (name != "random")
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
    source, target = make_source(features), make_target(base)
    if name == "esm_logme":
        target_of = lambda factor: make_target(replace(base, x=base.x * np.float32(factor)))  # noqa: E731
    else:
        target_of = lambda factor: target  # noqa: E731
    expected = estimators[name].score(source, target).value
    for factor in (1024.0, 2.0**-20):
        found = estimators[name].score(scaled(source, factor), target_of(factor)).value
        assert found == pytest.approx(expected, abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(SCALE_FREE) - {"size"}))
def test_what_depends_on_scale_is_listed_rightly(name: str) -> None:
    """Probabilities and losses have a scale of their own: LEEP, NCE and short runs must not be called scale-free."""
    assert estimators[name].needs & {"classes", "short_run"}


@pytest.mark.parametrize("name", NEEDY)
def test_missing_evidence_is_named(name: str) -> None:
    target = make_target(make_features("classes", 12, 4, 0))
    with pytest.raises(AdaptMTLError, match=r"'bare'") as caught:
        estimators[name].score(SourceEvidence("bare", "k", 0), target)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    table = score_all([name], [SourceEvidence("bare", "k", 0)], target)
    assert table.scores == {name: {}}
    assert [(skip.estimator, skip.source) for skip in table.skipped] == [(name, "k")]


@pytest.mark.parametrize("name", NEEDY)
def test_a_source_with_only_the_needed_evidence_is_scored_the_same(name: str) -> None:
    """``needs`` names everything that is read, of the source and of the target."""
    source, target = (
        make_source(make_features("classes", 20, 6, 1)),
        make_target(make_features("classes", 20, 6, 0)),
    )
    fields = {
        "features": "features", "text": "text_embedding", "delta": "delta", "classes": "classes",
        "space_map": "space_map", "fisher": "fisher", "slopes": "slopes", "short_run": "short_run",
        "history": "history",
    }  # fmt: skip
    absent = {field: None for part, field in fields.items() if part not in estimators[name].needs}
    bare_source = replace(source, **{field: None for field in absent if hasattr(source, field)})
    bare_target = replace(target, **{field: None for field in absent if hasattr(target, field)})
    assert estimators[name].score(bare_source, bare_target) == estimators[name].score(source, target)


def test_random_follows_the_seed_and_the_pair_and_nothing_else() -> None:
    target = make_target(make_features("classes", 12, 4, 0))
    score = estimators["random"].score
    sources = [SourceEvidence(f"s{i}", f"k{i}", 1) for i in range(400)]
    values = np.array([score(source, target).value for source in sources])
    assert values.min() >= 0 and values.max() < 1 and len(set(values)) == 400
    assert abs(values.mean() - 0.5) < 0.06
    other_seed = np.array([score(source, replace(target, seed=1)).value for source in sources])
    other_target = np.array([score(source, replace(target, name="other")).value for source in sources])
    for other in (other_seed, other_target):
        assert abs(np.corrcoef(values, other)[0, 1]) < 0.15
    assert values.tolist() == [score(replace(s, train_rows=9), target).value for s in sources]


def test_the_targets_own_transfers_are_never_read() -> None:
    target = make_target(make_features("classes", 12, 4, 0))
    assert target.history is not None
    source = make_source(make_features("classes", 12, 4, 1))
    leaked = tuple(replace(one, score=99.0) if one.target == "target" else one for one in target.history.rows)
    for name in ("popularity", "pivot"):
        plain = estimators[name].score(source, target)
        assert estimators[name].score(source, replace(target, history=replace(target.history, rows=leaked))) == plain
    only = tuple(one for one in target.history.rows if one.target == "target")
    alone = replace(target, history=replace(target.history, rows=only))
    for name in ("popularity", "pivot"):
        with pytest.raises(SelectionError, match="seen none"):
            estimators[name].score(source, alone)


@pytest.mark.parametrize("name", [name for name in NAMES if "features" in estimators[name].needs])
def test_features_of_other_rows_are_refused(name: str) -> None:
    target = make_target(make_features("classes", 12, 4, 0))
    with pytest.raises(SelectionError, match="not of the rows"):
        estimators[name].score(make_source(make_features("classes", 15, 4, 1)), target)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("leep", {"classes": np.ones((5, 3)) / 3}),
        ("nce", {"classes": np.ones((12, 3))}),
        ("esm_logme", {"space_map": SpaceMap(np.ones((7, 1)), np.ones((1, 7)), np.ones(7))}),
        ("taskemb", {"fisher": {"elsewhere": np.ones(6)}}),
        ("taskemb", {"fisher": {"layer.0": np.ones(9)}}),
        ("first_order", {"slopes": np.array([np.nan, 1.0])}),
        ("few_step", {"short_run": np.ones(3)}),
        ("text_embedding", {"text_embedding": np.ones(3)}),
        ("tupate", {"delta": {"elsewhere": (np.ones((1, 2)), np.ones((2, 1)))}}),
    ],
)
def test_evidence_that_does_not_fit_is_refused(name: str, change: dict) -> None:
    target = make_target(make_features("classes", 12, 4, 0))
    source = replace(make_source(make_features("classes", 12, 4, 1)), **change)
    with pytest.raises(SelectionError, match="'source1'") as caught:
        estimators[name].score(source, target)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["hscore", "knn", "logme", "probe"])
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


@pytest.mark.parametrize("name", ["hscore", "knn", "logme", "probe"])
@pytest.mark.parametrize("form", FORMS)
def test_more_signal_scores_higher(name: str, form: str) -> None:
    target = make_target(make_features(form, 60, 8, 0))
    values = [
        estimators[name].score(make_source(make_features(form, 60, 8, 1, signal)), target).value
        for signal in (0.0, 0.5, 2.0)
    ]
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.05


@pytest.mark.parametrize("name", ["leep", "nce"])
@pytest.mark.parametrize("form", FORMS)
def test_a_head_that_knows_the_labels_scores_higher(name: str, form: str) -> None:
    base = make_features(form, 60, 4, 0)
    order = np.unique(base.y if form != "values" else np.digitize(base.y, [-0.5, 0.5]), return_inverse=True)[1]
    hot = np.eye(order.max() + 1)[order]
    target, source = make_target(base), make_source(base)
    values = [
        estimators[name].score(replace(source, classes=share * hot + (1 - share) / hot.shape[1]), target).value
        for share in (0.0, 0.5, 1.0)
    ]
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.2
