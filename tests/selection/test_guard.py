import numpy as np
import pytest
from scipy.stats import ttest_rel

from adaptmtl.errors import SelectionError
from adaptmtl.selection.aggregate import Ranked
from adaptmtl.selection.guard import choose, guard
from adaptmtl.statistics import holm
from adaptmtl.transfer.contract import Features
from adaptmtl.transfer.probe import make_folds, probe_rows


def ranking(*names: str) -> list[Ranked]:
    return [Ranked(name, rank, 0.0, {}) for rank, name in enumerate(names, start=1)]


def rows(gains: dict[str, float], n: int = 400, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    base = rng.normal(size=n)
    return base, {name: base + gain + 0.5 * rng.normal(size=n) for name, gain in gains.items()}


def test_verdicts_follow_the_paired_t_test() -> None:
    base, sources = rows({"good": 0.2, "flat": 0.0, "bad": -0.2})
    verdicts = guard(base, sources, folds=None)
    assert {name: verdict.verdict for name, verdict in verdicts.items()} == {
        "good": "helps",
        "flat": "neutral",
        "bad": "hurts",
    }
    raw = [ttest_rel(values, base, alternative="greater").pvalue for values in sources.values()]
    np.testing.assert_allclose([verdict.p_helps for verdict in verdicts.values()], holm(raw), rtol=1e-9)
    good = verdicts["good"]
    assert 0 < good.posterior_gain < good.gain
    assert good.probability > 0.999
    assert verdicts["bad"].probability < 0.001


def test_family_wise_error_without_any_effect() -> None:
    hits = 0
    for seed in range(400):
        base, sources = rows({str(i): 0.0 for i in range(8)}, n=60, seed=seed)
        hits += any(verdict.verdict == "helps" for verdict in guard(base, sources, folds=None).values())
    assert hits / 400 < 0.08


def test_least_gain_raises_the_bar() -> None:
    base, sources = rows({"good": 0.2})
    assert guard(base, sources, least_gain=0.19)["good"].verdict == "neutral"


def test_equal_scores_are_neutral() -> None:
    base = np.arange(5.0)
    verdict = guard(base, {"same": base, "more": base + 1, "less": base - 1})
    assert [v.verdict for v in verdict.values()] == ["neutral", "helps", "hurts"]


def test_choice_keeps_helping_sources_first_and_never_hurting_ones() -> None:
    base, sources = rows({"a": -0.3, "b": 0.03, "c": 0.3, "d": 0.25, "e": -0.02})
    selection = choose(ranking("a", "b", "c", "d", "e"), guard(base, sources))
    assert selection.sources[:2] == ("c", "d")
    assert "a" not in selection.sources
    assert selection.helped
    assert selection.reasons["a"].startswith("dropped: expected to hurt")
    assert selection.reasons["c"].startswith("kept: helps")
    assert set(selection.reasons) == set("abcde")
    assert "(gain −" in selection.reasons["a"] and "-" not in selection.reasons["a"]  # the minus of the tables
    one = choose(ranking("d", "c", "a", "b", "e"), guard(base, sources), max_sources=1)
    assert one.sources == ("d",)
    assert "1 better sources kept" in one.reasons["c"]


def test_nothing_is_chosen_when_nothing_helps() -> None:
    base, sources = rows({"a": -0.3, "b": 0.0})
    selection = choose(ranking("a", "b"), guard(base, sources))
    assert selection.sources == ()
    assert not selection.helped
    assert "none of 2 sources is expected to help (1 would hurt): train on the target alone" in selection.summary
    assert choose([], {}).sources == ()


def test_nonsense_is_refused() -> None:
    base, sources = rows({"a": 0.1}, n=10)
    with pytest.raises(SelectionError, match="'a'"):
        guard(base[:5], sources)
    with pytest.raises(SelectionError, match="at least 2"):
        guard(base[:1], {})
    with pytest.raises(SelectionError, match="no verdict for source 'z'"):
        choose(ranking("z"), guard(base, sources))
    with pytest.raises(SelectionError, match="max_sources"):
        choose(ranking("a"), guard(base, sources), max_sources=0)


def test_error_is_widened_for_cross_validated_rows() -> None:
    base, sources = rows({"a": 0.1})
    plain, widened = guard(base, sources, folds=None)["a"], guard(base, sources)["a"]
    assert widened.standard_error == pytest.approx(1.5 * plain.standard_error)
    with pytest.raises(SelectionError, match="folds is 1"):
        guard(base, sources, folds=1)
    hits = 0
    for trial in range(40):
        rng = np.random.default_rng(trial)
        y = rng.integers(0, 2, 100)
        first, second = (
            Features((rng.normal(size=(100, 12)) + 0.3 * (2 * y[:, None] - 1)).astype(np.float32), y) for _ in range(2)
        )
        folds = make_folds(first, 0)
        scores = [probe_rows(features, folds=folds).explained for features in (first, second)]
        found = guard(scores[0], {"s": scores[1]})["s"]
        hits += found.p_helps < 0.05 or found.p_hurts < 0.05
    assert hits <= 8
