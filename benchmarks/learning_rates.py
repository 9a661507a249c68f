"""Which peak learning rate suits an adapter's training of so many steps?

Trains adapters on eight tasks that are no targets of the other benchmarks, over a grid of learning rates, of the head's
multiple of it and of training lengths, and scores them on validation rows. A setting's regret on a task is the best
setting's mean score there less its own; what is chosen as a default must do well on average, not on one task.

    python benchmarks/learning_rates.py --mirror DIR [--seeds 2] [--jobs 1] [--smoke]
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from adaptmtl.provenance import record
from adaptmtl.storage import read_json, write_json
from adaptmtl.training.group import Member, train_group
from adaptmtl.training.recipe import Encoding, Recipe
from adaptmtl.training.score import score
from adaptmtl.training.setup import make_setup
from adaptmtl.workspace import Workspace

VERSION = 1
TASKS = ("snli", "qnli", "cola", "trec", "tweet_irony", "conll2000", "squad", "social_i_qa")
RATES = (3e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3)
HEAD_RATES = (1.0, 3.0)
LENGTHS = ((250, 16), (250, 60), (500, 150), (5000, 470))  # training rows, steps


def measure(options: argparse.Namespace, task: str) -> list[dict[str, Any]]:
    """Trains the grid on one task; lengths that were measured before are read from the workspace."""
    workspace = Workspace(home=options.home, mirror=options.mirror, offline=True)
    found: list[dict[str, Any]] = []
    for rows, steps in options.lengths:
        for head_rate in HEAD_RATES:
            recipe = Recipe(steps=steps, learning_rate=RATES[0], head_rate=head_rate)
            setup = make_setup(workspace=workspace, recipe=recipe, encoding=Encoding(128), eval_rows=500)
            data = setup.data(task, rows)
            grid = [(rate, seed) for rate in options.rates for seed in range(options.seeds)]
            path = workspace.folder(
                "rates", f"{setup.key('rates', rates_version=VERSION, data=data.identity, grid=grid)}.json"
            )
            if (held := read_json(path)) is None:
                members = [Member(seed, rate=rate / RATES[0]) for rate, seed in grid]
                held = []
                for group in train_group(workspace, setup.backbone, data, recipe, members):
                    for member, out in zip(group.members, group.outputs(workspace, data.validation), strict=True):
                        held.append({
                            "task": task, "metric": data.spec.main_metric, "rows": len(data.train.rows),
                            "steps": steps, "learning_rate": round(member.rate * RATES[0], 6), "head_rate": head_rate,
                            "seed": member.seed,
                            "score": score(data, data.validation, out).values[data.spec.main_metric],
                        })  # fmt: skip
                write_json(path, held)
            found += held
    return found


def regrets(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Returns the mean regret over tasks, (learning rate, head rate) by steps."""
    means = pd.DataFrame(rows).groupby(["steps", "task", "learning_rate", "head_rate"]).score.mean()
    best = means.groupby(["steps", "task"]).transform("max")
    return (best - means).groupby(["learning_rate", "head_rate", "steps"]).mean().unstack()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument("--home", type=Path, default=Workspace().home)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once; they share one device")
    parser.add_argument("--smoke", action="store_true", help="two tasks and a few steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "learning_rates.json")
    options = parser.parse_args()
    tasks = ("trec", "squad") if options.smoke else TASKS
    options.lengths = ((48, 2),) if options.smoke else LENGTHS
    options.rates = RATES[:2] if options.smoke else RATES
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for task, part in zip(tasks, pool.map(measure, [options] * len(tasks), tasks), strict=True):
            rows += part
            table = regrets(rows)
            write_json(options.out, {
                "question": (__doc__ or "").splitlines()[0], "runs": rows,
                "mean_regret": [
                    {"learning_rate": rate, "head_rate": head, **{str(k): float(v) for k, v in line.items()}}
                    for (rate, head), line in table.iterrows()
                ],
                "provenance": record(),
            })  # fmt: skip
            print(f"{task} done", flush=True)
    print(table.round(4).to_string())


if __name__ == "__main__":
    main()
