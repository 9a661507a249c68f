"""The benchmarks of the engine run, on a tiny backbone, and their results say what they must."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from toy_tasks import write_rows, write_task

from adaptmtl.errors import DataError

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for name in ("opinion", "mood", "colour", "nouns", "verdict"):
        write_task(folder, name)
    (folder / "toys.yaml").write_text("name: toys\ndescription: toy tasks\ntasks: [opinion, mood, colour]\n")
    return folder


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, tiny_backbone: str, tmp_path: Path):
    """Runs a benchmark's main function and returns its module and what it wrote."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # they set it; afterwards it is as it was
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()

    def run(name: str, *arguments: str) -> tuple[ModuleType, dict]:
        out = tmp_path / f"{name}.json"
        given = ["--smoke", "--backbone", tiny_backbone, "--threads", "1", "--home", str(tmp_path / "home")]
        monkeypatch.setattr(sys, "argv", [str(FOLDER / f"{name}.py"), *given, "--out", str(out), *arguments])
        module = importlib.import_module(name)
        module.main()
        return module, json.loads(out.read_text())

    yield run
    torch.set_num_threads(threads)


def test_train_speed(benchmark, tasks: Path):
    pytest.importorskip("adapters")
    given = ("--in-process", "--task-file", str(tasks), "--tasks", "opinion", "--quality-tasks", "opinion,colour")
    _, result = benchmark("train_speed", *given)
    (pair,) = result["tasks"]["opinion"]["pairs"]
    assert len(pair) == 6 and {one["steps"] for one in pair.values()} == {1}
    parameters = {name: one["trained_parameters"] for name, one in pair.items()}
    lora = 4 * 8 * (2 * (32 + 32) + 2 * (32 + 64))  # layers x rank x (query, value, both feed-forward matrices)
    assert parameters["ours same work"] == lora + 2 * 32 + 2
    assert parameters["ours default"] == parameters["ours same work"]  # a sixth of 4 layers is none
    assert all(lora <= count - 2 * 32 - 2 < 1.2 * lora for name, count in parameters.items() if "ours" not in name)
    ratio = result["tasks"]["opinion"]["summary"]["seconds of the faster peer, as they come, over ours, same work"]
    peers = [one["seconds"] for name, one in pair.items() if "ours" not in name and "no dropout" not in name]
    assert ratio["median"] == pytest.approx(min(peers) / pair["ours same work"]["seconds"])
    module, again = benchmark("train_speed", *given, "--quality")
    assert again["tasks"]["opinion"]["pairs"] == [pair]  # it went on, and did not begin anew
    assert len(again["quality"]["runs"]) == 1 + len(module.PEER_SETTINGS)
    settings = ["ours", "peft, rate 0.003, 1 epochs", "peft, rate 0.003, 2 epochs, no dropout"]
    assert [again["quality"]["runs"][f"opinion/0/{one}"]["steps"] for one in settings] == [1, 1, 2]
    runs = {
        f"{task}/{seed}/{name}": {"quality": quality + 0.1 * seed, "cpu_seconds": seconds}
        for task in ("one", "two") for seed in (0, 1)
        for name, quality, seconds in (("ours", 0.6, 2.0), ("a", 0.5, 4.0), ("b", 0.596, 8.0), ("c", 0.7, 10.0))
    }  # fmt: skip
    table = module.quality_table(runs, "cpu_seconds")
    assert table["the peer's cheapest setting that is as good as ours"] == "b" and table["its best"] == "c"
    assert table["settings"]["b"]["cpu_seconds over ours"] == 4
    assert table["settings"]["a"]["ours - peer"]["mean"] == pytest.approx(0.1)
    assert importlib.import_module("common").mean_interval([0.0, 1.0, 2.0]) == pytest.approx(
        (1.0, 1.0 - 2.484, 1.0 + 2.484), abs=1e-3
    )


