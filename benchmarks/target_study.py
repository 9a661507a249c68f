"""What does a study of one target take with our engine, and what do the same steps take with peft and its Trainer?

The steps: 20 sources are estimated on the target's rows (features of all rows through each adapter, then the probe),
the best one, two and three are merged, and each merge is tuned on the target and scored over 5 seeds. The sources'
adapters are there beforehand, on both sides. peft runs each adapter over the same rows, and trains each merge with
transformers' Trainer, without dropout, which is its faster way, in bf16 where the device multiplies in it. The probe's
own arithmetic is the same code on both sides and counted on both. With --peer-sources and --peer-trainings only so many
of peft's steps are run, evenly spread, and the rest is extrapolated; the result says so.

    python benchmarks/target_study.py [--suite archives] [--target boolq] [--seeds 5] [--mirror DIR] [--smoke]

Killed and started again with the same options, it goes on with what is missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import parser as shared_parser
from common import resumed, setup_of, without_states

CANDIDATES = (1, 2, 3)


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Returns what the work returns, with its wall and processor seconds."""
    import torch

    started, before = time.perf_counter(), time.process_time()
    value = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return value, {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - before}


def sample(count: int, most: int) -> list[int]:
    """Returns at most so many of the numbers below ``count``, evenly spread; all for 0."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(most or count, count))})


def estimate_ours(setup: Any, target: Any, entries: list[Any]) -> tuple[list[str], dict[str, float]]:
    """Estimates all sources from an empty cache and returns their keys, the best first."""
    from adaptmtl.transfer.estimate import estimate

    fresh = without_states(target)
    rows = len(target.train.rows)
    found, cost = timed(lambda: estimate(setup, fresh, entries, names=("probe",), rows=rows, tokens=float("inf")))
    ranked = sorted(found.sources, key=lambda one: -one.scores["probe"].value if "probe" in one.scores else np.inf)
    parts: dict[str, float] = {}
    for one in found.sources:
        for name, seconds in one.estimator_seconds.items():
            parts[name] = parts.get(name, 0.0) + seconds
    return [one.entry.key for one in ranked], {**cost, **{f"part: {name}": value for name, value in parts.items()}}


def starts(setup: Any, entries: list[Any]) -> list[Any]:
    """Returns the merges of the best one, two and three, as weights to begin training from."""
    from adaptmtl.fusion.delta import from_peft
    from adaptmtl.fusion.methods import merged_start

    bundles = [one.load(backbone_hash=setup.backbone.hash) for one in entries[: max(CANDIDATES)]]
    deltas = [from_peft(one.adapter, one.lora_config) for one in bundles]
    return [merged_start(setup, deltas[:n]) for n in CANDIDATES[: len(deltas)]]


def train_ours(setup: Any, target: Any, start: Any, seed: int) -> float:
    """Tunes one merge and returns its score."""
    from adaptmtl.training.adapter import train_adapter
    from adaptmtl.training.score import score

    trained = train_adapter(setup.workspace, setup.backbone, target, setup.recipe, seed, start=start)
    outputs = trained.outputs(setup.workspace, target.validation)
    return float(score(target, target.validation, outputs).values[target.spec.main_metric])


def study(options: argparse.Namespace, setup: Any, result: dict[str, Any], save: Callable[[], None]) -> None:
    """Runs what is missing of both sides."""
    from peers import Peer, load, mean_features, reader, train

    from adaptmtl.adapters.methods import weights_from_peft
    from adaptmtl.provenance import multiplies_in_bf16
    from adaptmtl.zoo.build import train_adapters

    tasks = [name for name in setup.catalogue.suite(options.suite) if name != options.target][: options.sources]
    entries = train_adapters(setup, tasks, rows=options.source_rows)
    target = setup.data(options.target, options.rows)
    _ = target.train.encoded, target.validation.encoded
    result["sources"] = [one.task for one in entries]
    peer = Peer("peft", options.device == "cuda" or multiplies_in_bf16(), dropout=False)
    with tempfile.TemporaryDirectory() as folder:  # empty caches of states and estimates
        own = dataclasses.replace(setup, workspace=dataclasses.replace(setup.workspace, home=Path(folder)))
        if "estimate" not in result["ours"]:
            ranked, result["ours"]["estimate"] = estimate_ours(own, target, entries)
            result["ranked"] = ranked
            save()
        by_key = {one.key: one for one in entries}
        weights, merging = timed(lambda: starts(setup, [by_key[key] for key in result["ranked"]]))
        result["merging"] = merging
        config = setup.recipe.method.config(setup.backbone, setup.recipe.layers_below(setup.backbone))
        reader(target, config)  # imports; ours have been made by the estimates
        model, result["peer"]["loading"] = timed(lambda: reader(target, config))
        for number in sample(len(entries), options.peer_sources):
            if str(number) not in result["peer"]["features"]:
                bundle = entries[number].load(backbone_hash=setup.backbone.hash)
                load(model, weights_from_peft(bundle.adapter))
                _, result["peer"]["features"][str(number)] = timed(lambda: mean_features(model, target, peer.bf16))
                save()
        train(peer, target, setup.recipe, 0, most_steps=1)  # the Trainer's imports
        trainings = [(i, seed) for seed in range(options.seeds) for i in range(len(weights))]
        measured = set(sample(len(trainings), options.peer_trainings))
        for number, (i, seed) in enumerate(trainings):
            name = f"{i}/{seed}"
            if name not in result["ours"]["trainings"]:
                quality, cost = timed(partial(train_ours, own, target, weights[i], seed))
                result["ours"]["trainings"][name] = {**cost, "quality": quality}
                save()
            if number in measured and name not in result["peer"]["trainings"]:
                run, cost = timed(partial(train, peer, target, setup.recipe, seed, start=weights[i]))
                result["peer"]["trainings"][name] = {**cost, "quality": run["quality"]}
                save()
            print(name, result["ours"]["trainings"][name], result["peer"]["trainings"].get(name), flush=True)
    result["summary"] = summary(result, len(entries), len(trainings))
    save()
    print(result["summary"], flush=True)


def summary(result: dict[str, Any], sources: int, trainings: int) -> dict[str, Any]:
    """Adds up both sides; what was sampled of peft is scaled to the whole, and said."""
    found: dict[str, Any] = {}
    ours, peer = result["ours"], result["peer"]
    # the probe is fitted to each source's features and to the plain backbone's, which counts as one more
    arithmetic = ours["estimate"].get("part: probe", 0.0) * (sources + 1) / sources
    for unit in ("seconds", "cpu_seconds"):
        mine = ours["estimate"][unit] + result["merging"][unit] + sum(one[unit] for one in ours["trainings"].values())
        probes = arithmetic / ours["estimate"]["seconds"] * ours["estimate"][unit]
        read = sum(one[unit] for one in peer["features"].values()) / len(peer["features"]) * (sources + 1)
        trained = sum(one[unit] for one in peer["trainings"].values()) / len(peer["trainings"]) * trainings
        theirs = peer["loading"][unit] + read + probes + result["merging"][unit] + trained
        found[unit] = {"ours": mine, "peft + Trainer": theirs, "ratio": theirs / mine}
    found["peft steps measured"] = {"sources": f"{len(peer['features'])} of {sources}",
                                    "trainings": f"{len(peer['trainings'])} of {trainings}"}  # fmt: skip
    found["extrapolated"] = len(peer["features"]) < sources or len(peer["trainings"]) < trainings
    both = [name for name in ours["trainings"] if name in peer["trainings"]]
    found["quality"] = {side: float(np.mean([result[side]["trainings"][name]["quality"] for name in both]))
                        for side in ("ours", "peer")}  # fmt: skip
    return found


def main() -> None:
    parser = shared_parser(
        __doc__, "target_study.json", "--backbone", "--device", "--threads", "--mirror", "--home", "--task-file"
    )
    parser.add_argument("--suite", default="archives")
    parser.add_argument("--target", default="boolq")
    parser.add_argument("--sources", type=int, default=20)
    parser.add_argument("--source-rows", type=int, default=500)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--eval-rows", type=int, default=500)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peer-sources", type=int, default=0, help="run peft on so many sources; 0 for all")
    parser.add_argument("--peer-trainings", type=int, default=0, help="run so many trainings of peft; 0 for all")
    options = parser.parse_args()
    if options.smoke:
        options.sources, options.source_rows, options.rows, options.eval_rows, options.seeds = 2, 32, 48, 16, 1
        options.max_length, options.epochs, options.peer_sources, options.peer_trainings = 32, 1.0, 1, 1
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from adaptmtl.provenance import record
    from adaptmtl.storage import write_json
    from adaptmtl.training.recipe import Recipe

    torch.set_num_threads(options.threads)
    setup = setup_of(
        Recipe(epochs=options.epochs), backbone=options.backbone, home=options.home, mirror=options.mirror,
        task_file=options.task_file, max_length=options.max_length, eval_rows=options.eval_rows,
    )  # fmt: skip
    no_settings = ("home", "mirror", "out", "out_named", "task_file", "peer_sources", "peer_trainings")
    settings = {name: value for name, value in vars(options).items() if name not in no_settings}
    result = resumed(options.out, settings, question=__doc__.splitlines()[0], ours={"trainings": {}},
                     peer={"features": {}, "trainings": {}})  # fmt: skip

    def save() -> None:
        result["provenance"] = record()
        write_json(options.out, result)

    study(options, setup, result, save)


if __name__ == "__main__":
    main()
