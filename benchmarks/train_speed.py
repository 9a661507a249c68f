"""How much faster does our engine train a LoRA than peft and adapters with their Trainers, and is it as good?

Two questions are put to every pair of runs. "Same work": the same LoRA on all layers. "Same task": our default, which
puts no adapter on the lower layers; its time includes running the rows through those layers, into an empty cache. All
start from the same tokenised rows and end with trained weights on every side, model loading included. The sides run in
processes of their own, one after another. Each peer's fastest way (precision, attention, padding, steps in pieces) is
found by a few steps beforehand, one choice after the other, by the least of three trials each. Peers run twice: with
the model's own dropout, as they do by default, and without it, as a frozen encoder does in our engine.

    python benchmarks/train_speed.py [--tasks A,B] [--rows N] [--pairs 5] [--device cuda] [--mirror DIR] [--smoke]
    python benchmarks/train_speed.py --quality [--seeds 3] [--jobs 2]

The second asks for the time at equal quality: our default against a peer at several learning rates and numbers of
epochs, on the same rows. Its ratios are of processor seconds, so that several trainings may run side by side.

Killed and started again with the same options, both go on with what is missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from common import TASKS, end, finished, mean_interval, names, processes, resumed, setup_of, without_states
from common import parser as shared_parser

SPEED_TASKS = ("trec", "sms_spam", "optimus_ner", "privacy_policy", "boolq")
OURS = ("same work", "default")
#: Mean quality that a peer's setting may be below ours and still count as equal.
EQUAL = 0.005
#: What a peer is tried with: multiples of our learning rate and epochs, and whether the model's own dropout is on.
PEER_SETTINGS = (
    (1.0, 0.5, False), (1.0, 1.0, False), (1.0, 2.0, False), (1.0, 1.0, True), (1 / 3, 1.0, False), (1 / 3, 2.0, False),
)  # fmt: skip
#: Steps of the runs that find each peer's fastest way, and how many of each are looked at; one more comes before.
TRIAL_STEPS, TRIALS = 6, 3
#: What may be added to a peer's precision, one after the other, if that makes it faster.
WAYS = ("eager", "pad 16", "in 4")


@dataclasses.dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        side: "ours", "peft" or "adapters": the process that it runs in.
        variant: of ours, "same work" or "default"; of a peer, as :meth:`peers.Peer.of` reads it.
        task, rows, eval_rows, epochs, max_length: what is trained.
        seed: of everything.
        steps: stop after so many, for trials; -1 for all.
        learning_rate: peak; None for the recipe's default.
    """

    side: str
    variant: str
    task: str
    rows: int
    eval_rows: int | None
    epochs: float
    max_length: int
    seed: int
    steps: int = -1
    learning_rate: float | None = None


class Sides:
    """One process per side, so that nothing one of them sets up is there for another."""

    def __init__(self, options: argparse.Namespace, share: int = 1):
        from adaptmtl.provenance import multiplies_in_bf16

        self.options, self.threads = options, max(1, options.threads // share)
        self.pools: dict[str, ProcessPoolExecutor] = {}
        # where a processor only emulates bf16, a peer's step in it takes many times as long
        self.bf16 = options.device == "cuda" or multiplies_in_bf16()

    def run(self, job: Job) -> dict[str, Any]:
        """Runs a job in its side's process and waits for it."""
        facts = (self.options.device, self.threads, self.options.mirror, self.options.home,
                 self.options.backbone, self.options.task_file)  # fmt: skip
        if self.options.in_process:
            _prepare(*facts)
            return _run(job)
        if job.side not in self.pools:
            self.pools[job.side] = processes(1, self.threads, _prepare, *facts)
        return self.pools[job.side].submit(_run, job).result()

    def close(self) -> None:
        """Ends the processes."""
        for pool in self.pools.values():
            pool.shutdown()


def _prepare(
    device: str, threads: int, mirror: Path | None, home: Path | None, backbone: str, task_file: Path | None
) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sys.path.insert(0, str(Path(__file__).parent))
    import torch

    torch.set_num_threads(threads)
    globals()["_PLACE"] = {"mirror": mirror, "home": home, "backbone": backbone, "task_file": task_file}


def _run(job: Job) -> dict[str, Any]:
    from adaptmtl.training.recipe import Recipe

    own = job.steps if job.side == "ours" and job.steps > 0 else None
    recipe = Recipe(
        epochs=job.epochs, steps=own, lower_layers=None if job.variant == "default" else 0,
        learning_rate=job.learning_rate or Recipe().learning_rate,
    )  # fmt: skip
    setup = setup_of(recipe, max_length=job.max_length, eval_rows=job.eval_rows, **globals()["_PLACE"])
    data = setup.data(job.task, job.rows)
    _ = data.train.encoded, data.validation.encoded
    if job.side == "ours":
        return _train_ours(setup, data, job)
    from peers import Peer, train

    return train(Peer.of(job.side, job.variant), data, recipe, job.seed, most_steps=job.steps)


def _train_ours(setup: Any, data: Any, job: Job) -> dict[str, Any]:
    import time

    import torch

    from adaptmtl.training.adapter import train_adapter
    from adaptmtl.training.score import score

    fresh = without_states(data)
    with tempfile.TemporaryDirectory() as folder:  # an empty cache
        workspace = dataclasses.replace(setup.workspace, home=Path(folder))
        started, before = time.perf_counter(), time.process_time()
        trained = train_adapter(workspace, setup.backbone, fresh, setup.recipe, job.seed)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - before
        scored = score(fresh, fresh.validation, trained.outputs(workspace, fresh.validation))
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "steps": trained.log.steps,
        "tokens": trained.log.tokens,
        "trained_parameters": trained.trained_parameters,
        "quality": scored.values[data.spec.main_metric],
    }


