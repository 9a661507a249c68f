"""What does a target gain from the sources that the planner chooses, and from others, and what does choosing cost?

For every target of ``ground_truth.py`` the planner chooses within several budgets, learning from the transfers to all
other targets. What it chose is trained on the target and scored on its validation rows, several seeds, and so are 20
random sets of the same size. The yardsticks: the target alone, all sources merged, the source that is predicted best,
the best of the random sets, their mean, and those whose best member is predicted to gain most ("max-member", the mean
of ties). The best of 20 is found by one seed and valued by the other: chosen and valued by the same seeds it would owe
part of its gain to luck (that figure stands beside it).

Choosing begins from a cold start, in an empty workspace that has nothing but the zoo, anew for every budget. Its cost
is given as a share of one training on the target from every source: of processor seconds, since the trainings may have
run side by side, and only where those were made on a processor of the same kind.

    python benchmarks/chosen_sets.py --home DIR --mirror DIR [--budgets 0,2%,6] [--jobs 1] [--smoke]

Takes the options and the workspace of ``ground_truth.py``, which must have run. Every training is kept, so a killed run
goes on where it stopped. Writes chosen_sets.json.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from common import end, finished, names, processes
from transfers import Settings, Target, machine, measure, options_of, settings_of

from adaptmtl.backbone.precision import default_dtype
from adaptmtl.fusion.bench import FusionBench
from adaptmtl.provenance import measured, record
from adaptmtl.selection.budget import Budget
from adaptmtl.selection.gains import shipped_past
from adaptmtl.selection.planner import Choice, plan_sources
from adaptmtl.statistics import mean_interval
from adaptmtl.storage import key_of, read_json, write_json
from adaptmtl.transfer.history import LEAST_BASELINE, History

VERSION = 3
SEEDS = 3
RANDOM_SETS, RANDOM_SEEDS = 20, 2


def choose_for(settings: Settings, name: str, budgets: Sequence[str]) -> dict[str, Any]:
    """Lets the planner choose for one target within each budget, and trains what it chose and what it is held to."""
    target = Target.of(settings, name)
    past = History(target.setup.workspace).history(target.setup.backbone.hash).without(name)
    if missing := sorted(set(settings.targets) - {name, *past.targets}):
        raise SystemExit(f"{settings.home} has no transfers to {', '.join(missing)}: run ground_truth.py first")
    choices = choices_for(target, budgets, key_of(past=[one.__dict__ for one in past.rows], shipped=shipped_past()))
    every = tuple(sorted(target.entries))
    best = {text: tuple(one["best"]) for text, one in choices.items()}
    sizes = {len(one): draws(name, every, len(one)) for one in best.values()}
    first = {max(one["ranking"], key=lambda task, of=one["ranking"]: of[task]) for one in choices.values()}
    held = {(), every, *best.values(), *((task,) for task in first)}
    return {
        "target": name, "sources": every, "choices": choices, "realised": scores(target, sorted(held), SEEDS),
        "one transfer per source": brute_force(measure(target, [((one,), 0) for one in every])),
        "random": {str(size): scores(target, sets, RANDOM_SEEDS) for size, sets in sorted(sizes.items())},
    }  # fmt: skip


def brute_force(rows: Sequence[dict[str, Any]]) -> float | None:
    """Returns the processor seconds of all trainings; None where some were not made on this kind of machine."""
    alike = all((row["machine"], row["dtype"]) == (machine(), str(default_dtype())) for row in rows)
    return sum(row["cpu_seconds"] for row in rows) if alike else None


def choices_for(target: Target, budgets: Sequence[str], past: str) -> dict[str, Any]:
    """Returns the planner's choice within each budget, with what it took from a cold start."""
    path = target.path("choices", choices_version=VERSION, past=past, budgets=list(budgets),
                       entries={task: entry.key for task, entry in target.entries.items()})  # fmt: skip
    if (held := read_json(path)) is not None:
        return held
    found = {}
    zoo = target.setup.workspace.home.resolve() / "zoo"
    for text in budgets:
        own = target.settings.setup(target=True, within=f"choosing/{path.stem}/{text}")
        shutil.rmtree(own.workspace.home, ignore_errors=True)  # a killed run's: it would not be a cold start
        own.workspace.home.mkdir(parents=True)
        own.workspace.folder("zoo").symlink_to(zoo)
        bench = FusionBench(own, own.data(target.name, target.settings.target_rows), "merge")
        with measured() as cost:
            choice = plan_sources(own, target.name, bench, rows=target.settings.target_rows,
                                  budget=Budget.parse(text), remember=False)  # fmt: skip
        found[text] = {**described(choice), "seconds": cost.seconds, "cpu_seconds": cost.cpu_seconds}
    write_json(path, found)
    return found


