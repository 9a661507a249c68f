"""Every transfer that was really measured, kept per backbone: what estimators and the planner learn from.

An append-only sqlite table in the workspace: one measurement is one row, written in one transaction, so that a killed
run leaves whole rows or none. A measurement that repeats the latest one of the same thing is no new row.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from adaptmtl.errors import DataError, StorageError
from adaptmtl.training.setup import Setup
from adaptmtl.workspace import Workspace

VERSION = 2
#: Scores below this (a Matthews correlation near 0) are no measure of what a gain is relative to.
LEAST_BASELINE = 0.1
_BUSY_SECONDS = 30.0
_COLUMNS = (
    "backbone", "target", "sources", "seed", "score", "baseline", "metric", "rows", "method", "recipe", "seconds",
    "created", "seen",
)  # fmt: skip
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS transfers (id INTEGER PRIMARY KEY, digest TEXT UNIQUE NOT NULL, {", ".join(_COLUMNS)});
CREATE TABLE IF NOT EXISTS embeddings (backbone TEXT, target TEXT, vector BLOB, PRIMARY KEY (backbone, target));
CREATE TRIGGER IF NOT EXISTS keep_rows BEFORE DELETE ON transfers BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER IF NOT EXISTS keep_values BEFORE UPDATE ON transfers BEGIN SELECT RAISE(ABORT, 'append-only'); END;
PRAGMA user_version = {VERSION};
"""


#: What two measurements of one thing share (:attr:`Transfer.identity`).
_IDENTITY = ("backbone", "target", "sources", "seed", "metric", "rows", "method", "recipe")
_LATEST = (
    "SELECT id, score, baseline, seen FROM transfers "
    f"WHERE {' AND '.join(f'{name} = ?' for name in _IDENTITY)} ORDER BY id DESC LIMIT 1"
)


@dataclass(frozen=True)
class Transfer:
    """One measured transfer.

    Attributes:
        backbone: hash of the backbone.
        target: task that was trained.
        sources: names of the tasks that it started from, sorted.
        seed: of the training on the target.
        score: on the target's main metric, with the sources.
        baseline: the same without them, same rows, steps and seed.
        metric: name of that metric.
        rows: training rows of the target.
        method: how the sources were used ("start", "merge", ...).
        recipe: what else the training depended on, as sorted JSON.
        seconds: wall seconds of the training with the sources.
        created: ISO 8601, UTC.
        seen: what had been seen of the sources before, as JSON (see :mod:`adaptmtl.selection.gains`); "" if nothing.
    """

    backbone: str
    target: str
    sources: tuple[str, ...]
    seed: int
    score: float
    baseline: float
    metric: str = ""
    rows: int = 0
    method: str = "start"
    recipe: str = "{}"
    seconds: float = 0.0
    created: str = ""
    seen: str = ""

    @property
    def gain(self) -> float:
        """(score - baseline) / baseline, the baseline counted as at least 0.1."""
        return (self.score - self.baseline) / max(abs(self.baseline), LEAST_BASELINE)

    @property
    def identity(self) -> tuple[Any, ...]:
        """What two measurements of the same thing share."""
        return (self.backbone, self.target, self.sources, self.seed, self.metric, self.rows, self.method, self.recipe)


@dataclass(frozen=True)
class Transfers:
    """A table of measured transfers on one backbone.

    Attributes:
        rows: in the order of recording; of repeated measurements the last.
        embeddings: target -> (hidden,) mean embedding of its training texts, where it is known.
    """

    rows: tuple[Transfer, ...]
    embeddings: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.rows)

    def without(self, *targets: str) -> Transfers:
        """Returns the view that may be used for a target, or several: nothing that was measured on them."""
        kept = {name: vector for name, vector in self.embeddings.items() if name not in targets}
        return Transfers(tuple(row for row in self.rows if row.target not in targets), kept)

    @property
    def targets(self) -> tuple[str, ...]:
        """Distinct targets, sorted."""
        return tuple(sorted({row.target for row in self.rows}))

    @cached_property
    def single(self) -> dict[tuple[str, str], float]:
        """(target, source) -> mean gain over seeds, rows and recipes, of transfers from one source."""
        found: dict[tuple[str, str], list[float]] = {}
        for row in self.rows:
            if len(row.sources) == 1:
                found.setdefault((row.target, row.sources[0]), []).append(row.gain)
        return {pair: math.fsum(gains) / len(gains) for pair, gains in sorted(found.items())}

    def gains_of(self, source: str) -> dict[str, float]:
        """Returns target -> mean gain from this one source."""
        return {target: gain for (target, name), gain in self.single.items() if name == source}


