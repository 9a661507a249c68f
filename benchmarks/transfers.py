"""Real transfers that benchmarks measure against: one target, its possible sources, and trainings that are kept.

Every training is a file of its own in the workspace, named by all that it depends on, so that a killed run loses one
training at most and other benchmarks, other numbers of seeds and other sets of sources find what was trained before.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import names
from common import parser as shared_parser

from adaptmtl.adapters.methods import LoraWeights
from adaptmtl.backbone.precision import default_dtype
from adaptmtl.fusion.methods import start_from
from adaptmtl.provenance import Cost, environment, measured
from adaptmtl.storage import publish_folder, read_json, write_json
from adaptmtl.tasks.catalogue import load_catalogue
from adaptmtl.training.adapter import train_adapter
from adaptmtl.training.data import TaskData
from adaptmtl.training.group import Member, train_group
from adaptmtl.training.recipe import Encoding, Recipe
from adaptmtl.training.score import score
from adaptmtl.training.setup import Setup, make_setup
from adaptmtl.transfer.sources import find_sources
from adaptmtl.workspace import Workspace
from adaptmtl.zoo.build import adapter_key, ensure_adapter, held_adapter
from adaptmtl.zoo.index import Entry
from adaptmtl.zoo.store import Zoo

VERSION = 5
SOURCES = (
    "mnli", "snli", "qnli", "scitail", "sick", "mrpc", "boolq", "cola", "sst2", "trec", "subj", "ag_news",
    "tweet_irony", "tweet_emotion", "tweet_hate", "conll2000", "en_ewt", "ncbi_disease", "mit_restaurant", "squad",
    "policy_qa", "subjqa-electronics", "cosmos_qa", "social_i_qa",
)  # fmt: skip
#: None of the sources, so that what a target's own adapter is asked for is never taken for a source.
TARGETS = (
    "rte", "wic", "scicite", "sst5", "cr", "stsb", "wnut17", "mit_movie", "balanced_copa", "subjqa-grocery",
)  # fmt: skip
#: A set's sources, and the seed of a training from them on the target; no sources: the target alone.
Start = tuple[tuple[str, ...], int]


@dataclass(frozen=True)
class Settings:
    """What the transfers depend on besides the code.

    Attributes:
        steps: of a training on a target; None for the recipe's default.
        as_they_are: take the zoo's adapters however they were trained.
    """

    home: Path
    mirror: Path | None = None
    task_file: Path | None = None
    backbone: str = "minilm"
    source_rows: int = 2500
    target_rows: int = 250
    eval_rows: int | None = 500
    steps: int | None = None
    max_length: int = 64
    source_length: int = 64
    seeds: int = 3
    sources: tuple[str, ...] = SOURCES
    targets: tuple[str, ...] = TARGETS
    as_they_are: bool = False

    def setup(self, *, target: bool, within: str = "") -> Setup:
        """Returns the settings of the sources' own training, or of the targets'.

        Args:
            target: of the targets'.
            within: folder of the workspace that is a workspace of its own; the sources' zoo is not there.
        """
        base = Workspace()
        workspace = Workspace(home=self.home, mirror=self.mirror or base.mirror, offline=True)
        setup = make_setup(
            self.backbone, workspace=workspace, recipe=Recipe(steps=self.steps if target else None),
            encoding=Encoding(self.max_length if target else self.source_length),
            catalogue=load_catalogue(self.task_file), eval_rows=self.eval_rows,
        )  # fmt: skip
        return replace(setup, workspace=replace(workspace, home=self.home / within))


def train_source(settings: Settings, task: str, carried: Path | None = None) -> dict[str, Any]:
    """Trains one source's adapter, or finds it, and returns what it is.

    Args:
        settings: of all sources.
        task: the source.
        carried: folder of adapters, by their keys, that goes from machine to machine: the adapter is taken from there,
            or put there.
    """
    setup = settings.setup(target=False)
    found = Zoo(setup.workspace).find(task=task, method="lora", backbone_hash=setup.backbone.hash)
    if settings.as_they_are and len(found) == 1:
        entry = found[0]
    elif settings.as_they_are and found:
        raise SystemExit(f"{settings.home} has {len(found)} adapters of {task}; with --as-they-are there must be one")
    else:
        entry = _carried(setup, task, settings.source_rows, carried)
    manifest = entry.manifest()
    return {
        "task": task, "kind": str(manifest.task.kind), "rows": entry.train_rows, "metric": entry.metric,
        "score": manifest.metrics[entry.metric].value, "seconds": manifest.cost.seconds, "key": entry.key,
    }  # fmt: skip


def _carried(setup: Setup, task: str, rows: int, carried: Path | None) -> Entry:
    if carried is None:
        return ensure_adapter(setup, task, rows, 0)
    zoo, key = Zoo(setup.workspace), adapter_key(setup, task, rows, 0)
    if (place := carried / f"{task}-{key}").exists() and held_adapter(zoo, key) is None:
        zoo.adopt(place)
    entry = ensure_adapter(setup, task, rows, 0)
    if not place.exists():
        with publish_folder(place) as folder:
            shutil.copytree(entry.path, folder, dirs_exist_ok=True)
    return entry


def unpack(settings: Settings, trainings: Path) -> None:
    """Puts trainings that :func:`pack` wrote, here or on another machine, where :func:`measure` looks for them."""
    folder = settings.setup(target=True).workspace.folder("truth")
    for key, run in (read_json(trainings) or {}).items():
        if not (path := folder / f"{key}.json").exists():
            write_json(path, run)


def pack(settings: Settings, trainings: Path) -> None:
    """Writes all trainings of the workspace into one file, key -> what it came to."""
    folder = settings.setup(target=True).workspace.folder("truth")
    runs = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    write_json(trainings, {key: run for key, run in runs.items() if run is not None and "steps" in run})


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
        """Reads the rows and looks for sources among those of the settings.

        Raises:
            SystemExit: the workspace has adapters of other tasks too, or others of these tasks, which a planner would
                choose from.
        """
        setup = settings.setup(target=True)
        data = setup.data(name, settings.target_rows)
        candidates = find_sources(setup, data, None)
        if strangers := {entry.task for entry in candidates.entries} - set(settings.sources):
            raise SystemExit(f"{settings.home} has adapters that are no sources: {', '.join(sorted(strangers))}")
        entries = {entry.task: entry for entry in candidates.entries}
        if not settings.as_they_are:
            own = settings.setup(target=False)
            wanted = {task: adapter_key(own, task, settings.source_rows, 0) for task in entries}
            if others := sorted(task for task, entry in entries.items() if entry.key != wanted[task]):
                raise SystemExit(
                    f"{settings.home} has other adapters than these settings train, of {', '.join(others)}: "
                    "take another --home, or --as-they-are"
                )
        return cls(settings, setup, data, entries, [list(one) for one in candidates.excluded])

    @property
    def name(self) -> str:
        """The task."""
        return self.data.spec.name

    def path(self, part: str, **facts: object) -> Path:
        """Returns where a part of what is known of the target is kept, by all that it depends on."""
        key = self.setup.key("truth", part=part, truth_version=VERSION, data=self.data.identity, **facts)
        return self.setup.workspace.folder("truth", f"{key}.json")


def measure(target: Target, wanted: Sequence[Start]) -> list[dict[str, Any]]:
    """Trains from each set of sources with its seed, or reads what was trained before; one row per training."""

    def kept(one: Start) -> Path:
        sources, seed = one
        return target.path("run", sources=[target.entries[name].key for name in sorted(sources)], seed=seed)

    done = {one: run for one in wanted if (run := read_json(kept(one))) is not None}
    missing = [one for one in wanted if one not in done]
    starts, metric = _Starts(target), target.data.spec.main_metric
    members = [Member(seed, starts.of(sources)) for sources, seed in missing]
    for one, (values, cost, steps) in zip(missing, _trainings(target, members), strict=True):
        done[one] = {"score": values[metric], "seconds": cost.seconds, "cpu_seconds": cost.cpu_seconds, "steps": steps,
                     "machine": machine(), "dtype": str(default_dtype())}  # fmt: skip
        write_json(kept(one), done[one])
    return [
        {"target": target.name, "sources": "+".join(sorted(one[0])), "n_sources": len(one[0]), "seed": one[1],
         "metric": metric, "machine": None, "dtype": None, **done[one], "target_rows": len(target.data.train.rows),
         "eval_rows": len(target.data.validation.rows), "method": "merge"}
        for one in wanted
    ]  # fmt: skip


def machine() -> str:
    """Returns what trainings run on: the GPU, or what the processor can do."""
    facts = environment()["machine"]
    return facts["instructions"] if facts["device"] == "cpu" else facts["device"]


def _trainings(target: Target, members: Sequence[Member]) -> Iterator[tuple[dict[str, float], Cost, int]]:
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
        cost.add(trained.log.earlier)
        yield scored(out), cost, trained.log.steps


class _Starts:
    """LoRA weights to begin from, by set of sources; each merge is made once."""

    def __init__(self, target: Target):
        self.target = target
        self.made: dict[tuple[str, ...], LoraWeights | None] = {(): None}

    def of(self, sources: tuple[str, ...]) -> LoraWeights | None:
        """Returns the start; None without sources."""
        setup, entries = self.target.setup, self.target.entries
        if (names := tuple(sorted(sources))) not in self.made:
            bundles = [entries[name].load(backbone_hash=setup.backbone.hash) for name in names]
            self.made[names] = start_from(setup, bundles)
        return self.made[names]


def options_of(description: str | None, results: str) -> argparse.ArgumentParser:
    """Returns the parser of all benchmarks on these transfers."""
    parser = shared_parser(description, results, "--backbone", "--threads", "--mirror", "--home", "--task-file")
    parser.add_argument("--targets", type=names, help="names of tasks, with commas; the benchmark's own without it")
    parser.add_argument("--sources", type=names, help="the same")
    for name in ("seeds", "target_rows", "steps", "max_length", "eval_rows", "source_rows"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Settings, name))
    parser.add_argument("--as-they-are", action="store_true", help="take adapters of the zoo however they were trained")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once; they share one device")
    return parser


def settings_of(options: argparse.Namespace) -> Settings:
    """Returns what the options say."""
    chosen = {name: getattr(options, name) for name in Settings.__dataclass_fields__ if hasattr(options, name)}
    if options.smoke:
        chosen |= {"source_rows": 48, "target_rows": 48, "steps": 4, "max_length": 48, "eval_rows": 60, "seeds": 2}
        chosen["sources"] = chosen["sources"] or ("snli", "stsb", "conll2000")
        chosen["targets"] = chosen["targets"] or ("rte", "qed")
    chosen = {name: value for name, value in chosen.items() if value is not None or name == "eval_rows"}
    chosen |= {"home": options.home or Workspace().home}
    return Settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()})
