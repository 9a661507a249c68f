"""What does training from each source, and from sets of sources, really do for a target?

The truth that estimators and planners are measured against: real transfers with the embedded backbone. For every target
its adapter is trained from nothing (more seeds, since every gain is measured against it), from each source's adapter,
and from the merge of source sets, always on the same few rows for the same number of steps, and scored on the same
validation rows. Sources that share texts with a target's validation rows are left out for it. Then every estimator
scores every source. Every training is kept in the workspace, so a killed run goes on where it stopped; the files are
written anew after each target.

    python benchmarks/ground_truth.py --mirror DIR [--seeds 3] [--jobs 1] [--smoke]

Writes ground_truth.parquet (one row per training), ground_truth_scores.parquet (one row per target, source and
estimator), ground_truth_seen.parquet (what the planner saw of every source and set before any training on the target)
and ground_truth.json (settings, sources, what was excluded, provenance), or files that begin with ``--name``. What the
package ships as past transfers is made of the first and the third by ``ship_past.py``.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from common import end, finished, names, processes

from adaptmtl.adapters.methods import LoraWeights
from adaptmtl.fusion.bench import FusionBench
from adaptmtl.fusion.delta import from_peft
from adaptmtl.fusion.methods import merged_start, start_from
from adaptmtl.provenance import Cost, measured, record
from adaptmtl.selection.gains import Seen
from adaptmtl.selection.reading import Reader
from adaptmtl.storage import read_json, write_json
from adaptmtl.training.adapter import train_adapter
from adaptmtl.training.data import TaskData
from adaptmtl.training.group import Member, train_group
from adaptmtl.training.recipe import Encoding, Recipe
from adaptmtl.training.score import score
from adaptmtl.training.setup import Setup, make_setup
from adaptmtl.transfer.contract import estimators
from adaptmtl.transfer.estimate import estimate
from adaptmtl.transfer.history import History, Transfer, recipe_of
from adaptmtl.transfer.sources import Candidates, find_sources
from adaptmtl.workspace import Workspace
from adaptmtl.zoo.build import ensure_adapter
from adaptmtl.zoo.index import Entry
from adaptmtl.zoo.store import Zoo

VERSION = 3
SOURCES = (
    "mnli", "snli", "qnli", "scitail", "sick", "mrpc", "stsb", "cola", "sst2", "trec", "subj", "ag_news", "tweet_irony",
    "tweet_emotion", "tweet_hate", "conll2000", "en_ewt", "ncbi_disease", "mit_restaurant", "squad", "policy_qa",
    "subjqa-electronics", "cosmos_qa", "social_i_qa",
)  # fmt: skip
TARGETS = (
    "rte", "mrpc", "stsb", "wic", "scicite", "ethos", "wnut17", "mit_movie", "qed", "subjqa-books", "balanced_copa",
    "boolq", "cr", "sst5", "wikigold",
)  # fmt: skip
#: Sizes of the random sets: twelve of size three, to know what chance finds there, and others up to twelve.
SET_SIZES = (3,) * 12 + (2, 2, 4, 5, 6, 8, 10, 12)
SET_SEEDS = 2


@dataclass(frozen=True)
class Settings:
    """What the truth depends on besides the code."""

    mirror: Path
    home: Path
    source_rows: int = 2500
    source_epochs: float = 4.0
    target_rows: int = 500
    steps: int = 150
    learning_rate: float = Recipe().learning_rate
    head_rate: float = Recipe().head_rate
    max_length: int = 128
    source_length: int = 128
    eval_rows: int | None = None
    seeds: int = 3
    sources: tuple[str, ...] = SOURCES
    targets: tuple[str, ...] = TARGETS
    set_sizes: tuple[int, ...] = SET_SIZES
    as_they_are: bool = False

    def setup(self, *, target: bool) -> Setup:
        """Returns the settings of the sources' own training, or of the targets'."""
        workspace = Workspace(home=self.home, mirror=self.mirror, offline=True)
        recipe = Recipe(epochs=self.source_epochs, learning_rate=self.learning_rate, head_rate=self.head_rate)
        if target:
            recipe = replace(recipe, steps=self.steps)
        eval_rows = self.eval_rows if target else min(self.eval_rows or 500, 500)
        length = self.max_length if target else self.source_length
        return make_setup(workspace=workspace, recipe=recipe, encoding=Encoding(max_length=length), eval_rows=eval_rows)


def train_source(settings: Settings, task: str) -> dict[str, Any]:
    """Trains one source's adapter, or finds it, and returns what it is."""
    setup = settings.setup(target=False)
    found = Zoo(setup.workspace).find(task=task, method="lora", backbone_hash=setup.backbone.hash)
    if settings.as_they_are and len(found) == 1:
        entry = found[0]
    elif settings.as_they_are and found:
        raise SystemExit(f"{settings.home} has {len(found)} adapters of {task}; with --as-they-are there must be one")
    else:
        entry = ensure_adapter(setup, task, settings.source_rows, 0)
    manifest = entry.manifest()
    return {
        "task": task, "kind": str(manifest.task.kind), "rows": entry.train_rows, "metric": entry.metric,
        "score": manifest.metrics[entry.metric].value, "seconds": manifest.cost.seconds, "key": entry.key,
    }  # fmt: skip


