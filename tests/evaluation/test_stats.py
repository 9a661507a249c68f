import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, rankdata, ttest_1samp

from adaptmtl import statistics as stats
from adaptmtl.errors import DataError
from adaptmtl.statistics import against_constant, holm, interval, mean_ranks, paired, verdict


def mean_score(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def with_count(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones_like(values)], axis=-1)


def draw(
    rng: np.random.Generator, seeds: int, rows: int, seed_sd: float, mix_sd: float, row: np.ndarray | float = 0.0
) -> np.ndarray:
    """Right or wrong per seed and row; the latent scale has effects of row, seed and seed by row."""
    latent = 0.8 + row + seed_sd * rng.normal(size=(seeds, 1)) + mix_sd * rng.normal(size=(seeds, rows))
    return with_count((latent > 0).astype(float))


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (3, 0.0), (3, 0.2), (5, 0.0), (5, 0.2)])
def test_coverage(seeds: int, seed_sd: float) -> None:
    rng = np.random.default_rng(seeds)
    truth = norm.cdf(0.8 / np.sqrt(1 + seed_sd**2 + 0.7**2))
    hits = 0
    for trial in range(250):
        sample = draw(rng, seeds, 150, seed_sd, 0.7, rng.normal(size=(1, 150)))
        found = interval(sample, mean_score, resamples=300, rng_seed=trial)
        hits += found.low <= truth <= found.high
    assert 0.91 <= hits / 250 <= 0.995


@pytest.mark.parametrize(("seeds", "seed_sd"), [(3, 0.0), (3, 0.2), (5, 0.2)])
def test_paired_error_rate_without_a_difference(seeds: int, seed_sd: float) -> None:
    rng = np.random.default_rng(seeds)
    hits = 0
    for trial in range(250):
        row = rng.normal(size=(1, 150))
        a, b = (draw(rng, seeds, 150, seed_sd, 0.7, row) for _ in range(2))
        hits += paired(a, b, mean_score, resamples=300, rng_seed=trial).p_two_sided < 0.05
    assert hits / 250 <= 0.09


def test_pairing_finds_what_separate_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    row = 3 * rng.normal(size=(1, 400))
    b = with_count(row + 0.1 * rng.normal(size=(3, 400)))
    a = with_count(b[..., 0] + 0.1 + 0.1 * rng.normal(size=(3, 400)))
    found = paired(a, b, mean_score, resamples=500)
    assert found.difference == pytest.approx(0.1, abs=0.02)
    assert found.p_two_sided < 0.01
    assert interval(a, mean_score, resamples=500).low < interval(b, mean_score, resamples=500).high


def test_one_seed_is_the_row_bootstrap() -> None:
    values = np.random.default_rng(1).exponential(size=(1, 200))
    found = interval(with_count(values), mean_score, resamples=4000)
    rng = np.random.default_rng(9)
    slow = [rng.choice(values[0], 200).mean() for _ in range(4000)]
    np.testing.assert_allclose([found.low, found.high], np.quantile(slow, [0.025, 0.975]), atol=0.01)
    assert found.high - found.mean > found.mean - found.low
    assert np.isnan(found.sd_seeds)
    assert (found.n_rows, found.n_seeds) == (200, 1)


def test_seeds_without_row_effects_give_the_t_test() -> None:
    level = np.array([0.1, 0.4, 0.2, 0.35])
    sample = with_count(np.broadcast_to(level[:, None], (4, 50)).copy())
    found = against_constant(sample, mean_score, 0.05, resamples=200)
    reference = ttest_1samp(level, 0.05)
    assert found.p_two_sided == pytest.approx(reference.pvalue, rel=1e-6)
    bounds = reference.confidence_interval(0.95)
    np.testing.assert_allclose([found.low + 0.05, found.high + 0.05], [bounds.low, bounds.high], rtol=1e-6)
    one_sided = ttest_1samp(level, 0.0, alternative="greater").pvalue
    assert found.p_noninferior(0.05) == pytest.approx(one_sided, rel=1e-6)


def test_one_seed_gives_the_z_test_of_a_paired_difference() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(0.2, 1, (1, 500)), rng.normal(0, 1, (1, 500))
    found = paired(with_count(a), with_count(b), mean_score, resamples=6000)
    difference = (a - b)[0]
    z = difference.mean() / (difference.std(ddof=1) / np.sqrt(500))
    assert found.row_error == pytest.approx(difference.std(ddof=1) / np.sqrt(500), rel=0.04)
    assert norm.isf(found.p_two_sided / 2) == pytest.approx(z, rel=0.05)
    assert (found.low > 0) == (found.p_two_sided < 0.05)


