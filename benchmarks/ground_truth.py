"""What does training from each source, and from sets of sources, really do for a target?

The truth that estimators and planners are measured against: real transfers with the embedded backbone. For every target
its adapter is trained from nothing (more seeds, since every gain is measured against it), from each source's adapter,
and from the merge of source sets, always on the same few rows for the same number of steps, and scored on the same
validation rows. Sources that share texts with a target's validation rows are left out for it. Then every estimator
scores every source. Every training is kept in the workspace, so a killed run goes on where it stopped; the files are
written anew after each target. The sources' adapters and all trainings are written beside the results as well, so that
another machine goes on from them: give it ADAPTMTL_DTYPE where it would multiply in another dtype.

    python benchmarks/ground_truth.py --home DIR --mirror DIR [--seeds 3] [--jobs 1] [--smoke]

Give it a workspace of its own: all adapters there are sources. Writes ground_truth.parquet (one row per training),
ground_truth_scores.parquet (one row per target, source and estimator), ground_truth_seen.parquet (what the planner saw
of every source and set before any training on the target), ground_truth_texts.parquet (mean embeddings of the targets'
texts) and ground_truth.json (settings, sources, what was excluded, provenance), or files named like ``--out``. What the
package ships as past transfers is made of the first and the third by ``ship_past.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import end, finished, processes
from transfers import Settings, Start, Target, measure, options_of, pack, settings_of, train_source, unpack

from adaptmtl.fusion.bench import FusionBench
from adaptmtl.provenance import record
from adaptmtl.selection.budget import Budget, Prices
from adaptmtl.selection.gains import Seen
from adaptmtl.selection.reading import Reader, training_tokens, usual_tokens
from adaptmtl.storage import read_json, write_json
from adaptmtl.transfer import sides
from adaptmtl.transfer.contract import estimators
from adaptmtl.transfer.estimate import estimate, first_order_sets
from adaptmtl.transfer.history import History, Transfer, recipe_of
from adaptmtl.transfer.sources import Candidates
from adaptmtl.zoo.build import ensure_adapter, text_embedding

#: Of what is asked of estimators and the planner; :data:`transfers.VERSION` is that of trainings.
VERSION = 2
#: What the planner may cost beside its default.
SMALL = Budget.parse("2%")
#: Sizes of the random sets: six of size three, to know what chance finds there, and others up to twelve.
SET_SIZES = (3,) * 6 + (2, 4, 5, 6, 8, 12)
SET_SEEDS = 2
#: Parts of the result -> ends of the files' names.
PARTS = {"runs": "", "scores": "_scores", "seen": "_seen", "texts": "_texts"}


def starts_to_measure(names: Sequence[str], settings: Settings, target: str) -> list[Start]:
    """Returns (sources, seed) of all trainings of a target: nothing, each source, random sets, all sources."""
    generator = np.random.default_rng(list(target.encode()))
    sets: list[tuple[str, ...]] = []
    for size in SET_SIZES:
        if sum(len(one) == size for one in sets) < math.comb(len(names), size):
            while (drawn := tuple(sorted(generator.choice(names, size, replace=False).tolist()))) in sets:
                pass
            sets.append(drawn)
    if len(names) > 1 and tuple(names) not in sets:
        sets.append(tuple(names))
    plan: list[Start] = [((), seed) for seed in range(2 * settings.seeds)]
    plan += [((name,), seed) for name in names for seed in range(settings.seeds)]
    plan += [(drawn, seed) for drawn in sets for seed in range(min(SET_SEEDS, settings.seeds))]
    return plan


def train_target(settings: Settings, name: str) -> dict[str, Any]:
    """Trains every start for one target; what was trained before is read from the workspace."""
    return runs_of(Target.of(settings, name))


def runs_of(target: Target) -> dict[str, Any]:
    """Returns all transfers to one target, trained where they are not kept."""
    runs = measure(target, starts_to_measure(sorted(target.entries), target.settings, target.name))
    return {"target": target.name, "kind": str(target.data.spec.kind), "runs": runs, "excluded": target.excluded}


def score_target(settings: Settings, name: str) -> dict[str, Any]:
    """Asks every estimator and the planner about one target, and puts what was measured into the history."""
    target = Target.of(settings, name)
    result = runs_of(target)
    plan = list(dict.fromkeys(tuple(row["sources"].split("+")) for row in result["runs"] if row["sources"]))
    path = target.path(
        "scores", scores_version=VERSION, estimate_version=sides.VERSION, estimators=_estimators(),
        plan=[[target.entries[task].key for task in sources] for sources in plan],
    )  # fmt: skip
    if (held := read_json(path)) is None:
        embedding = text_embedding(target.setup, target.data).numpy()
        held = {"seen": seen(target, plan), "scores": estimates(target, plan),
                "texts": [{"target": name, "embedding": embedding.tolist()}]}  # fmt: skip
        write_json(path, held)
    remember(target, result["runs"], held)
    return {**result, **held}


def seen(target: Target, plan: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
    """Returns what the planner sees of every source and set, before any training on the target, and what it took.

    Sources are read as the planner reads them, by default and within a small budget. It reads a few sets only, and of
    sources that are too many for its tokens some; here all sources are read, and all sets by default.
    """
    one_training = training_tokens(target.setup, target.data)
    frugal = SMALL.tokens(Prices(one_training, 1.0), len(target.entries))
    return [
        *read(target, plan, usual_tokens(one_training), ""),
        *read(target, [sources for sources in plan if len(sources) == 1], frugal, str(SMALL)),
    ]


def read(target: Target, plan: Sequence[tuple[str, ...]], tokens: float, budget: str) -> list[dict[str, Any]]:
    """Reads sources and sets with so many tokens for all sources together."""
    setup, data, entries = target.setup, target.data, target.entries
    reader = Reader(setup, data, Candidates(tuple(entries.values()), ()), 0, tokens, most=None)
    bench = FusionBench(setup, data, "merge")
    keys = {sources: tuple(entries[one].key for one in sources) for sources in plan if len(sources) > 1}
    merges = reader.read({keys[sources]: bench.start([entries[one] for one in sources]) for sources in keys})
    shared = sum(reader.singles.target_seconds.values()) / len(reader.seen)
    seconds = {one.entry.task: one.seconds + shared for one in reader.singles.sources}
    return [
        {"target": target.name, "sources": "+".join(one.sources), "reading": reader.reading, "probe": one.probe,
         "hscore": one.hscore, "alike": one.alike, "backbone": setup.backbone.hash, "rows": reader.rows,
         "budget": budget, "seconds": seconds.get("+".join(one.sources))}
        for one in (*reader.seen.values(), *merges.values())
    ]  # fmt: skip


def estimates(target: Target, plan: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
    """Returns every estimator's score of every source and, of first-order estimates, of every set.

    The target's adapter on these rows, which some compare, is in a workspace of its own: it is no source. Estimators
    that learn from history are left out: what they know would depend on which targets were measured first. They are
    judged leave-target-out from the transfers themselves.
    """
    setup = target.settings.setup(target=True, within="targets")
    own = ensure_adapter(setup, target.name, target.settings.target_rows, 0).manifest().cost.seconds
    data, entries = setup.data(target.name, target.settings.target_rows), list(target.entries.values())
    records = estimate(setup, data, entries, names=_estimators()).records()
    for one in records:
        if "delta" in estimators[one["estimator"]].needs:
            one["seconds"] += own / len(entries)
    sets = [sources for sources in plan if len(sources) > 1]
    values = zip(sets, first_order_sets(setup, data, entries, sets), strict=True)
    records += [
        {"source": "+".join(sources), "estimator": "first_order", "score": score.value,
         "standard_error": score.standard_error, "seconds": None} for sources, score in values
    ]  # fmt: skip
    return [{"target": target.name, **one} for one in records]


def _estimators() -> list[str]:
    return [name for name in estimators if "history" not in estimators[name].needs]


def remember(target: Target, runs: Sequence[dict[str, Any]], held: dict[str, Any]) -> None:
    """Puts the measured transfers into the workspace's history."""
    alone = {row["seed"]: row["score"] for row in runs if not row["sources"]}
    before = {
        row["sources"]: Seen((), row["probe"], row["hscore"], row["alike"]).to_json()
        for row in held["seen"] if not row["budget"]
    }  # fmt: skip
    recipe, backbone = recipe_of(target.setup), target.setup.backbone.hash
    History(target.setup.workspace).record([
        Transfer(backbone, row["target"], tuple(row["sources"].split("+")), row["seed"], row["score"],
                 alone[row["seed"]], row["metric"], row["target_rows"], row["method"], recipe, row["seconds"],
                 seen=before[row["sources"]])
        for row in runs if row["sources"]
    ], {target.name: np.array(held["texts"][0]["embedding"])})  # fmt: skip