@dataclass(frozen=True)
class Target:
    """One target with what may be its sources."""

    settings: Settings
    setup: Setup
    data: TaskData
    entries: dict[str, Entry]
    excluded: list[list[str]]

    @classmethod
    def of(cls, settings: Settings, name: str) -> Target:
        """Reads the rows and looks for sources among those of the settings."""
        setup = settings.setup(target=True)
        data = setup.data(name, settings.target_rows)
        candidates = find_sources(setup, data, None)
        entries = {entry.task: entry for entry in candidates.entries if entry.task in settings.sources}
        return cls(settings, setup, data, entries, [list(one) for one in candidates.excluded])

    @property
    def plan(self) -> list[tuple[tuple[str, ...], int]]:
        """All trainings: (sources, seed)."""
        return starts_to_measure(sorted(self.entries), self.settings, self.data.spec.name)

    def path(self, part: str) -> Path:
        """Returns where a part of the result is kept."""
        key = self.setup.key("truth", part=part, truth_version=VERSION, data=self.data.identity,
                             plan=[[list(sources), seed] for sources, seed in self.plan],
                             entries={task: entry.key for task, entry in self.entries.items()})  # fmt: skip
        return self.setup.workspace.folder("truth", f"{key}.json")


def train_target(settings: Settings, name: str) -> dict[str, Any]:
    """Trains every start for one target; what was trained before is read from the workspace."""
    target = Target.of(settings, name)
    path, plan = target.path("runs"), target.plan
    rows: list[dict[str, Any]] = (read_json(path) or {}).get("runs", [])
    starts = Starts(target.setup, target.entries)
    members = [Member(seed, starts.of(sources)) for sources, seed in plan[len(rows) :]]
    for values, cost, steps in trainings(target, members):
        sources, seed = plan[len(rows)]
        metric = target.data.spec.main_metric
        rows.append({
            "target": name, "sources": "+".join(sources), "n_sources": len(sources), "seed": seed, "metric": metric,
            "score": values[metric], "seconds": cost.seconds, "cpu_seconds": cost.cpu_seconds, "steps": steps,
            "target_rows": len(target.data.train.rows), "eval_rows": len(target.data.validation.rows),
            "method": "merge",
        })  # fmt: skip
        write_json(path, {"runs": rows})
    return {"target": name, "kind": str(target.data.spec.kind), "runs": rows, "excluded": target.excluded}


def trainings(target: Target, members: Sequence[Member]) -> Iterator[tuple[dict[str, float], Cost, int]]:
    """Trains members, side by side on a GPU and one by one on a CPU, and yields scores, cost and steps of each."""
    setup, data = target.setup, target.data

    def scored(out: np.ndarray) -> dict[str, float]:
        return score(data, data.validation, out).values

    if torch.cuda.is_available():
        groups = train_group(setup.workspace, setup.backbone, data, setup.recipe, members)
        while True:
            with measured() as cost:
                if (group := next(groups, None)) is None:
                    return
                outputs = group.outputs(setup.workspace, data.validation)
            for out in outputs:  # members share their forward passes, and so their time
                share = Cost(cost.seconds / len(outputs), cost.cpu_seconds / len(outputs))
                yield scored(out), share, group.log.steps
    for member in members:
        with measured() as cost:
            trained = train_adapter(
                setup.workspace, setup.backbone, data, setup.recipe, member.seed, start=member.start
            )
            out = trained.outputs(setup.workspace, data.validation)
        yield scored(out), cost, trained.log.steps