def test_a_peers_variant_is_read_as_it_is_written(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    peer = importlib.import_module("peers").Peer
    for variant in ("fp32", "bf16, no dropout", "bf16, eager, pad 16, in 4, no dropout"):
        assert peer.of("peft", variant).name == f"peft {variant}"
    assert peer.of("peft", "bf16, pad 16, in 4") == peer("peft", True, True, False, 16, 4)


def test_results_of_other_settings_are_never_written_over(monkeypatch, tmp_path: Path):
    monkeypatch.syspath_prepend(str(FOLDER))
    common = importlib.import_module("common")
    path = tmp_path / "results.json"
    fresh = common.resumed(path, {"rows": 5}, runs={})
    settings = fresh["settings"]
    assert (
        fresh == {"settings": settings, "runs": {}} and settings["rows"] == 5 and settings["dtype"] == "torch.float32"
    )
    path.write_text(json.dumps({"settings": settings, "runs": {"a": 1}, "provenance": {"git_commit": "abc"}}))
    again = common.resumed(path, {"rows": 5}, runs={})
    assert again["runs"] == {"a": 1} and again["earlier_commits"] == ["abc"]
    with pytest.raises(SystemExit, match=r"results of other settings \(rows 5, not 6\): give another --out"):
        common.resumed(path, {"rows": 6}, runs={})
    monkeypatch.setattr("adaptmtl.backbone.precision.default_dtype", lambda: "torch.bfloat16")
    with pytest.raises(SystemExit, match=r"dtype 'torch.float32', not 'torch.bfloat16'"):
        common.resumed(path, {"rows": 5}, runs={})
    options = common.parser("a benchmark", "speed.json").parse_args(["--smoke"])
    assert options.out.name == "speed.json" and options.out.parent != common.RESULTS and not options.out_named
    assert common.parser("a benchmark", "speed.json").parse_args([]).out == common.RESULTS / "speed.json"


def test_engine_limit(benchmark):
    module, result = benchmark("engine_limit")
    assert all(0 < one["share_of_peak"] < 1.5 and one["seconds"] > 0 for one in result["steps"])
    assert result["memory"]["rows"] == 200 and 0.1 < result["memory"]["peak_rss_gib"] < 2
    assert 0.1 < result["memory"]["command_peak_rss_gib"] < 2
    for one in result["steps"]:
        assert 0 < one["outside_kernels"] < 1 and one["kernels"]["products with weights"] > 0
        assert one["outside_kernels"] + sum(one["kernels"].values()) == pytest.approx(1)
    assert [one["members"] for one in result["shared_forward"]] == [2]
    assert result["shared_forward"][0]["one_by_one_over_together"] > 0
    config = {"hidden_size": 4, "intermediate_size": 8}
    frozen, low_rank = 4 * 16 + 2 * 32, module.RANK * (2 * 8 + 2 * 12)  # weights; query, value, feed-forward
    one_layer = 2 * 2 * frozen + 2 * 2 * low_rank  # a product is two operations: out and back, A and B
    assert module.step_flops(config, 5, 0, 2) == 5 * (2 * one_layer - 2 * 3 * 16)
    assert module.step_flops(config, 1, 3, 1) == one_layer - 2 * 3 * 16 + 3 * (2 * 2 * 3 * 4)


def test_lower_layers(benchmark, tasks: Path):
    module, result = benchmark("lower_layers", "--task-file", str(tasks), "--tasks", "opinion,colour")
    assert [one["k"] for one in result["curve"]] == [0, 1, 2, 3]
    assert result["curve"][0]["difference"] == 0 and result["curve"][0]["time_over_k0"] == 1
    runs = {f"{task}/{k}/0": {"quality": 0.8 - loss * k, "cpu_seconds": 2.0 - k, "states_cpu_seconds": k}
            for task, loss in (("one", 0.1), ("two", 0.3)) for k in (0, 1)}  # fmt: skip
    second = module.curve(runs, 2)[1]
    assert second["difference"] == pytest.approx(-0.2) and second["time_over_k0"] == 0.5
    assert second["low"] < -0.2 < second["high"]


def test_training_length(benchmark, tasks: Path):
    module, result = benchmark("training_length", "--task-file", str(tasks), "--tasks", "opinion,colour")
    assert [one["steps"] for one in result["curve"]] == [1, 2] and result["curve"][0]["gain"] is None
    assert set(result["curve"][1]["tasks"]) == {"opinion", "colour"} and result["curve"][1]["quality"] > 0
    runs = {f"{task}/{steps}/{seed}": {"quality": 0.5 + gain * (steps > 8) + 0.1 * seed, "cpu_seconds": float(steps)}
            for task, gain in (("one", 0.1), ("two", 0.3)) for steps in (8, 16) for seed in (0, 1)}  # fmt: skip
    second = module.curve({**runs, "unfinished/8/0": runs["one/8/0"]}, [8, 16])[1]
    assert second["gain"]["mean"] == pytest.approx(0.2) and second["gain"]["low"] < 0.2 < second["gain"]["high"]
    assert second["time_over_first"] == 2 and set(second["tasks"]) == {"one", "two"}


def test_target_study(benchmark, tasks: Path):
    module, result = benchmark("target_study", "--task-file", str(tasks), "--suite", "toys", "--target", "opinion")
    assert result["sources"] == ["mood", "colour"] and len(result["ours"]["trainings"]) == 2
    assert result["summary"]["extrapolated"] is True
    assert result["summary"]["peft steps measured"] == {"sources": "1 of 2", "trainings": "1 of 2"}
    assert module.sample(20, 4) == [0, 6, 13, 19] and module.sample(3, 0) == [0, 1, 2]
    estimated = {"seconds": 2.0, "cpu_seconds": 4.0, "part: features": 1.0, "part: probe": 0.4}
    made = {
        "ours": {"estimate": estimated, "trainings": {"0/0": _cost(1.0)}},
        "peer": {"features": {"0": _cost(3.0)}, "trainings": {"0/0": _cost(5.0)}, "loading": _cost(1.0)},
        "merging": _cost(0.0),
    }  # fmt: skip
    found = module.summary(made, sources=2, trainings=2)
    read_and_trained = 1.0 + 3 * 3.0 + 2 * 5.0  # loading, two sources and the plain backbone, two trainings
    assert found["seconds"]["ours"] == 3.0
    assert found["seconds"]["peft + Trainer"] == pytest.approx(read_and_trained + 3 * 0.2)
    assert found["cpu_seconds"]["peft + Trainer"] == pytest.approx(read_and_trained + 3 * 0.4)
    assert found["seconds"]["ratio"] == pytest.approx((read_and_trained + 0.6) / 3)


def test_ground_truth_and_what_is_judged_by_it(benchmark, tasks: Path, tmp_path: Path, monkeypatch):
    given = ("--task-file", str(tasks), "--sources", "mood,colour,nouns", "--targets", "opinion,verdict")
    _, truth = benchmark("ground_truth", *given, "--only-runs")
    out = tmp_path / "ground_truth"
    assert truth["missing"] == [] and not out.with_name("ground_truth_seen.parquet").exists()
    runs = pq.read_table(out.with_suffix(".parquet")).to_pylist()
    plan = {(row["target"], row["sources"]) for row in runs}
    assert ("opinion", "") in plan and ("verdict", "colour+mood+nouns") in plan and len(plan) == 2 * (1 + 3 + 2)
    _, near = benchmark("numerics", "--task-file", str(tasks))
    assert [one["task"] for one in near["adapters"]] == ["colour", "mood", "nouns"]
    assert all(one["fp32"]["most"] < 1e-4 < one["bf16"]["most"] < 0.1 for one in near["adapters"])
    shutil.rmtree(tmp_path / "home")  # as on another machine
    with monkeypatch.context() as patched:
        patched.setattr("transfers._trainings", lambda _, members: pytest.fail("trained again") if members else ())
        patched.setattr("ground_truth.processes", lambda *_: Here())
        _, again = benchmark("ground_truth", *given)
    assert again["sources"] == truth["sources"]  # their seconds too
    assert pq.read_table(out.with_suffix(".parquet")).to_pylist() == runs
    scores = pq.read_table(out.with_name("ground_truth_scores.parquet")).to_pylist()
    named = {row["estimator"] for row in scores if row["source"] == "colour"}
    assert {"probe", "logme", "tupate", "taskemb", "first_order", "few_step", "leep", "knn"} <= named
    assert {row["source"] for row in scores if row["estimator"] == "first_order"} == {one for _, one in plan} - {""}
    _, chosen = benchmark("chosen_sets", *given, "--budgets", "0,4")
    one = chosen["targets"]["verdict"]["choices"]
    assert 0 < one["4"]["trainings"] <= 4 and one["4"]["seconds"] > one["0"]["seconds"] > 0
    gain = chosen["summary"]["0"]["gain"]
    assert {"best predicted set", "all sources", "max-member of 20 random sets", "choice"} <= set(gain)
    quality = importlib.import_module("transfer_quality")
    monkeypatch.setattr(sys, "argv", ["", "--truth", str(out.with_suffix(".parquet")), "--scores",
        str(out.with_name("ground_truth_scores.parquet")), "--out", str(tmp_path / "quality.json")])  # fmt: skip
    quality.main()
    found = json.loads((tmp_path / "quality.json").read_text())
    judged = {row["name"]: row for row in found["truth"]["rows"]}
    assert judged["planner"]["seconds"] > judged["planner, 2%"]["seconds"] > 0 and judged["pivot"]["scored"] == 1
    assert {"first_order", "planner", "popularity (mean member)"} <= {row["name"] for row in found["sets"]["rows"]}


def test_what_an_unfinished_truth_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    rows = [{"target": "a", "sources": "", "score": 0.5}, {"target": "a", "sources": "b", "score": 0.6}]
    seen = [{"target": "a", "sources": one, "reading": "rows", "probe": 0.0, "hscore": 0.0, "alike": 0.0,
             "backbone": "x"} for one in ("b", "c")]  # fmt: skip
    for name, table in (("truth", rows), ("seen", seen)):
        pq.write_table(pa.Table.from_pylist(table), tmp_path / name)
    with pytest.raises(DataError, match="has c for a"):
        importlib.import_module("ship_past").measured_past(tmp_path / "truth", tmp_path / "seen")


class Here:
    """A pool of processes that is this process."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def submit(self, work, *given):
        done: Future = Future()
        done.set_result(work(*given))
        return done


def test_screen_overlap(monkeypatch: pytest.MonkeyPatch, tasks: Path, tmp_path: Path):
    text = "the old lighthouse keeper climbed the stairs every evening"
    write_rows(tmp_path / "leak.jsonl", [{"text": f"{text} {n}", "label": "ab"[n % 2]} for n in range(9)])
    write_rows(tmp_path / "held.jsonl", [{"text": f"{text}, {n}", "label": "ab"[n % 2]} for n in range(2)])
    for name, train, held in (("leak", "leak", "leak"), ("target", "leak", "held")):
        (tmp_path / f"{name}.yaml").write_text(
            f"name: {name}\nkind: sequence_classification\nrows: [{{type: file, train: {train}.jsonl, "
            f"validation: {held}.jsonl, columns: {{text: text, label: label}}}}]\n"
        )
    for file in tasks.glob("opinion*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    out = tmp_path / "screen_overlap.json"
    given = ["--smoke", "--task-file", str(tmp_path), "--target", "target"]
    monkeypatch.setattr(sys, "argv", [str(FOLDER / "screen_overlap.py"), *given, "--out", str(out)])
    monkeypatch.syspath_prepend(str(FOLDER))
    importlib.import_module("screen_overlap").main()
    cold, again = json.loads(out.read_text())["table"]
    assert cold["leaks"] == again["leaks"] == {"leak": 1.0}
    assert cold["sources"] == 2 and cold["source_rows"] == 9 + 48 and cold["target_rows"] == 2
    assert all(0 < one["seconds"] < 60 and 20 < one["peak_mib"] < 2000 for one in (cold, again))


def _cost(seconds: float) -> dict[str, float]:
    return {"seconds": seconds, "cpu_seconds": seconds, "quality": 0.5}
