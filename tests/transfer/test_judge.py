"""The table of quality, on synthetic truths with known answers."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from adaptmtl.errors import DataError
from adaptmtl.statistics import mean_interval
from adaptmtl.transfer import quality
from adaptmtl.transfer.judge import Predicted, Truth, differences, judge, popularity, references

SOURCES = tuple(f"s{i}" for i in range(12))


def truths_of(targets=8, seeds=3, noise=0.0, seed=0):
    """A source's result is 0.5 + its worth + its worth for this target; the baseline is 0.5."""
    rng = np.random.default_rng(seed)
    worth = np.linspace(-0.1, 0.12, len(SOURCES))
    made = []
    for number in range(targets):
        own = rng.normal(scale=0.05, size=len(SOURCES))
        results = (0.5 + worth + own)[:, None] + noise * rng.normal(size=(len(SOURCES), seeds))
        made.append(Truth(f"t{number}", SOURCES, results, np.full(seeds, 0.5), np.full(len(SOURCES), 10.0)))
    return made


def predicting(truths, values, **more):
    return {t.target: Predicted(dict(zip(t.sources, values(t), strict=True)), **more) for t in truths}


def test_the_truth_itself_reaches_every_best_figure():
    truths = truths_of()
    row = judge("truth", truths, predicting(truths, lambda t: t.mean, seconds=6.0))
    for figure, value in {
        "spearman": 1, "ndcg": 1, "ndcg_exponential": 1, "regret@1": 0, "regret@5": 0, "auc": 1, "auc_pooled": 1
    }.items():  # fmt: skip
        assert row.figures[figure] == pytest.approx(value), figure
    assert (row.targets, row.scored, row.seconds, row.cost_share) == (8, 1.0, 6.0, pytest.approx(6 / 120))
    worst = judge("worst", truths, predicting(truths, lambda t: -t.mean))
    assert worst.figures["spearman"] == pytest.approx(-1) and worst.figures["auc"] == pytest.approx(0)
    expected = np.mean([(t.mean.max() - t.mean.min()) / t.mean.max() for t in truths])
    assert worst.figures["regret@1"] == pytest.approx(expected)


def test_popularity_never_sees_the_target():
    truths = truths_of()
    plain = popularity(truths)["t0"].scores
    by_hand = {
        s: np.mean([(t.results[i] / 0.5 - 1).mean() for t in truths[1:]]) for i, s in enumerate(SOURCES)
    }  # fmt: skip
    assert plain == pytest.approx(by_hand)
    changed = [Truth("t0", SOURCES, truths[0].results[::-1], truths[0].baseline), *truths[1:]]
    assert popularity(changed)["t0"].scores == plain
    assert popularity(changed)["t1"].scores != popularity(truths)["t1"].scores
    without_both = popularity(truths, {"t0": {"t1"}})["t0"].scores
    assert without_both == popularity([truths[0], *truths[2:]])["t0"].scores != plain


def test_references_are_what_they_say():
    truths = truths_of(noise=0.05, seeds=4)
    rows = {row.name: row for row in references(truths)}
    assert set(rows) == {"random", "popularity", "one_seed_oracle", "split_half_ceiling"}
    assert rows["random"].figures["spearman"] == 0 and rows["random"].figures["auc"] == 0.5
    regret = np.mean([quality.random_regret(t.mean, 3) for t in truths])
    assert rows["random"].figures["regret@3"] == pytest.approx(regret)
    assert rows["random"].figures["ndcg"] == pytest.approx(np.mean([quality.random_ndcg(t.mean) for t in truths]))
    by_hand = [
        spearmanr(t.results[:, s], np.delete(t.results, s, axis=1).mean(axis=1)).statistic
        for t in truths for s in range(4)
    ]  # fmt: skip
    assert rows["one_seed_oracle"].figures["spearman"] == pytest.approx(np.mean(by_hand))
    assert 0 < rows["one_seed_oracle"].figures["spearman"] < rows["split_half_ceiling"].figures["spearman"] < 1
    assert {row.name for row in references(truths_of(seeds=1))} == {"random", "popularity"}