def test_scores_that_are_no_means() -> None:
    """A correlation from moments: the interval agrees with Fisher's."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=400)
    y = 0.6 * x + 0.8 * rng.normal(size=400)
    moments = np.stack([np.ones(400), x, y, x * x, y * y, x * y], axis=-1)[None]

    def correlation(s: np.ndarray) -> np.ndarray:
        n = s[..., 0]
        cov = s[..., 5] / n - s[..., 1] * s[..., 2] / n**2
        return cov / np.sqrt((s[..., 3] / n - (s[..., 1] / n) ** 2) * (s[..., 4] / n - (s[..., 2] / n) ** 2))

    found = interval(moments, correlation, resamples=3000)
    r = np.corrcoef(x, y)[0, 1]
    fisher = np.tanh(np.arctanh(r) + np.array([-1.96, 1.96]) / np.sqrt(397))
    assert found.mean == pytest.approx(r)
    np.testing.assert_allclose([found.low, found.high], fisher, atol=0.025)


def test_swapping_arms_and_deterministic() -> None:
    rng = np.random.default_rng(4)
    a, b = (draw(rng, 3, 100, 0.1, 0.7) for _ in range(2))
    one, two, again = paired(a, b, mean_score), paired(b, a, mean_score), paired(a, b, mean_score)
    assert one == again
    assert one.difference == pytest.approx(-two.difference)
    assert (one.low, one.high) == (pytest.approx(-two.high), pytest.approx(-two.low))
    assert one.p_two_sided == pytest.approx(two.p_two_sided)
    same = paired(a, a, mean_score)
    assert (same.difference, same.low, same.high, same.p_two_sided) == (0.0, 0.0, 0.0, 1.0)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = draw(np.random.default_rng(5), 2, 90, 0.1, 0.7)
    whole = interval(sample, mean_score, resamples=150)
    monkeypatch.setattr(stats, "CHUNK", 700)
    assert interval(sample, mean_score, resamples=150) == whole


def test_memory_is_bounded() -> None:
    sample = draw(np.random.default_rng(6), 3, 100_000, 0.1, 0.7)
    tracemalloc.start()
    interval(sample, mean_score, resamples=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 250 * 2**20


def test_verdicts() -> None:
    rng = np.random.default_rng(7)
    row = rng.normal(size=(1, 2000))
    base = with_count(row + 0.1 * rng.normal(size=(5, 2000)))

    def against(shift: float, noise: float = 0.1) -> stats.Paired:
        arm = with_count(row + shift + noise * rng.normal(size=(5, 2000)))
        return paired(arm, base, mean_score, resamples=300)

    assert verdict(against(0.1), 0.05) == "better"
    assert verdict(against(-0.1), 0.05) == "worse"
    assert verdict(against(0.1), 0.05, p_adjusted=0.3) == "not inferior"
    quiet = against(0.0)
    assert quiet.p_two_sided > 0.05
    assert verdict(quiet, 0.05) == "not inferior"
    assert verdict(quiet, 0.0) == "no difference shown"
    with pytest.raises(DataError, match="margin"):
        quiet.p_noninferior(-0.1)


def test_holm_equals_the_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.uniform(size=6) ** 3
        adjusted = holm(p)
        for level in (0.01, 0.05, 0.2, 0.7):
            rejected = np.zeros(6, bool)
            for step, index in enumerate(np.argsort(p)):
                if p[index] > level / (6 - step):
                    break
                rejected[index] = True
            np.testing.assert_array_equal(adjusted <= level, rejected)
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([]).shape == (0,)
    with pytest.raises(DataError, match="nan"):
        holm([float("nan")])


@pytest.mark.parametrize(
    ("sample", "arguments", "message"),
    [
        (np.ones((3, 4)), {}, r"\(3, 4\)"),
        (np.ones((3, 1, 2)), {}, "at least 2 rows"),
        (np.full((1, 4, 2), np.nan), {}, "finite"),
        (np.ones((1, 4, 2)), {"level": 1.0}, "level 1.0"),
        (np.ones((1, 4, 2)), {"resamples": 10}, "10 resamples"),
        (np.zeros((1, 4, 2)), {}, "one finite number a seed"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_nonsense_is_refused(sample: np.ndarray, arguments: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        interval(sample, mean_score, **arguments)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_score_that_resamples_break_is_refused() -> None:
    sample = np.zeros((1, 4, 2))
    sample[0, 0] = 1
    with pytest.raises(DataError, match="undefined on"):
        interval(sample, mean_score, resamples=200)


def test_arms_must_match() -> None:
    with pytest.raises(DataError, match="equal rows and seeds"):
        paired(np.ones((2, 5, 2)), np.ones((3, 5, 2)), mean_score)


@given(st.lists(st.floats() | st.sampled_from([0.0, -0.0, 1.0, 2.0]), max_size=12))
def test_mean_ranks_equal_scipy(values: list[float]) -> None:
    assert np.array_equal(mean_ranks(values), rankdata(values), equal_nan=True)


def test_draws_are_made_once_for_all_intervals_and_change_none(monkeypatch):
    statistics = np.random.default_rng(0).integers(0, 2, (3, 150, 2)).astype(float)
    statistics[..., 1] = 1.0
    score = mean_score
    stats._kept_counts.cache_clear()
    first = stats.interval(statistics, score, resamples=200)
    drawn = []
    real = stats._counts
    monkeypatch.setattr(stats, "_counts", lambda *given: drawn.append(given) or real(*given))
    assert stats.interval(statistics, score, resamples=200) == first and not drawn
    assert stats.interval(statistics, score, resamples=200, rng_seed=1) != first and len(drawn) == 1
    monkeypatch.setattr(stats, "_KEPT", 0)
    assert stats.interval(statistics, score, resamples=200) == first and len(drawn) == 2
