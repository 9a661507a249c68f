"""Does a head that begins as a linear probe make short trainings better, and at what cost?

Every task is trained for several numbers of steps with a head that begins at random and with one that is fitted first,
on the same rows and seeds. What the fitting takes is in the training's time.

    python benchmarks/head_start.py --mirror DIR [--tasks A,B] [--lengths 250x16,500x32] [--seeds 3] [--jobs 2]

Killed and started again with the same options, it goes on with what is missing.
"""

from __future__ import annotations

import argparse
from concurrent.futures import as_completed
from typing import Any

import numpy as np
from common import names, processes
from common import parser as shared_parser

TASKS = ("trec", "sst2", "tweet_emotion", "scicite", "stsb", "snli", "rte", "balanced_copa", "mit_restaurant", "wnut17")
LENGTHS = ((250, 16), (250, 32), (500, 64))  # training rows, steps
STARTS = ("random", "probe")


def one_run(options: argparse.Namespace, task: str, rows: int, steps: int, start: str, seed: int) -> dict[str, float]:
    """Trains and scores one adapter."""
    from adaptmtl.backbone.precision import default_dtype
    from adaptmtl.provenance import measured
    from adaptmtl.tasks.catalogue import load_catalogue
    from adaptmtl.training.adapter import train_adapter
    from adaptmtl.training.loop import accelerator
    from adaptmtl.training.recipe import Encoding, Recipe
    from adaptmtl.training.score import score
    from adaptmtl.training.setup import make_setup
    from adaptmtl.workspace import Workspace

    base = Workspace()
    setup = make_setup(
        options.backbone, workspace=Workspace(home=options.home or base.home, mirror=options.mirror or base.mirror),
        recipe=Recipe(steps=steps, head_start=start), encoding=Encoding(options.max_length),  # type: ignore[arg-type]
        catalogue=load_catalogue(options.task_file), eval_rows=options.eval_rows,
    )  # fmt: skip
    data = setup.data(task, rows)
    data.train.states(setup.workspace, setup.recipe.layers_below(setup.backbone), default_dtype(), accelerator().device)
    with measured() as cost:
        trained = train_adapter(setup.workspace, setup.backbone, data, setup.recipe, seed)
    scored = score(data, data.validation, trained.outputs(setup.workspace, data.validation))
    return {"quality": float(scored.values[data.spec.main_metric]), "cpu_seconds": cost.cpu_seconds}


def table(runs: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Returns, per length, mean quality by start, their difference over tasks with Student's 95% interval, and time."""
    from scipy.stats import t

    found = []
    for length in dict.fromkeys(name.split("/")[1] for name in runs):
        cells: dict[str, dict[str, list[tuple[float, float]]]] = {}
        for name, run in runs.items():
            task, own, start, seed = name.split("/")
            if own == length and all(f"{task}/{length}/{each}/{seed}" in runs for each in STARTS):
                cells.setdefault(task, {}).setdefault(start, []).append((run["quality"], run["cpu_seconds"]))
        if not cells:
            continue
        mean = {task: {start: np.mean(values, axis=0) for start, values in one.items()} for task, one in cells.items()}
        differences = {task: float(one["probe"][0] - one["random"][0]) for task, one in mean.items()}
        values = list(differences.values())
        half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
        average = float(np.mean(values))
        found.append({
            "length": length, "tasks": len(values),
            "quality": {start: float(np.mean([one[start][0] for one in mean.values()])) for start in STARTS},
            "probe - random": average, "low": None if half is None else average - half,
            "high": None if half is None else average + half, "per task": differences,
            "time over random": float(np.median([one["probe"][1] / one["random"][1] for one in mean.values()])),
        })  # fmt: skip
    return found


def main() -> None:
    parser = shared_parser(__doc__, "head_start.json", "--backbone", "--threads", "--mirror", "--home", "--task-file")
    parser.add_argument("--tasks", type=names, default=list(TASKS))
    parser.add_argument("--lengths", type=_lengths, default=LENGTHS, help="training rows x steps, as 250x16,500x32")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--eval-rows", type=int, default=1000)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    options = parser.parse_args()
    if options.smoke:
        options.tasks, options.lengths, options.seeds = options.tasks[:2], ((32, 2),), 1
        options.eval_rows, options.max_length = 16, 32
    from adaptmtl.provenance import record
    from adaptmtl.storage import read_json, write_json

    settings = {name: getattr(options, name) for name in ("backbone", "eval_rows", "max_length")}
    result = read_json(options.out) or {}
    if result.get("settings") != settings:
        result = {"question": __doc__.splitlines()[0], "settings": settings, "runs": {}}
    asked = {
        f"{task}/{rows}x{steps}/{start}/{seed}": (task, rows, steps, start, seed) for seed in range(options.seeds)
        for rows, steps in options.lengths for task in options.tasks for start in STARTS
    }  # fmt: skip
    failed = []

    def save() -> None:
        result["table"] = table({name: result["runs"][name] for name in asked if name in result["runs"]})
        result["provenance"] = record()
        write_json(options.out, result)

    with processes(options.jobs, options.threads) as pool:
        waiting = {
            pool.submit(one_run, options, *one): name for name, one in asked.items() if name not in result["runs"]
        }
        for future in as_completed(waiting):
            name = waiting[future]
            if (error := future.exception()) is not None:  # the others go on
                failed.append(f"{name}: {error!r}")
                continue
            result["runs"][name] = future.result()
            save()
            print(name, {part: round(value, 3) for part, value in result["runs"][name].items()}, flush=True)
    save()
    for one in result["table"]:
        print(one, flush=True)
    if failed:
        raise SystemExit("not measured: " + "; ".join(failed))


def _lengths(text: str) -> tuple[tuple[int, int], ...]:
    found = []
    for one in text.split(","):
        rows, steps = one.split("x")
        found.append((int(rows), int(steps)))
    return tuple(found)


if __name__ == "__main__":
    main()