def fastest(sides: Sides, library: str, task: str, base: dict[str, Any], dropout: bool, out: dict[str, Any]) -> str:
    """Returns a library's variant that takes the least time for a few steps; what was seen is kept in ``out``."""
    ending = "" if dropout else ", no dropout"
    seen = out.setdefault(f"{library}{ending}", {})

    def least(*ways: str) -> str:
        for _ in range(TRIALS + 1 if any(way not in seen for way in ways) else 0):  # in turns: the machine drifts
            for way in ways:
                job = Job(library, way + ending, task, **base, seed=0, steps=TRIAL_STEPS)
                seen.setdefault(way, []).append(sides.run(job)["seconds"])
        return min(ways, key=lambda way: min(seen[way][1:]))

    best = least("fp32", "bf16") if sides.bf16 else "fp32"
    for way in WAYS:
        best = least(best, f"{best}, {way}")
    return best + ending


def measure_speed(options: argparse.Namespace, sides: Sides, result: dict[str, Any], save: Any) -> None:
    """Runs the missing pairs, task by task, and writes the result after each."""
    for task in options.tasks:
        base = {"rows": options.rows, "eval_rows": options.eval_rows, "epochs": options.epochs,
                "max_length": options.max_length}  # fmt: skip
        found = result["tasks"].setdefault(task, {"trials": {}, "pairs": []})
        if len(found["pairs"]) >= options.pairs:
            continue
        variants = [("ours", variant) for variant in OURS]
        for dropout in (True, False):
            for library in options.peers:
                variants.append((library, fastest(sides, library, task, base, dropout, found["trials"])))
        for side, variant in variants:  # first uses of libraries and shapes, in processes that may be new
            sides.run(Job(side, variant, task, **base, seed=0, steps=TRIAL_STEPS))
        for pair in range(len(found["pairs"]), options.pairs):
            order = variants if pair % 2 == 0 else variants[::-1]
            runs = {f"{side} {variant}": sides.run(Job(side, variant, task, **base, seed=pair))
                    for side, variant in order}  # fmt: skip
            found["pairs"].append(runs)
            found["summary"] = summary(found["pairs"])
            save()
            print(task, pair, {name: round(one["seconds"], 2) for name, one in runs.items()}, flush=True)


