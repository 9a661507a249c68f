"""How many steps does an adapter need when there are few rows, and what does each step more cost?

Every task is trained on the same rows for several numbers of steps, over several seeds; the learning rate falls to zero
at the end of each. Gains are against the row above, over tasks; times are processor seconds, so that several trainings
may run side by side, each with its share of the threads.

    python benchmarks/training_length.py [--tasks A,B] [--steps 24,48] [--seeds 2] [--rows 250] [--jobs 2]

Killed and started again with the same options, it goes on with what is missing.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from common import TASKS, mean_interval, names, resumed, run_missing, train_once
from common import parser as shared_parser


def one_run(options: argparse.Namespace, task: str, steps: int, seed: int) -> dict[str, float]:
    """Trains and scores one adapter."""
    from adaptmtl.training.recipe import Recipe

    return train_once(options, Recipe(steps=steps), task, seed)


def curve(runs: dict[str, dict[str, float]], lengths: list[int]) -> list[dict[str, Any]]:
    """Returns, per number of steps, quality, its gain on the number before with Student's 95% interval, and time."""
    tasks = sorted({name.split("/")[0] for name in runs})
    seeds = sorted({name.split("/")[2] for name in runs})

    def values(task: str, steps: int, part: str) -> list[float] | None:
        """Returns a part of the runs over seeds; None where one is missing."""
        wanted = [f"{task}/{steps}/{seed}" for seed in seeds]
        return [runs[name][part] for name in wanted] if all(name in runs for name in wanted) else None

    whole = [task for task in tasks if all(values(task, steps, "quality") for steps in lengths)]
    found: list[dict[str, Any]] = []
    for before, steps in zip([None, *lengths], lengths, strict=False):
        if not whole:
            break
        own = {task: float(np.mean(values(task, steps, "quality"))) for task in whole}
        ratios = [sum(values(task, steps, "cpu_seconds")) / sum(values(task, lengths[0], "cpu_seconds"))
                  for task in whole]  # fmt: skip
        row = {"steps": steps, "tasks": own, "quality": float(np.mean(list(own.values()))),
               "time_over_first": float(np.median(ratios)), "gain": None}  # fmt: skip
        if before is not None:
            row["gain"] = dict(zip(("mean", "low", "high"), mean_interval(
                [own[task] - found[-1]["tasks"][task] for task in whole]), strict=True))  # fmt: skip
        found.append(row)
    return found


def main() -> None:
    parser = shared_parser(__doc__, "training_length.json", "--backbone", "--threads", "--mirror", "--home",
                           "--task-file")  # fmt: skip
    parser.add_argument("--tasks", type=names, default=list(TASKS))
    parser.add_argument("--steps", type=lambda text: sorted(map(int, names(text))), default=[24, 48, 96, 192])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=250)
    parser.add_argument("--eval-rows", type=int, default=1000)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    options = parser.parse_args()
    if options.smoke:
        options.tasks, options.seeds, options.rows, options.eval_rows = options.tasks[:2], 1, 32, 16
        options.max_length, options.steps = 32, [1, 2]
    from adaptmtl.provenance import record
    from adaptmtl.storage import write_json

    settings = {name: getattr(options, name) for name in ("backbone", "rows", "eval_rows", "max_length")}
    result = resumed(options.out, settings, question=__doc__.splitlines()[0], runs={})
    asked = {f"{task}/{steps}/{seed}": (task, steps, seed) for seed in range(options.seeds)
             for task in options.tasks for steps in options.steps}  # fmt: skip

    def save() -> None:
        own = {name: result["runs"][name] for name in asked if name in result["runs"]}
        result["curve"] = curve(own, options.steps)
        result["provenance"] = record()
        write_json(options.out, result)

    run_missing(options, one_run, asked, result["runs"], save)
    print(result["curve"], flush=True)


if __name__ == "__main__":
    main()
