"""Every estimator's score of every source for one target; what was computed before is read from the workspace."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptmtl.errors import SelectionError
from adaptmtl.storage import read_json, write_json
from adaptmtl.tasks.sample import subsample
from adaptmtl.training.data import PreparedSplit, TaskData
from adaptmtl.training.setup import Setup
from adaptmtl.transfer.contract import Features, Score, SourceEvidence, TargetEvidence, estimators
from adaptmtl.transfer.evidence import delta_of, target_features
from adaptmtl.transfer.probe import make_folds, probe_rows
from adaptmtl.zoo.build import text_embedding
from adaptmtl.zoo.index import Entry
from adaptmtl.zoo.store import Zoo

VERSION = 1
#: Training rows of the target that estimators read.
ESTIMATE_ROWS = 500
DEFAULT_ESTIMATORS = ("probe", "logme", "hscore", "tupate", "text_embedding", "size")


@dataclass(frozen=True)
class SourceEstimate:
    """What the estimators say of one source.

    Attributes:
        entry: the source's adapter.
        scores: by estimator; one that could not run is absent.
        skipped: estimator -> why it could not run.
        row_scores: (rows,) out-of-fold score of each target row with a probe on this source's features.
        estimator_seconds: by estimator; reading features counts as "features".
    """

    entry: Entry
    scores: dict[str, Score]
    skipped: dict[str, str]
    row_scores: np.ndarray
    estimator_seconds: dict[str, float]

    @property
    def seconds(self) -> float:
        """Wall seconds that this source took when it was first estimated."""
        return sum(self.estimator_seconds.values())


@dataclass(frozen=True)
class Estimates:
    """All sources of one target.

    Attributes:
        rows: training rows of the target that were read.
        sources: one per source, in the order given.
        baseline: (rows,) out-of-fold scores with the plain backbone.
    """

    rows: int
    sources: tuple[SourceEstimate, ...]
    baseline: np.ndarray


def estimate(
    setup: Setup, target: TaskData, entries: Sequence[Entry], seed: int = 0, names: Sequence[str] = DEFAULT_ESTIMATORS
) -> Estimates:
    """Scores every source with every estimator, from training rows of the target alone.

    Args:
        setup: backbone and recipe.
        target: only its training rows are read, at most 500 of them.
        entries: the sources' adapters.
        seed: of the probe's folds.
        names: estimators.

    Raises:
        UnknownNameError: an estimator that does not exist.
        DataError: too few target rows, or one class only.
    """
    for name in names:
        estimators[name]
    split = _sample(target)
    state = _Target(setup, target, split, seed)
    plain = _cached(setup, state.key(None, ()), lambda: _probe(state.evidence.baseline, state))
    found = []
    for entry in setup.workspace.reporter.track(entries, f"estimating sources for {target.spec.name}", len(entries)):
        found.append(_one(setup, state, entry, tuple(names)))
    return Estimates(len(split.rows), tuple(found), np.asarray(plain["rows"]))


class _Target:
    """The target's side of the evidence, made when the first source asks for it."""

    def __init__(self, setup: Setup, data: TaskData, split: PreparedSplit, seed: int):
        self.setup, self.data, self.split, self.seed = setup, data, split, seed
        self._evidence: TargetEvidence | None = None
        trained = Zoo(setup.workspace).find(task=data.spec.name, method="lora", backbone_hash=setup.backbone.hash)
        own = [one for one in trained if one.manifest().data.train_fingerprint == data.fingerprint["train"]]
        self.own = min(own, key=lambda entry: (entry.seed, entry.key)) if own else None

    @property
    def evidence(self) -> TargetEvidence:
        if self._evidence is None:
            self._evidence = TargetEvidence(
                name=self.data.spec.name,
                baseline=target_features(self.setup, self.split, None),
                text_embedding=text_embedding(self.setup, self.data).numpy(),
                delta=delta_of(self.own.load()) if self.own else None,
            )
        return self._evidence

    def key(self, source: str | None, parts: tuple[str, ...]) -> str:
        return self.setup.key(
            "estimate", estimate_version=VERSION, rows=self.split.rows.fingerprint, kind=str(self.split.spec.kind),
            seed=self.seed, source=source, parts=parts,
        )  # fmt: skip


def _one(setup: Setup, target: _Target, entry: Entry, names: tuple[str, ...]) -> SourceEstimate:
    """Scores one source; what needs the target's own adapter is kept apart, since that may be trained later."""
    by_weights = tuple(name for name in names if "delta" in estimators[name].needs)
    by_rows = tuple(name for name in names if name not in by_weights)
    held = _cached(setup, target.key(entry.key, by_rows), lambda: _score(setup, target, entry, by_rows, features=True))
    if target.own is None:
        why = f"{target.data.spec.name!r} has no adapter of its own on these rows: adaptmtl train-adapters"
        held["skipped"].update(dict.fromkeys(by_weights, why))
    elif by_weights:
        key = target.key(entry.key, (*by_weights, target.own.key))
        more = _cached(setup, key, lambda: _score(setup, target, entry, by_weights, features=False))
        for part in ("scores", "skipped", "seconds"):
            held[part].update(more[part])
    return SourceEstimate(
        entry=entry,
        scores={name: Score(value, error) for name, (value, error) in held["scores"].items()},
        skipped=held["skipped"],
        row_scores=np.asarray(held["rows"]),
        estimator_seconds=held["seconds"],
    )


def _score(setup: Setup, target: _Target, entry: Entry, names: Sequence[str], *, features: bool) -> dict[str, Any]:
    started = time.perf_counter()
    bundle = entry.load(backbone_hash=setup.backbone.hash)
    read = target_features(setup, target.split, bundle) if features else None
    source = SourceEvidence(
        name=entry.task,
        key=entry.key,
        train_rows=entry.train_rows,
        features=read,
        text_embedding=bundle.signature["text_embedding"].numpy() if "text_embedding" in bundle.signature else None,
        delta=delta_of(bundle),
    )
    evidence = target.evidence
    found: dict[str, Any] = {"scores": {}, "skipped": {}, "seconds": {}}
    if read is not None:
        found["seconds"]["features"] = time.perf_counter() - started
        found.update(_probe(read, target))
    for name in names:
        started = time.perf_counter()
        try:
            score = estimators[name].score(source, evidence)
            found["scores"][name] = [score.value, score.standard_error]
        except SelectionError as error:
            found["skipped"][name] = str(error)
        found["seconds"][name] = time.perf_counter() - started
    return found


def _probe(features: Features, target: _Target) -> dict[str, Any]:
    folds = make_folds(target.evidence.baseline, target.seed)
    return {"rows": probe_rows(features, target.seed, folds).explained.tolist()}


def _cached(setup: Setup, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    path = setup.workspace.folder("estimates", f"{key}.json")
    held = read_json(path)
    if held is None:
        held = compute()
        write_json(path, held)
    return held


def _sample(target: TaskData) -> PreparedSplit:
    rows = target.train.rows
    if len(rows) > ESTIMATE_ROWS:
        rows = subsample(rows, ESTIMATE_ROWS, 0, target.spec)
    return PreparedSplit(rows, target.spec, target.train.backbone, target.encoding)