def told(settings: Settings) -> dict[str, Any]:
    """Returns the settings as the file of results holds them."""
    return {
        "source_rows": settings.source_rows, "sources_as_they_were": settings.as_they_are,
        "source_max_length": settings.source_length, "target_rows": settings.target_rows, "steps": settings.steps,
        "max_length": settings.max_length, "eval_rows": settings.eval_rows,
        "seeds": settings.seeds, "baseline_seeds": 2 * settings.seeds, "set_seeds": SET_SEEDS,
        "recipe": settings.setup(target=True).recipe.to_dict(),
    }  # fmt: skip


def write(out: Path, settings: Settings, sources: list[dict[str, Any]], done: dict[str, dict[str, Any]]) -> None:
    """Writes what is known so far; a part of which nothing is known has no file, rather than that of an older truth."""
    out.parent.mkdir(parents=True, exist_ok=True)
    order = [done[target] for target in settings.targets if target in done]
    for part, ending in PARTS.items():
        path = out.with_name(f"{out.stem}{ending}.parquet")
        if rows := [row for one in order for row in one.get(part, [])]:
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            path.unlink(missing_ok=True)
    write_json(out, {
        "question": (__doc__ or "").splitlines()[0],
        "settings": told(settings),
        "sources": sources,
        "targets": [{"target": one["target"], "kind": one["kind"], "excluded": one["excluded"]} for one in order],
        "missing": [target for target in settings.targets if target not in done],
        "provenance": record(),
    })  # fmt: skip