def test_unscored_sources_stand_in_the_middle_and_unscored_targets_are_left_out():
    truths = truths_of()
    half = {
        t.target: Predicted({s: v for s, v in zip(t.sources, t.mean, strict=True) if s not in ("s3", "s9")})
        for t in truths[:4]
    }
    row = judge("half", truths, half)
    assert row.targets == 4 and row.scored == pytest.approx(4 * 10 / (8 * 12))
    filled = np.where(np.isin(SOURCES, ("s3", "s9")), np.median(np.delete(truths[0].mean, [3, 9])), truths[0].mean)
    assert row.per_target["spearman"]["t0"] == pytest.approx(spearmanr(filled, truths[0].mean).statistic)
    with pytest.raises(DataError, match="'s1' is infinite"):
        judge("bad", truths, {"t0": Predicted({"s0": 1.0, "s1": float("inf")})})


def test_given_intervals_are_counted_and_learned_ones_cover():
    truths = truths_of(targets=30, noise=0.01)
    gains = {t.target: t.gains.mean(axis=1) for t in truths}
    given = {}
    for t in truths:
        highs = gains[t.target] + np.where(np.arange(len(SOURCES)) % 4, 0.1, -0.05)
        bounds = {s: (g - 0.1, high) for s, g, high in zip(SOURCES, gains[t.target], highs, strict=True)}
        given[t.target] = Predicted(dict(zip(SOURCES, t.mean, strict=True)), intervals=bounds)
    row = judge("given", truths, given)
    assert row.figures["coverage"] == pytest.approx(9 / 12)
    assert row.figures["width"] == pytest.approx(0.2 * 9 / 12 + 0.05 * 3 / 12)
    rng = np.random.default_rng(0)
    fuzzy = judge("fuzzy", truths, predicting(truths, lambda t: t.mean + 0.05 * rng.normal(size=12)))
    assert fuzzy.figures["conformal_coverage"] == pytest.approx(0.9, abs=0.05)
    blind = judge("blind", truths, predicting(truths, lambda t: rng.normal(size=12)))
    assert blind.figures["conformal_width"] > 1.5 * fuzzy.figures["conformal_width"]


def test_without_a_baseline_there_are_no_signs_and_no_gains():
    bare = [Truth(t.target, t.sources, t.results) for t in truths_of()]
    row = judge("truth", bare, predicting(bare, lambda t: t.mean))
    assert row.figures["spearman"] == 1 and not {"auc", "coverage", "conformal_coverage"} & set(row.figures)


def test_paired_differences_are_positive_where_the_planner_is_better():
    truths = truths_of(targets=10)
    rng = np.random.default_rng(1)
    good = judge("planner", truths, predicting(truths, lambda t: t.mean))
    bad = judge("noise", truths, predicting(truths, lambda t: rng.normal(size=12)))
    found = differences([good, bad], good)
    assert set(found) == {"noise"}
    for figure in ("spearman", "regret@1", "auc"):
        mean, low, high = found["noise"][figure]
        assert 0 < low < mean < high
    for mean, low, high in differences([good, bad], bad)["planner"].values():
        assert mean <= 0 and low <= mean <= high


def test_interval_over_few_targets_covers_as_stated():
    rng = np.random.default_rng(0)
    bounds = np.array([mean_interval(rng.normal(loc=0.3, size=10)) for _ in range(2000)])
    assert 0.935 <= ((bounds[:, 1] <= 0.3) & (bounds[:, 2] >= 0.3)).mean() <= 0.965
    assert np.isnan(mean_interval(np.array([1.0, np.nan]))[1]) and np.isnan(mean_interval([])[0])
    assert mean_interval(np.array([np.nan, 1.0, 1.0, 1.0])) == (1.0, 1.0, 1.0)