class History:
    """The store; safe for several processes.

    Args:
        workspace: whose ``home`` holds ``zoo/history.sqlite``.
    """

    def __init__(self, workspace: Workspace):
        self.path = workspace.folder("zoo", "history.sqlite")

    def record(self, transfers: Sequence[Transfer], embeddings: Mapping[str, np.ndarray] | None = None) -> int:
        """Adds measurements, all or none.

        Args:
            transfers: what was measured; ``created`` is filled in where it is empty.
            embeddings: target -> mean embedding of its training texts, for the targets of these transfers.

        Returns:
            How many were new.

        Raises:
            DataError: a score that is not finite, no source, or the target among its own sources.
            StorageError: the store is damaged or cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [_checked(one, now) for one in transfers]
        backbones = {one.target: one.backbone for one in transfers}
        vectors = [
            (backbones[name], name, np.asarray(vector, np.float32).tobytes())
            for name, vector in (embeddings or {}).items()
            if name in backbones
        ]
        places = ", ".join("?" * (len(_COLUMNS) + 1))
        added = 0
        with self._open(write=True) as store:
            store.execute("BEGIN IMMEDIATE")  # what is the latest stays so until the end
            for row in rows:
                latest = store.execute(_LATEST, [row[name] for name in _IDENTITY]).fetchone()
                if latest and latest[1:3] == (row["score"], row["baseline"]) and row["seen"] in ("", latest[3]):
                    continue
                facts = [row[name] for name in _COLUMNS if name not in ("seconds", "created")]
                digest = hashlib.sha256(json.dumps([*facts, *(latest or ())[:1]]).encode()).hexdigest()
                store.execute(f"INSERT INTO transfers VALUES (NULL, {places})", (digest, *row.values()))
                added += 1
            store.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", vectors)
        return added

    def history(self, backbone_hash: str) -> Transfers:
        """Returns all that was measured on a backbone; empty where nothing was.

        Raises:
            StorageError: the store is damaged.
        """
        if not self.path.exists():
            return Transfers((), {})
        with self._open(write=False) as store:
            if not store.execute("SELECT 1 FROM sqlite_master WHERE name = 'keep_values'").fetchone():
                return Transfers((), {})
            query = f"SELECT {', '.join(_COLUMNS)} FROM transfers WHERE backbone = ? ORDER BY id"
            found = store.execute(query, (backbone_hash,)).fetchall()
            vectors = store.execute("SELECT target, vector FROM embeddings WHERE backbone = ?", (backbone_hash,))
            embeddings = {name: np.frombuffer(raw, np.float32) for name, raw in vectors.fetchall()}
        latest: dict[tuple[Any, ...], Transfer] = {}
        for values in found:
            named = dict(zip(_COLUMNS, values, strict=True))
            one = Transfer(**{**named, "sources": tuple(json.loads(named["sources"]))})
            if (older := latest.pop(one.identity, None)) and not one.seen:  # named sources are not read before
                one = replace(one, seen=older.seen)
            latest[one.identity] = one
        return Transfers(tuple(latest.values()), embeddings)

    @contextmanager
    def _open(self, *, write: bool) -> Iterator[sqlite3.Connection]:
        """Yields a connection inside one transaction."""
        try:
            if write:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(_connect(self.path, write)) as store:
                version = store.execute("PRAGMA user_version").fetchone()[0]
                if write and version == 0:
                    store.executescript(_SCHEMA)
                elif version not in (VERSION, 0):  # 0: another process is about to make the tables
                    raise StorageError(
                        f"{self.path} has version {version}, this program reads {VERSION}: move the file away"
                    )
                with store:
                    yield store
        except (sqlite3.Error, OSError) as error:
            raise StorageError(
                f"history {self.path} cannot be {'written' if write else 'read'} ({error}): "
                "make the folder writable, or move the file away to begin a new history"
            ) from error


def as_recipe(**parts: Any) -> str:
    """Returns what a measurement depends on as the sorted JSON that :class:`Transfer` holds."""
    return json.dumps(parts, sort_keys=True, default=str)


def recipe_of(setup: Setup) -> str:
    """Returns what a training with these settings depends on, as :class:`Transfer` holds it."""
    return as_recipe(**setup.recipe.to_dict(), max_length=setup.encoding.max_length)


def _connect(path: Path, write: bool) -> sqlite3.Connection:
    mode = "rwc" if write else "rw"  # a reader, too, has to roll back what a killed writer left half-way
    store = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=_BUSY_SECONDS)
    if write:
        store.execute("PRAGMA synchronous = FULL")
    return store


def _checked(one: Transfer, now: str) -> dict[str, Any]:
    """Returns a row by its columns, in their order."""
    if not (math.isfinite(one.score) and math.isfinite(one.baseline)):
        raise DataError(f"transfer to {one.target!r} has score {one.score} and baseline {one.baseline}: give numbers")
    if not one.sources or one.target in one.sources:
        raise DataError(f"transfer to {one.target!r} has the sources {list(one.sources)}: name one or more other tasks")
    sources = json.dumps(sorted(one.sources))
    values = (
        one.backbone, one.target, sources, int(one.seed), float(one.score), float(one.baseline), one.metric,
        int(one.rows), one.method, one.recipe, float(one.seconds), one.created or now, one.seen,
    )  # fmt: skip
    return dict(zip(_COLUMNS, values, strict=True))