def in_short(runs: Sequence[dict[str, Any]]) -> str:
    """Returns what the transfers to one target came to."""
    found: dict[str, list[float]] = {}
    for row in runs:
        if row["n_sources"] < 2:
            found.setdefault(row["sources"], []).append(row["score"])
    mean = {name: float(np.mean(scores)) for name, scores in found.items()}
    alone = mean.pop("")
    best = max(mean, key=lambda name: mean[name])
    below = np.mean([score < alone for score in mean.values()])
    return f"alone {alone:.3f}, best source {best} {mean[best]:.3f}, {below:.0%} of {len(mean)} sources below alone"


def in_processes(
    pool: ProcessPoolExecutor, settings: Settings, measured: Callable[[Settings, str], dict[str, Any]],
    done: dict[str, dict[str, Any]], after: Callable[[], None],
) -> list[str]:  # fmt: skip
    """Measures all targets, puts what is found into ``done``, and returns what failed."""
    failed: list[str] = []
    waiting = {pool.submit(measured, settings, target): target for target in settings.targets}
    for target, result in finished(waiting, failed):
        done.setdefault(target, {}).update(result)
        after()
        print(f"target {target}: {in_short(done[target]['runs'])}", flush=True)
    return failed


def main() -> None:
    parser = options_of(__doc__, "ground_truth.json")
    parser.add_argument("--only-runs", action="store_true", help="train, and leave the estimators for later")
    options = parser.parse_args()
    settings = settings_of(options)
    if (held := read_json(options.out)) is not None and held["settings"] != told(settings):
        raise SystemExit(f"{options.out} holds the truth of other settings: give another --out")
    trainings, adapters = (
        options.out.with_name(f"{options.out.stem}_{part}") for part in ("trainings.json", "sources")
    )
    unpack(settings, trainings)
    done: dict[str, dict[str, Any]] = {}
    sources: list[dict[str, Any]] = []
    failed: list[str] = []
    with processes(options.jobs, options.threads) as pool:
        waiting = {pool.submit(train_source, settings, task, adapters): task for task in settings.sources}
        for task, one in finished(waiting, failed):
            sources.append(one)
            print(f"source {task}: {one['metric']} {one['score']:.3f}, {one['seconds']:.0f} s", flush=True)
        end(failed)  # other sources are other sets
        settings = replace(settings, sources=tuple(sorted(one["task"] for one in sources)))

        def save() -> None:
            write(options.out, settings, sorted(sources, key=lambda one: one["task"]), done)
            pack(settings, trainings)

        failed += in_processes(pool, settings, train_target, done, save)
        if not options.only_runs:
            failed += in_processes(pool, settings, score_target, done, save)
    end(failed)


if __name__ == "__main__":
    main()