def score_target(settings: Settings, name: str) -> dict[str, Any]:
    """Asks every estimator and the planner about one target, and puts what was measured into the history."""
    target = Target.of(settings, name)
    path = target.path("scores")
    result = train_target(settings, name)
    if (held := read_json(path)) is None:
        plan = [sources for sources, _ in target.plan if sources]
        held = {"scores": estimates(target), "seen": seen(target, list(dict.fromkeys(plan)))}
        remember(target.setup, {**result, **held})
        write_json(path, held)
    return {**result, **held}


class Starts:
    """LoRA weights to begin from, by set of sources; each merge is made once."""

    def __init__(self, setup: Setup, entries: dict[str, Entry]):
        self.setup, self.entries = setup, entries
        self.bundles = {task: entry.load(backbone_hash=setup.backbone.hash) for task, entry in entries.items()}
        self.made: dict[tuple[str, ...], LoraWeights | None] = {(): None}

    def of(self, sources: tuple[str, ...]) -> LoraWeights | None:
        """Returns the start; None without sources."""
        if sources not in self.made:
            bundles = [self.bundles[task] for task in sources]
            if len(bundles) == 1:
                self.made[sources] = start_from(self.setup, bundles[0])
            else:
                deltas = [from_peft(one.adapter, one.lora_config) for one in bundles]
                self.made[sources] = merged_start(self.setup, deltas)
        return self.made[sources]


def starts_to_measure(names: Sequence[str], settings: Settings, target: str) -> list[tuple[tuple[str, ...], int]]:
    """Returns (sources, seed) of all trainings of a target: nothing, each source, random sets."""
    generator = np.random.default_rng(list(target.encode()))
    sets: list[tuple[str, ...]] = []
    for size in settings.set_sizes:
        if size > 1 and sum(len(one) == size for one in sets) < math.comb(len(names), size):
            while (drawn := _draw(generator, names, size)) in sets:
                pass
            sets.append(drawn)
    plan: list[tuple[tuple[str, ...], int]] = [((), seed) for seed in range(2 * settings.seeds)]
    plan += [((name,), seed) for name in names for seed in range(settings.seeds)]
    plan += [(drawn, seed) for drawn in sets for seed in range(min(SET_SEEDS, settings.seeds))]
    return plan


def _draw(generator: np.random.Generator, names: Sequence[str], size: int) -> tuple[str, ...]:
    return tuple(sorted(generator.choice(names, size, replace=False).tolist()))


