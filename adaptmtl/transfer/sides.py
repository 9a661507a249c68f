"""The evidence that estimators ask for, made part by part when it is first needed, with what each part cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from adaptmtl.adapters.bundle import Bundle
from adaptmtl.adapters.methods import LoraWeights
from adaptmtl.errors import SelectionError
from adaptmtl.storage import read_json, write_atomic, write_json
from adaptmtl.tasks.overlap import tasks_related_to
from adaptmtl.tasks.sample import subsample
from adaptmtl.training.data import PreparedSplit, TaskData
from adaptmtl.training.gradients import RowGradients, row_gradients
from adaptmtl.training.setup import Setup
from adaptmtl.training.sizes import sizes_of
from adaptmtl.transfer.contract import EVIDENCE, Features, SourceEvidence, TargetEvidence
from adaptmtl.transfer.evidence import check_class_head, class_probabilities, delta_of, target_features
from adaptmtl.transfer.history import History, Transfers
from adaptmtl.transfer.probe import ProbeRows, make_folds, probe_rows
from adaptmtl.transfer.short_runs import hold_out, short_run
from adaptmtl.transfer.traits import Traits, traits_of
from adaptmtl.zoo.build import text_embedding
from adaptmtl.zoo.index import Entry
from adaptmtl.zoo.store import Zoo

VERSION = 6
#: Tokens of the target that are read through each source, unless the caller says otherwise: 5.5 seconds of one core
#: without AVX-512 (MiniLM-L6 in fp32).
TOKEN_BUDGET = 30_000
LEAST_ROWS = 128


class TargetSide:
    """The target's side of the evidence, each part made when it is first asked for.

    Args:
        setup: backbone, recipe, workspace.
        data: the target; only its training rows are read.
        entries: all sources, since one backward pass serves them all.
        seed: of folds, short runs and the random baseline.
        rows: at most so many rows are read.
        tokens: about so many tokens are read through a source, but at least 128 rows.
    """

    def __init__(
        self, setup: Setup, data: TaskData, entries: Sequence[Entry | Start], seed: int, rows: int,
        tokens: float = TOKEN_BUDGET,
    ):  # fmt: skip
        self.setup, self.data, self.seed = setup, data, seed
        self.entries = tuple(one for one in entries if isinstance(one, Entry))
        self.split = _sample(data, rows, tokens)
        trained = Zoo(setup.workspace).find(task=data.spec.name, method="lora", backbone_hash=setup.backbone.hash)
        own = [one for one in trained if one.manifest().data.train_fingerprint == data.fingerprint["train"]]
        self.own = min(own, key=lambda entry: (entry.seed, entry.key)) if own else None

        self.seconds: dict[str, float] = {}
        self._made: dict[str, Any] = {}

    @property
    def baseline(self) -> Features:
        """The rows through the plain backbone."""
        return self._once("baseline", lambda: target_features(self.setup, self.split, None))

    @property
    def folds(self) -> np.ndarray:
        """The folds of the rows, which all sources share."""
        return self._once("folds", self._folds)

    def _folds(self) -> np.ndarray:
        """Deals them, or reads those that were dealt before.

        They go by the baseline's bytes; on another device or with other threads a last bit may differ, and sources that
        are read later must be dealt as the first ones were.
        """
        path = self.path(None)
        held = read_json(path) or {}
        if "folds" not in held:
            held["folds"] = make_folds(self.baseline, self.seed).tolist()
            write_json(path, held)
        return np.array(held["folds"])

    @property
    def gradients(self) -> RowGradients:
        """Of the target's rows, with slopes along all sources' updates: one backward pass serves them all."""
        return self._once("gradients", self._gradients)

    def _gradients(self) -> RowGradients:
        """Computes them, or reads those that were computed for the same rows and sources."""
        key = self.setup.key(
            "gradients", gradients_version=VERSION, rows=self.split.rows.fingerprint,
            kind=str(self.split.spec.kind), sources=[entry.key for entry in self.entries],
        )  # fmt: skip
        path = self.setup.workspace.folder("gradients", f"{key}.safetensors")
        with suppress(FileNotFoundError, SafetensorError, KeyError):  # a damaged file is made again
            held = load_file(path)
            return RowGradients(slopes=held.pop("slopes"), fisher=held)
        updates = [delta_of(entry.load(backbone_hash=self.setup.backbone.hash)) for entry in self.entries]
        found = row_gradients(self.setup, self.split, updates)
        write_atomic(path, save({**found.fisher, "slopes": found.slopes}))
        return found

    @property
    def part(self) -> TaskData:
        """The rows cut into those to train a short run on and those to score it on."""
        return self._once("held_out", lambda: hold_out(replace(self.data, train=self.split)))

    def _once(self, part: str, build: Callable[[], Any]) -> Any:
        if part not in self._made:
            started, before = time.perf_counter(), sum(self.seconds.values())
            self._made[part] = build()
            within = sum(self.seconds.values()) - before
            self.seconds[part] = time.perf_counter() - started - within
        return self._made[part]

    def evidence(self, needs: frozenset[str]) -> TargetEvidence:
        """Returns the parts that are needed.

        Raises:
            SelectionError: the target has no adapter of its own, and its weights are needed.
        """
        if "delta" in needs and self.own is None:
            raise SelectionError(
                f"{self.data.spec.name!r} has no adapter of its own on these rows: adaptmtl train-adapters"
            )
        make: dict[str, tuple[str, Callable[[], Any]]] = {
            "text": ("text_embedding", self._embedding),
            "delta": ("delta", lambda: delta_of(self.own.load()) if self.own else None),
            "fisher": ("fisher", lambda: self.gradients.fisher),
            "short_run": ("short_run", lambda: short_run(self.setup, self.part, None, self.seed)),
            "history": ("history", self._history),
        }
        fields = {name: self._once(name, build) for part, (name, build) in make.items() if part in needs}
        return TargetEvidence(name=self.data.spec.name, baseline=self.baseline, seed=self.seed, **fields)

    def _history(self) -> Transfers:
        """Past transfers on this backbone, none of them to a task that shares texts with the target."""
        past = History(self.setup.workspace).history(self.setup.backbone.hash)
        return past.without(*tasks_related_to(self.data.spec, self.setup.catalogue.tasks))

    def _embedding(self) -> np.ndarray:
        """Mean embedding of the texts; where rows are read as mean vectors anyway, the mean of those."""
        if not self.split.spec.kind.per_token:
            return self.baseline.x.mean(axis=0)
        return text_embedding(self.setup, self.data).numpy()

    def path(self, source: str | None) -> Path:
        """Returns where the scores of a source for this target are kept."""
        key = self.setup.key(
            "estimate", estimate_version=VERSION, rows=self.split.rows.fingerprint, kind=str(self.split.spec.kind),
            seed=self.seed, source=source,
        )  # fmt: skip
        return self.setup.workspace.folder("estimates", f"{key}.json")


@dataclass(frozen=True, eq=False)
class Start:
    """Weights that the target's training could begin from and that are no adapter of the zoo, such as a merge.

    Only what reads features can be asked of it.

    Attributes:
        task: names of what it was made of.
        key: of what it was made of, and how.
        train_rows: of all its sources.
        weights: makes them, in the recipe's shape, when they are needed.
    """

    task: str
    key: str
    train_rows: int
    weights: Callable[[], LoraWeights]


@dataclass
class SourceSide:
    """One source's side of the evidence, each part made when it is first asked for, with what it cost."""

    target: TargetSide
    entry: Entry | Start
    seconds: dict[str, float] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def bundle(self) -> Bundle:
        """The adapter.

        Raises:
            SelectionError: there is none.
        """
        if isinstance(self.entry, Start):
            raise SelectionError(f"{self.entry.task} merged is no adapter of the zoo; ask for its features only")
        return self.entry.load(backbone_hash=self.target.setup.backbone.hash)

    def evidence(self, needs: frozenset[str]) -> SourceEvidence:
        """Returns the parts that are needed, cheapest first, so that what cannot be scored costs little.

        Raises:
            SelectionError: a part cannot be had.
        """
        if "classes" in needs:
            check_class_head(self.bundle, self.target.split.spec.kind)
        names = {"text": "text_embedding"}
        fields = {names.get(part, part): self.part(part) for part in EVIDENCE
                  if part in needs and part not in ("size", "history")}  # fmt: skip
        return SourceEvidence(self.entry.task, self.entry.key, self.entry.train_rows, **fields)

    def part(self, part: str) -> Any:
        """Returns one part of the evidence."""
        if part not in self.made:
            started, within = time.perf_counter(), sum(self.seconds.values())
            self.made[part] = getattr(self, f"_{part}")()
            inner = sum(self.seconds.values()) - within  # parts that this one is made of are counted there
            self.seconds[part] = time.perf_counter() - started - inner
        return self.made[part]

    def _features(self) -> Features:
        source = self.entry.weights() if isinstance(self.entry, Start) else self.bundle
        return target_features(self.target.setup, self.target.split, source)

    def _text(self) -> np.ndarray | None:
        held = self.bundle.signature.get("text_embedding")
        return None if held is None else held.numpy()

    def _delta(self) -> Any:
        return delta_of(self.bundle)

    def _traits(self) -> Traits:
        bundle = self.bundle
        assert isinstance(self.entry, Entry)
        return traits_of(self.target.setup, self.entry, bundle)

    def _fisher(self) -> dict[str, np.ndarray]:
        return self.part("traits").fisher

    def _space_map(self) -> Any:
        return self.part("traits").space_map

    def _classes(self) -> np.ndarray:
        return class_probabilities(self.bundle, self.part("features"), self.target.split.spec.kind)

    def _slopes(self) -> np.ndarray:
        keys = [entry.key for entry in self.target.entries]
        return self.target.gradients.slopes[:, keys.index(self.entry.key)]

    def _short_run(self) -> np.ndarray:
        return short_run(self.target.setup, self.target.part, self.bundle, self.target.seed)

    def _probe(self) -> ProbeRows:
        return probe_rows(self.part("features"), self.target.seed, self.target.folds)


def _sample(target: TaskData, most: int, tokens: float) -> PreparedSplit:
    """Takes at most so many rows, and fewer of long texts: a prefix of one stratified order, whatever the number."""
    train = target.train
    rows = subsample(train.rows, most, 0, target.spec) if len(train.rows) > most else train.rows
    split = PreparedSplit(rows, target.spec, train.backbone, target.encoding, workspace=train.workspace)
    affordable = max(LEAST_ROWS, int(min(tokens / sizes_of(split).tokens * len(rows), most)))
    if affordable >= len(rows):
        return split
    return replace(split, rows=subsample(train.rows, affordable, 0, target.spec), _states={})