def test_oracle_and_coverage_refuse_nonsense():
    with pytest.raises(DataError, match="2 seeds"):
        quality.one_seed_oracle(np.ones((4, 1)), quality.spearman)
    with pytest.raises(DataError, match="low <= high"):
        quality.coverage(np.ones(2), np.zeros(2), np.ones(2))
    assert quality.coverage(np.zeros(4), np.ones(4), np.array([0.0, 0.5, 1.0, 2.0])) == 0.75


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "transfer_quality.py"
    spec = importlib.util.spec_from_file_location("transfer_quality", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))  # as when it is run; it imports a benchmark beside it
        spec.loader.exec_module(module)
    return module


def truth_rows(truths, sets=()):
    rows = []
    for t in truths:
        shared = {"target": t.target, "metric": "accuracy", "steps": 60, "target_rows": 500, "eval_rows": 700}
        for seed, score in enumerate(t.baseline):
            rows.append({**shared, "sources": "", "n_sources": 0, "seed": seed, "score": float(score),
                         "seconds": 9.0, "method": "adapter"})  # fmt: skip
            for source, result in zip(t.sources, t.results[:, seed], strict=True):
                rows.append({**shared, "sources": source, "n_sources": 1, "seed": seed, "score": float(result),
                             "seconds": 10.0, "method": "start"})  # fmt: skip
            for names in sets:
                best = max(t.results[t.sources.index(name), seed] for name in names)
                rows.append({**shared, "sources": "+".join(sorted(names)), "n_sources": len(names), "seed": seed,
                             "score": float(best), "seconds": 30.0, "method": "merge"})  # fmt: skip
    return rows


def run(benchmark, monkeypatch, folder, *extra):
    arguments = ["--truth", folder / "truth.parquet", "--scores", folder / "scores.parquet", "--out", folder / "o.json"]
    monkeypatch.setattr(sys, "argv", ["transfer_quality", *map(str, arguments), *map(str, extra)])
    benchmark.main()
    return json.loads((folder / "o.json").read_text())


def test_the_benchmark_reads_files_and_writes_the_known_answers(benchmark, monkeypatch, tmp_path, capsys):
    truths = truths_of(noise=0.002)
    sets = [SOURCES[:2], SOURCES[3:6], (SOURCES[0], SOURCES[11]), SOURCES[8:]]
    pq.write_table(pa.Table.from_pylist(truth_rows(truths, sets)), tmp_path / "truth.parquet")
    scores = []
    for t in truths:
        for source, mean, gain in zip(t.sources, t.mean, t.gains.mean(axis=1), strict=True):
            for name, score, seconds, low, high in (
                ("planner", gain, 0.5, gain - 0.1, gain + 0.1),
                ("reverse", -mean, 2.5, None, None),
                ("random", mean, 0.0, None, None),
            ):
                scores.append({"target": t.target, "source": source, "estimator": name, "score": score,
                               "standard_error": None, "seconds": seconds, "low": low, "high": high})  # fmt: skip
    pq.write_table(pa.Table.from_pylist(scores), tmp_path / "scores.parquet")
    result = run(benchmark, monkeypatch, tmp_path)["truth"]
    rows = {row["name"]: row for row in result["rows"]}
    assert (result["targets"], result["pairs"], result["seeds"], result["method"]) == (8, 96, [3], "start")
    assert rows["planner"]["figures"]["spearman"] == 1 and rows["planner"]["figures"]["coverage"] == 1
    assert rows["planner"]["cost_share"] == pytest.approx(6 / 120) and rows["reverse"]["seconds"] == 30
    assert rows["reverse"]["figures"]["spearman"] == -1
    assert rows["random"]["figures"]["spearman"] == 0  # the exact expectation, not a file's scores
    mean, low, high = result["planner_minus"]["reverse"]["spearman"]
    assert (mean, low, high) == (2, 2, 2)
    negative = np.mean([t.gains.mean(axis=1) < 0 for t in truths])
    assert result["noise"]["negative_share"] == pytest.approx(negative)
    printed = capsys.readouterr().out
    assert printed.index("| planner |") < printed.index("| popularity |") < printed.index("| reverse |")
    found = json.loads((tmp_path / "o.json").read_text())["sets"]
    by_name = {row["name"]: row["figures"] for row in found["rows"]}
    assert found["pairs"] == 32 and found["method"] == "merge"
    assert by_name["measured (best member)"]["spearman"] == pytest.approx(1, abs=0.05)
    assert by_name["reverse (best member)"]["spearman"] < 0