def seen(target: Target, wanted: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
    """Returns what the planner sees of every source and set, before any training on the target."""
    setup, data, entries = target.setup, target.data, target.entries
    reader = Reader(setup, data, Candidates(tuple(entries.values()), ()), 0, allowed=float("inf"), most=None)
    bench = FusionBench(setup, data, "merge")
    keys = {sources: tuple(entries[one].key for one in sources) for sources in wanted if len(sources) > 1}
    read = reader.read({keys[sources]: bench.start([entries[one] for one in sources]) for sources in keys})
    return [
        {"target": data.spec.name, "sources": "+".join(one.sources), "reading": reader.reading, "probe": one.probe,
         "hscore": one.hscore, "alike": one.alike, "backbone": setup.backbone.hash}
        for one in (*reader.seen.values(), *read.values())
    ]  # fmt: skip


def remember(setup: Setup, result: dict[str, Any]) -> None:
    """Puts the measured transfers into the workspace's history."""
    rows = result["runs"]
    alone = {row["seed"]: row["score"] for row in rows if not row["sources"]}
    before = {row["sources"]: Seen((), row["probe"], row["hscore"], row["alike"]).to_json() for row in result["seen"]}
    recipe = recipe_of(setup)
    History(setup.workspace).record([
        Transfer(setup.backbone.hash, row["target"], tuple(row["sources"].split("+")), row["seed"], row["score"],
                 alone[row["seed"]], row["metric"], row["target_rows"], row["method"], recipe, row["seconds"],
                 seen=before[row["sources"]])
        for row in rows if row["sources"]
    ])  # fmt: skip


def estimates(target: Target) -> list[dict[str, Any]]:
    """Returns every estimator's score of every source, from the target's training rows alone.

    Those that learn from history are left out: what they know would depend on which targets were measured first. They
    are judged leave-target-out from the transfers themselves.
    """
    names = [name for name in estimators if "history" not in estimators[name].needs]
    records = estimate(target.setup, target.data, list(target.entries.values()), names=names).records()
    return [{"target": target.data.spec.name, **one} for one in records]


def write(out: Path, settings: Settings, sources: list[dict[str, Any]], done: dict[str, dict[str, Any]]) -> None:
    """Writes what is known so far to files whose names begin like ``out``."""
    out.parent.mkdir(parents=True, exist_ok=True)
    order = [done[target] for target in settings.targets if target in done]
    for part, ending in (("runs", ""), ("scores", "_scores"), ("seen", "_seen")):
        if rows := [row for one in order for row in one.get(part, [])]:
            pq.write_table(pa.Table.from_pylist(rows), out.with_name(f"{out.name}{ending}.parquet"))
    write_json(out.with_name(f"{out.name}.json"), {
        "question": (__doc__ or "").splitlines()[0],
        "settings": {
            "source_rows": settings.source_rows, "source_epochs": settings.source_epochs,
            "sources_as_they_were": settings.as_they_are,
            "source_max_length": settings.source_length, "target_rows": settings.target_rows, "steps": settings.steps,
            "max_length": settings.max_length, "eval_rows": settings.eval_rows,
            "seeds": settings.seeds, "baseline_seeds": 2 * settings.seeds, "set_seeds": SET_SEEDS,
            "recipe": settings.setup(target=True).recipe.to_dict(),
        },
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
    pool: ProcessPoolExecutor, settings: Settings, measure: Callable[[Settings, str], dict[str, Any]],
    done: dict[str, dict[str, Any]], after: Callable[[], None],
) -> list[str]:  # fmt: skip
    """Measures all targets, puts what is found into ``done``, and returns what failed."""
    failed: list[str] = []
    waiting = {pool.submit(measure, settings, target): target for target in settings.targets}
    for target, result in finished(waiting, failed):
        done.setdefault(target, {}).update(result)
        after()
        print(f"target {target}: {in_short(done[target]['runs'])}", flush=True)
    return failed


def options_of(description: str | None) -> argparse.ArgumentParser:
    """Returns the parser of all benchmarks on these transfers."""
    defaults = Settings(mirror=Path(), home=Workspace().home)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument("--home", type=Path, default=defaults.home)
    parser.add_argument("--targets", type=names, default=defaults.targets)
    parser.add_argument("--sources", type=names, default=defaults.sources)
    parser.add_argument("--set-sizes", type=_sizes, default=defaults.set_sizes, help="sizes of random sets, as 3,3,5")
    for name in ("seeds", "target_rows", "steps", "max_length", "eval_rows", "source_rows"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(defaults, name))
    for name in ("learning_rate", "head_rate"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(defaults, name))
    parser.add_argument("--as-they-are", action="store_true", help="take adapters of the zoo however they were trained")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once; they share one device")
    parser.add_argument("--smoke", action="store_true", help="few rows, tasks and steps, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser


def settings_of(options: argparse.Namespace) -> Settings:
    """Returns what the options say."""
    chosen = {name: getattr(options, name) for name in Settings.__dataclass_fields__ if hasattr(options, name)}
    if options.smoke:
        chosen |= {"source_rows": 48, "target_rows": 48, "steps": 4, "max_length": 48, "eval_rows": 60, "seeds": 1}
        chosen |= {"sources": ("snli", "stsb", "conll2000"), "targets": ("rte", "qed"), "set_sizes": (2, 3)}
    return Settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()})


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--only-runs", action="store_true", help="train, and leave the estimators for later")
    parser.add_argument("--name", default="ground_truth", help="what the files' names begin with")
    options = parser.parse_args()
    settings = settings_of(options)
    done: dict[str, dict[str, Any]] = {}
    with processes(options.jobs, os.cpu_count() or 1) as pool:
        sources = list(pool.map(train_source, [settings] * len(settings.sources), settings.sources))
        for one in sources:
            print(f"source {one['task']}: {one['metric']} {one['score']:.3f}, {one['seconds']:.0f} s", flush=True)

        def save() -> None:
            write(options.out / options.name, settings, sources, done)

        failed = in_processes(pool, settings, train_target, done, save)
        if not options.only_runs:
            failed += in_processes(pool, settings, score_target, done, save)
    end(failed)


def _sizes(text: str) -> list[int]:
    return [int(size) for size in names(text)]


if __name__ == "__main__":
    main()