def described(choice: Choice) -> dict[str, Any]:
    """Returns what the planner chose, and what it would have chosen had it not been against all."""
    assert choice.table is not None
    sets = {tuple(sorted(names)): gain for names, gain in choice.sets}
    tried = {tuple(sorted(one.sources)): one.gain for one in choice.trial.tried if not one.dropped}
    best = next(iter(tried)) if tried else max(sets, key=lambda names: (sets[names].mean, -len(names)))
    gain = tried.get(best, sets[best])
    return {
        "chosen": sorted(entry.task for entry in choice.entries), "best": list(best), "predicted": gain.to_dict(),
        "trainings": choice.trial.trainings,
        "ranking": {one.task: one.gain.mean for one in choice.table.sources},
    }  # fmt: skip


def draws(target: str, names: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Returns 20 different random sets of a size, or all there are; always the same ones for a target."""
    generator = np.random.default_rng([*target.encode(), size])
    found: dict[tuple[str, ...], None] = {}
    while len(found) < min(RANDOM_SETS, math.comb(len(names), size)):
        found[tuple(sorted(generator.choice(names, size, replace=False).tolist()))] = None
    return list(found)


def scores(target: Target, sets: Sequence[tuple[str, ...]], seeds: int) -> dict[str, list[float]]:
    """Returns the scores of every set over the seeds."""
    rows = measure(target, [(one, seed) for one in sets for seed in range(seeds)])
    return {"+".join(one): [row["score"] for row in rows[i * seeds : (i + 1) * seeds]] for i, one in enumerate(sets)}


def gains(one: dict[str, Any], budget: str) -> dict[str, float]:
    """Returns the relative gains over the target alone of one target's choice and of its yardsticks."""
    realised, choice = one["realised"], one["choices"][budget]
    ranking = choice["ranking"]
    alone = float(np.mean(realised[""]))
    random = one["random"][str(len(choice["best"]))]
    table = np.array(list(random.values()))
    crossed = [table[table[:, seed].argmax(), 1 - seed] for seed in (0, 1)] if table.shape[1] == 2 else [table.max()]
    best_member = {names: max(ranking.get(name, -1.0) for name in names.split("+")) for names in random}
    tied = [np.mean(random[names]) for names, gain in best_member.items() if gain == max(best_member.values())]
    score = {
        "best predicted set": np.mean(realised["+".join(choice["best"])]),
        "best predicted source": np.mean(realised[max(ranking, key=lambda name: ranking[name])]),
        "all sources": np.mean(realised["+".join(one["sources"])]),
        "best of 20 random sets": np.mean(crossed),
        "best of 20 random sets, by the same seeds": table.mean(axis=1).max(),
        "mean of 20 random sets": table.mean(),
        "max-member of 20 random sets": np.mean(tied),
    }
    unit = max(abs(alone), LEAST_BASELINE)
    found = {name: float((value - alone) / unit) for name, value in score.items()}
    found["choice"] = found["best predicted set"] if choice["chosen"] else 0.0
    return found


def summary(done: dict[str, dict[str, Any]], budgets: Sequence[str]) -> dict[str, Any]:
    """Returns, per budget, mean gains over targets and the paired differences of the best predicted set to each."""
    found = {}
    for budget in budgets:
        rows = [gains(one, budget) for one in done.values()]
        mine = np.array([row["best predicted set"] for row in rows])
        seconds = [one["choices"][budget]["seconds"] for one in done.values()]
        shares = [one["choices"][budget]["cpu_seconds"] / whole for one in done.values()
                  if (whole := one["one transfer per source"])]  # fmt: skip
        found[budget] = {
            "targets": len(rows),
            "gain": {name: float(np.mean([row[name] for row in rows])) for name in rows[0]},
            "best predicted set minus": {
                name: mean_interval(mine - np.array([row[name] for row in rows]))
                for name in rows[0] if name not in ("best predicted set", "choice")
            },
            "trained alone": sum(not one["choices"][budget]["chosen"] for one in done.values()),
            "seconds": float(np.mean(seconds)),
            "share of one transfer per source": float(np.median(shares)) if shares else None,
        }  # fmt: skip
    return found


def main() -> None:
    parser = options_of(__doc__, "chosen_sets.json")
    parser.add_argument("--budgets", type=names, default=["0", "2%", "6"])
    options = parser.parse_args()
    settings = settings_of(options)
    done: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    with processes(options.jobs, options.threads) as pool:
        waiting = {pool.submit(choose_for, settings, name, options.budgets): name for name in settings.targets}
        for name, result in finished(waiting, failed):
            done[name] = result
            write_json(options.out, {
                "question": (__doc__ or "").splitlines()[0], "targets": done, "summary": summary(done, options.budgets),
                "provenance": record(),
            })  # fmt: skip
            print(name, gains(result, options.budgets[0]), flush=True)
    end(failed)


if __name__ == "__main__":
    main()
