"""How many of the lowest layers can go without an adapter before quality suffers, and what does each save?

Every task is trained with k = 0 to depth - 1 lower layers left out, over several seeds, on the same rows. Training time
is given with the lower layers' states at hand (every further seed, source or arm) and what they cost once is added;
both in processor seconds, so that several trainings may run side by side, each with its share of the threads.
The default is the largest k whose mean loss of quality against k = 0 over tasks has an interval above the margin.

    python benchmarks/lower_layers.py [--tasks A,B] [--layers 0,1,2] [--seeds 3] [--rows N] [--jobs 2] [--mirror DIR]

Killed and started again with the same options, it goes on with what is missing.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from common import TASKS, mean_interval, names, resumed, run_missing, train_once
from common import parser as shared_parser

#: Quality that may be lost, in the unit of the tasks' main metrics (all between 0 and 1).
MARGIN = 0.01


def one_run(options: argparse.Namespace, task: str, k: int, seed: int) -> dict[str, float]:
    """Trains and scores one adapter above k lower layers."""
    from adaptmtl.training.recipe import Recipe

    return train_once(options, Recipe(epochs=options.epochs, lower_layers=k), task, seed)


def curve(runs: dict[str, dict[str, float]], depth: int) -> list[dict[str, Any]]:
    """Returns, per k, mean quality and its difference to k = 0 over tasks with Student's 95% interval, and times."""
    found = []
    for k in range(depth):
        own: dict[str, list[dict[str, float]]] = {}
        for name, run in runs.items():
            task, layers, seed = name.split("/")
            if int(layers) == k and f"{task}/0/{seed}" in runs:
                base = runs[f"{task}/0/{seed}"]
                own.setdefault(task, []).append({
                    "difference": run["quality"] - base["quality"], "quality": run["quality"],
                    "time": run["cpu_seconds"] / base["cpu_seconds"],
                    "states": run["states_cpu_seconds"] / base["cpu_seconds"],
                })  # fmt: skip
        if not own:
            continue
        means = [float(np.mean([one["difference"] for one in each])) for each in own.values()]
        difference, low, high = mean_interval(means)
        every = [one for each in own.values() for one in each]
        found.append({
            "k": k, "tasks": len(own), "quality": float(np.mean([one["quality"] for one in every])),
            "difference": difference, "low": low if len(means) > 1 else None, "high": high if len(means) > 1 else None,
            "time_over_k0": float(np.median([one["time"] for one in every])),
            "states_once_over_k0": float(np.median([one["states"] for one in every])),
        })  # fmt: skip
    return found


def main() -> None:
    parser = shared_parser(__doc__, "lower_layers.json", "--backbone", "--threads", "--mirror", "--home", "--task-file")
    parser.add_argument("--tasks", type=names, default=list(TASKS))
    parser.add_argument("--layers", type=lambda text: [int(k) for k in text.split(",")], help="which k; else all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--eval-rows", type=int, default=1000)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    options = parser.parse_args()
    if options.smoke:
        options.tasks, options.seeds, options.rows, options.eval_rows = options.tasks[:2], 1, 32, 16
        options.max_length, options.epochs = 32, 1.0
    from adaptmtl.backbone.load import resolve
    from adaptmtl.provenance import record
    from adaptmtl.storage import write_json
    from adaptmtl.workspace import Workspace

    settings = {name: getattr(options, name) for name in ("backbone", "rows", "eval_rows", "epochs", "max_length")}
    result = resumed(options.out, settings, question=__doc__.splitlines()[0], margin=MARGIN, runs={})
    depth = resolve(options.backbone, Workspace(home=options.home or Workspace().home)).n_layers
    asked = {
        f"{task}/{k}/{seed}": (task, k, seed) for seed in range(options.seeds) for task in options.tasks
        for k in options.layers or range(depth)
    }  # fmt: skip

    def save() -> None:
        result["curve"] = curve({name: result["runs"][name] for name in asked if name in result["runs"]}, depth)
        result["provenance"] = record()
        write_json(options.out, result)

    run_missing(options, one_run, asked, result["runs"], save)
    good = [one["k"] for one in result["curve"] if one["k"] == 0 or (one["low"] is not None and one["low"] > -MARGIN)]
    result["largest k within the margin"] = max(good)
    write_json(options.out, result)
    print(result["curve"], max(good), flush=True)


if __name__ == "__main__":
    main()