def test_gains_are_over_the_mean_of_all_target_only_runs(benchmark):
    rows = truth_rows(truths_of(targets=1, seeds=2))
    more = [{**row, "seed": 2 + n, "score": 0.8} for n, row in enumerate(r for r in rows if r["n_sources"] == 0)]
    truth = benchmark.read_truths([*rows, *more], lambda row: row["n_sources"] == 1)[0][0]
    assert truth.baseline.tolist() == pytest.approx([0.65, 0.65]) and truth.results.shape == (12, 2)
    assert truth.gains[0, 0] == pytest.approx(truth.results[0, 0] / 0.65 - 1)


def test_unfinished_truths_keep_the_largest_complete_block(benchmark):
    rows = truth_rows(truths_of(targets=1))
    late = [row for row in rows if row["n_sources"] == 1 and row["seed"] == 2 and row["sources"] != "s0"]
    truths, facts = benchmark.read_truths([row for row in rows if row not in late], lambda row: row["n_sources"] == 1)
    assert truths[0].results.shape == (12, 2) and facts["incomplete_sources"] == {}
    gone = [row for row in rows if row["sources"] == "s5" and row["seed"] == 1]
    truths, facts = benchmark.read_truths([row for row in rows if row not in gone], lambda row: row["n_sources"] == 1)
    assert truths[0].results.shape == (11, 3) and facts["incomplete_sources"] == {"t0": 1}
    with pytest.raises(DataError, match="'s5', seed 1, twice"):
        benchmark.read_truths([*rows, *gone], lambda row: row["n_sources"] == 1)


def test_the_published_matrix_is_read_without_the_target(benchmark, monkeypatch, tmp_path):
    names = [f"n{i}" for i in range(6)]
    rng = np.random.default_rng(0)
    worth = rng.uniform(size=6)
    matrix = worth[:, None] + 0.05 * rng.uniform(size=(6, 6))
    path = tmp_path / benchmark.PUBLISHED
    path.parent.mkdir()

    def write():
        lines = [
            f"{a}PromptRoberta,{b}PromptRoberta,acc,{matrix[i, j]}"
            for i, a in enumerate(names) for j, b in enumerate(names)
        ]  # fmt: skip
        head = ["dir_name,file_name,metric,value", "n0PromptBert,n1PromptBert,acc,0.1"]
        path.write_text("\n".join([*head, *lines]))

    write()
    truths, scores = benchmark.read_published(path)
    assert [len(t.sources) for t in truths] == [5] * 6 and "n0" not in truths[0].sources
    assert truths[2].mean.tolist() == [matrix[i, 2] for i in range(6) if i != 2]
    result = run(benchmark, monkeypatch, tmp_path, "--reference", tmp_path)["published"]
    rows = {row["name"]: row["figures"] for row in result["rows"]}
    assert rows["popularity"]["spearman"] > 0.8 and rows["pivot_profile"]["spearman"] > 0.8
    matrix[:, 2] = rng.permutation(matrix[:, 2])
    write()
    _, changed = benchmark.read_published(path)
    assert changed["pivot_profile"]["n2"].scores == pytest.approx(scores["pivot_profile"]["n2"].scores)
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(DataError, match="n5 on n5"):
        benchmark.read_published(path)
