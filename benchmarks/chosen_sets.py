"""What does a target really gain from the sources that the planner chooses, and from others?

For every target of ``ground_truth.py`` the planner chooses within several budgets, learning from the transfers to all
other targets. What it chose is trained on the target and scored on its validation rows, several seeds, and so are
random sets of the same size. The yardsticks: the target alone, the best of 20 random sets, their mean, and the one of
them whose best member is predicted to gain most ("max-member"). The best of 20 is found by one seed and valued by the
other: chosen and valued by the same seeds it would owe part of its gain to luck (that figure stands beside it).

    python benchmarks/chosen_sets.py --mirror DIR [--budgets 0,6,25%] [--jobs 1] [--smoke]

Takes the options and the workspace of ``ground_truth.py``, which must have run. Every training is kept, so a killed run
goes on where it stopped. Writes chosen_sets.json.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import ground_truth as truth
import numpy as np
from common import end, finished, names, processes

from adaptmtl.fusion.bench import FusionBench
from adaptmtl.provenance import record
from adaptmtl.selection.budget import Budget
from adaptmtl.selection.planner import Choice, plan_sources
from adaptmtl.storage import read_json, write_json
from adaptmtl.training.group import Member
from adaptmtl.transfer.history import LEAST_BASELINE
from adaptmtl.transfer.quality import paired_interval
from adaptmtl.transfer.sources import find_sources

SEEDS = 3
RANDOM_SETS, RANDOM_SEEDS = 20, 2


def choose_for(settings: truth.Settings, name: str, budgets: Sequence[str]) -> dict[str, Any]:
    """Lets the planner choose for one target within each budget, and trains what it chose and random sets."""
    target = truth.Target.of(settings, name)
    setup, data = target.setup, target.data
    if len((read_json(target.path("runs")) or {}).get("runs", [])) < len(target.plan):
        raise SystemExit(f"{settings.home} lacks transfers to {name}: run ground_truth.py with the same options first")
    bench = FusionBench(setup, data, "merge")
    if strangers := {one.task for one in find_sources(setup, data).entries} - set(target.entries):
        raise SystemExit(f"{settings.home} has adapters that are no sources here: {', '.join(sorted(strangers))}")
    alone = [row["score"] for row in truth.train_target(settings, name)["runs"] if not row["sources"]]
    choices, realised, sizes = {}, {}, {}
    for text in budgets:
        choice = plan_sources(setup, name, bench, rows=settings.target_rows, budget=Budget.parse(text),
                              remember=False)  # fmt: skip
        choices[text] = described(choice)
        best = tuple(choices[text]["best"])
        realised["+".join(best)] = scores(target, best, range(SEEDS))
        sizes[len(best)] = draws(name, sorted(target.entries), len(best))
    random = {
        str(size): {"+".join(one): scores(target, one, range(RANDOM_SEEDS)) for one in sets}
        for size, sets in sorted(sizes.items())
    }
    return {"target": name, "alone": alone, "choices": choices, "realised": realised, "random": random}


def described(choice: Choice) -> dict[str, Any]:
    """Returns what the planner chose, what it would have chosen had it not been against all, and what that cost."""
    assert choice.table is not None
    sets = {tuple(sorted(names)): gain for names, gain in choice.sets}
    tried = {tuple(sorted(one.sources)): one.gain for one in choice.trial.tried if not one.dropped}
    best = next(iter(tried)) if tried else max(sets, key=lambda names: (sets[names].mean, -len(names)))
    gain = tried.get(best, sets[best])
    return {
        "chosen": sorted(entry.task for entry in choice.entries), "best": list(best), "predicted": gain.to_dict(),
        "trainings": choice.trial.trainings,
        "seconds": sum(choice.table.estimator_seconds.values()) + choice.trial.seconds,  # when they were first made
        "ranking": {one.task: one.gain.mean for one in choice.table.sources},
    }  # fmt: skip


def draws(target: str, names: list[str], size: int) -> list[tuple[str, ...]]:
    """Returns 20 different random sets of a size, or all there are; always the same ones for a target."""
    generator = np.random.default_rng([*target.encode(), size])
    found: dict[tuple[str, ...], None] = {}
    while len(found) < min(RANDOM_SETS, math.comb(len(names), size)):
        found[tuple(sorted(generator.choice(names, size, replace=False).tolist()))] = None
    return list(found)


def scores(target: truth.Target, sources: tuple[str, ...], seeds: Sequence[int]) -> list[float]:
    """Trains from the merge of the sources with every seed, or reads what was trained before."""
    metric, found = target.data.spec.main_metric, []
    starts = truth.Starts(target.setup, {name: target.entries[name] for name in sources})
    for seed in seeds:
        key = target.setup.key("truth set", truth_version=truth.VERSION, data=target.data.identity, seed=seed,
                               sources=[target.entries[name].key for name in sorted(sources)])  # fmt: skip
        path = target.setup.workspace.folder("truth", f"{key}.json")
        if (held := read_json(path)) is None:
            ((values, cost, _),) = truth.trainings(target, [Member(seed, starts.of(tuple(sorted(sources))))])
            held = {"score": values[metric], "seconds": cost.seconds}
            write_json(path, held)
        found.append(held["score"])
    return found


def gains(one: dict[str, Any], budget: str) -> dict[str, float]:
    """Returns the relative gains over the target alone of one target's choice and of its yardsticks."""
    alone, choice = float(np.mean(one["alone"])), one["choices"][budget]
    unit = max(abs(alone), LEAST_BASELINE)
    random = one["random"][str(len(choice["best"]))]
    table = np.array(list(random.values()))
    crossed = [table[table[:, seed].argmax(), 1 - seed] for seed in (0, 1)] if table.shape[1] == 2 else [table.max()]
    ranking = choice["ranking"]
    member = max(random, key=lambda names: max(ranking.get(name, -1.0) for name in names.split("+")))
    score = {
        "best predicted set": np.mean(one["realised"]["+".join(choice["best"])]),
        "best of 20 random sets": np.mean(crossed),
        "best of 20 random sets, by the same seeds": table.mean(axis=1).max(),
        "mean of 20 random sets": table.mean(),
        "max-member of 20 random sets": np.mean(random[member]),
    }
    found = {name: float((value - alone) / unit) for name, value in score.items()}
    found["choice"] = found["best predicted set"] if choice["chosen"] else 0.0
    return found