def summary(pairs: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Returns medians over pairs: seconds, quality, and ratios of the faster peer's time to ours.

    Processor seconds stand beside wall seconds: on a shared machine they are the steadier of the two.
    """
    names = list(pairs[0])
    table: dict[str, Any] = {
        name: {
            "seconds": median(one[name]["seconds"] for one in pairs),
            "cpu_seconds": median(one[name]["cpu_seconds"] for one in pairs),
            "quality": sum(one[name]["quality"] for one in pairs) / len(pairs),
        }
        for name in names
    }
    every = [name for name in names if not name.startswith("ours")]
    for title, peers in (
        ("as they come", [name for name in every if "no dropout" not in name]),
        ("dropout off", every),  # it may cost time, and need not be taken off
    ):
        for variant in OURS:
            for unit in ("seconds", "cpu_seconds"):
                ratios = sorted(min(one[name][unit] for name in peers) / one[f"ours {variant}"][unit] for one in pairs)
                table[f"{unit} of the faster peer, {title}, over ours, {variant}"] = {
                    "median": median(ratios), "lowest": ratios[0], "highest": ratios[-1]
                }  # fmt: skip
    return table


def measure_quality(options: argparse.Namespace, sides: Sides, result: dict[str, Any], save: Any) -> None:
    """Trains every task and seed by our default and by every setting of a peer, and compares quality and time."""
    from adaptmtl.training.recipe import Recipe

    found = result.setdefault("quality", {"runs": {}})
    peer, rate = options.peers[0], Recipe().learning_rate
    base = {"rows": options.rows, "eval_rows": options.eval_rows, "max_length": options.max_length}
    jobs: dict[str, Job] = {}
    for task in options.quality_tasks:
        precision = "fp32"
        if sides.bf16:
            trials = result["tasks"].setdefault(task, {"trials": {}, "pairs": []})["trials"]
            precision = fastest(sides, peer, task, {**base, "epochs": options.epochs}, True, trials)
        for seed in range(options.seeds):
            jobs[f"{task}/{seed}/ours"] = Job("ours", "default", task, **base, epochs=options.epochs, seed=seed)
            for of_rate, of_epochs, dropout in PEER_SETTINGS:
                epochs, variant = of_epochs * options.epochs, f"{precision}{'' if dropout else ', no dropout'}"
                name = f"{peer}, rate {of_rate * rate:g}, {epochs:g} epochs{'' if dropout else ', no dropout'}"
                jobs[f"{task}/{seed}/{name}"] = Job(
                    peer, variant, task, **base, epochs=epochs, seed=seed, learning_rate=of_rate * rate
                )
    local, made = threading.local(), []
    failed: list[str] = []

    def run(job: Job) -> dict[str, Any]:
        if not hasattr(local, "sides"):  # each thread has processes of its own
            local.sides = Sides(options, options.jobs)
            made.append(local.sides)
        return local.sides.run(job)

    def tabulate() -> None:
        found["table"] = quality_table({name: found["runs"][name] for name in jobs if name in found["runs"]}, unit)
        save()

    unit = "seconds" if options.device == "cuda" else "cpu_seconds"
    try:
        with ThreadPoolExecutor(options.jobs) as pool:
            waiting = {pool.submit(run, job): name for name, job in jobs.items() if name not in found["runs"]}
            for name, ran in finished(waiting, failed):
                found["runs"][name] = {part: ran[part] for part in ("quality", "seconds", "cpu_seconds", "steps")}
                tabulate()
                print(name, found["runs"][name], flush=True)
    finally:
        for one in made:
            one.close()
    tabulate()
    print(found["table"], flush=True)
    end(failed)


def quality_table(runs: dict[str, dict[str, Any]], unit: str) -> dict[str, Any]:
    """Compares ours with every setting of the peer: mean difference in quality over tasks, and its time over ours.

    Means over seeds are taken first; the interval is Student's 95% over tasks. Times are medians over tasks.

    Args:
        runs: by "task/seed/setting".
        unit: of time.
    """
    per_task: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, run in runs.items():
        task, _, setting = name.split("/", 2)
        per_task.setdefault(setting, {}).setdefault(task, []).append(run)

    def mean(setting: str, task: str, part: str) -> float:
        return sum(one[part] for one in per_task[setting][task]) / len(per_task[setting][task])

    rows: dict[str, Any] = {}
    for setting in per_task:
        tasks = sorted(set(per_task.get("ours", {})) & set(per_task[setting]))
        if not tasks:
            continue
        quality = [mean(setting, task, "quality") for task in tasks]
        row: dict[str, Any] = {
            "tasks": len(tasks), "quality": sum(quality) / len(quality),
            f"{unit} over ours": median(mean(setting, task, unit) / mean("ours", task, unit) for task in tasks),
        }  # fmt: skip
        if setting != "ours":
            differences = {task: mean("ours", task, "quality") - mean(setting, task, "quality") for task in tasks}
            average, low, high = mean_interval(list(differences.values()))
            row["ours - peer"] = {"mean": average, "low": low, "high": high, "per task": differences}
        rows[setting] = row
    equal = {name: row for name, row in rows.items() if name != "ours" and row["ours - peer"]["mean"] <= EQUAL}
    cheapest = min(equal, key=lambda name: equal[name][f"{unit} over ours"], default=None)
    best = max((name for name in rows if name != "ours"), key=lambda name: rows[name]["quality"], default=None)
    return {"settings": rows, "the peer's cheapest setting that is as good as ours": cheapest, "its best": best}


def main() -> None:
    parser = shared_parser(
        __doc__, "train_speed.json", "--backbone", "--device", "--threads", "--mirror", "--home", "--task-file"
    )
    parser.add_argument("--tasks", type=names, default=list(SPEED_TASKS))
    parser.add_argument("--quality-tasks", type=names, default=list(TASKS))
    parser.add_argument("--peers", type=names, default=["peft", "adapters"])
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--eval-rows", type=int, default=1000)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quality", action="store_true", help="compare times at equal validation scores")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once, with --quality")
    parser.add_argument("--in-process", action="store_true", help="all sides in one process: for tests, not for times")
    options = parser.parse_args()
    if options.quality and not options.out_named:
        options.out = options.out.with_name("train_quality.json")
    if options.smoke:
        options.tasks, options.quality_tasks = options.tasks[:1], options.quality_tasks[:1]
        options.rows, options.eval_rows, options.pairs, options.seeds, options.max_length = 32, 16, 1, 1, 32
        options.epochs = 1.0
        globals()["TRIAL_STEPS"] = 1
    from adaptmtl.provenance import record
    from adaptmtl.storage import write_json

    settings = {
        name: getattr(options, name)
        for name in ("backbone", "rows", "eval_rows", "epochs", "max_length", "device", "threads")
    }
    result = resumed(options.out, settings, question=__doc__.splitlines()[0], tasks={})

    def save() -> None:
        result["provenance"] = record()
        write_json(options.out, result)

    sides = Sides(options)
    try:
        (measure_quality if options.quality else measure_speed)(options, sides, result, save)
    finally:
        sides.close()


if __name__ == "__main__":
    main()