def summary(done: dict[str, dict[str, Any]], budgets: Sequence[str]) -> dict[str, Any]:
    """Returns, per budget, mean gains over targets and the paired differences of the best predicted set to each."""
    found = {}
    for budget in budgets:
        rows = [gains(one, budget) for one in done.values()]
        mine = np.array([row["best predicted set"] for row in rows])
        found[budget] = {
            "targets": len(rows),
            "gain": {name: float(np.mean([row[name] for row in rows])) for name in rows[0]},
            "best predicted set minus": {
                name: paired_interval(mine - np.array([row[name] for row in rows]))
                for name in rows[0] if name not in ("best predicted set", "choice")
            },
            "trained alone": sum(not one["choices"][budget]["chosen"] for one in done.values()),
            "seconds": float(np.mean([one["choices"][budget]["seconds"] for one in done.values()])),
        }  # fmt: skip
    return found


def main() -> None:
    parser = truth.options_of(__doc__)
    parser.add_argument("--budgets", type=names, default=["0", "6", "25%"])
    options = parser.parse_args()
    settings = truth.settings_of(options)
    done: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    path = options.out / "chosen_sets.json"
    with processes(options.jobs, os.cpu_count() or 1) as pool:
        waiting = {pool.submit(choose_for, settings, name, options.budgets): name for name in settings.targets}
        for name, result in finished(waiting, failed):
            done[name] = result
            write_json(path, {
                "question": (__doc__ or "").splitlines()[0], "targets": done, "summary": summary(done, options.budgets),
                "provenance": record(),
            })  # fmt: skip
            print(name, gains(result, options.budgets[0]), flush=True)
    end(failed)


if __name__ == "__main__":
    main()
