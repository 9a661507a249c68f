"""A list of the zoo's adapters that is quick to read: an sqlite cache of their manifests, never the truth itself.

Each listing compares the folders' names and time stamps with the index and reads only what is new. An index that is
missing, corrupt or of another version is made again; one that cannot be written is done without.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adaptmtl.adapters.bundle import Bundle, check_files, read_bundle, read_manifest
from adaptmtl.adapters.manifest import MANIFEST, Manifest
from adaptmtl.errors import AdapterError

VERSION = 1
_BUSY_SECONDS = 30.0
_TABLE = "CREATE TABLE entries (folder TEXT PRIMARY KEY, stamp TEXT, record TEXT, digest TEXT) WITHOUT ROWID"


@dataclass(frozen=True)
class Entry:
    """One adapter of the zoo, as listed.

    Attributes:
        metric: the task's main metric.
        metrics: per metric a dict of value, n, low, high.
        created: time of making, ISO 8601, UTC; empty where it is not known.
        path: the adapter's folder.
        problem: why a damaged folder cannot be used (all other fields but key and path are then empty), or None.
    """

    key: str
    name: str
    task: str
    kind: str
    method: str
    seed: int
    backbone: str
    backbone_hash: str
    metric: str
    metrics: dict[str, dict[str, Any]]
    train_rows: int
    created: str
    path: Path
    problem: str | None = None

    def load(self, *, backbone_hash: str | None = None) -> Bundle:
        """Reads and verifies the adapter; see :func:`adaptmtl.adapters.bundle.read_bundle`."""
        return read_bundle(self.path, backbone_hash=backbone_hash)

    def manifest(self) -> Manifest:
        """Reads the adapter's manifest."""
        return read_manifest(self.path)


def read_entry(folder: Path) -> Entry:
    """Lists one adapter's folder from its manifest; weights are checked when they are loaded, not here."""
    try:
        manifest = read_manifest(folder)
        check_files(manifest, str(folder / MANIFEST))
        if manifest.key != folder.name:
            raise AdapterError(f"{folder} holds the adapter {manifest.key}: rename the folder to its key")
        if missing := [name for name in manifest.files if not (folder / name).is_file()]:
            raise AdapterError(f"{folder / missing[0]} is missing: make or pull the adapter again")
    except AdapterError as error:
        return Entry(folder.name, "", "", "", "", 0, "", "", "", {}, 0, "", folder, str(error))
    return Entry(
        key=manifest.key,
        name=manifest.name,
        task=manifest.task.name,
        kind=str(manifest.task.kind),
        method=manifest.method,
        seed=manifest.seed,
        backbone=manifest.backbone.name,
        backbone_hash=manifest.backbone.hash,
        metric=manifest.task.metric,
        metrics={name: figure.model_dump() for name, figure in manifest.metrics.items()},
        train_rows=manifest.data.train_rows,
        created=str(manifest.provenance.get("created", "")),
        path=folder,
    )


class Index:
    """Cached entries of the folders below ``adapters``.

    Args:
        path: the sqlite file.
        adapters: folder of the adapters' folders.
    """

    def __init__(self, path: Path, adapters: Path):
        self.path = path
        self.adapters = adapters

    def entries(self) -> dict[str, Entry]:
        """Returns all entries by folder name, sorted by adapter name, damaged ones last."""
        stamps = _stamps(self.adapters)
        if not stamps and not self.path.exists():
            return {}
        known = self._read()
        found, fresh = {}, {}
        for folder, stamp in stamps.items():
            if known is not None and folder in known and known[folder][0] == stamp:
                found[folder] = replace(known[folder][1], path=self.adapters / folder)
            else:
                found[folder] = fresh[folder] = read_entry(self.adapters / folder)
        gone = set(known or {}) - set(stamps)
        if fresh or gone or known is None:
            self._write({name: (stamps[name], entry) for name, entry in fresh.items()}, gone, anew=known is None)
        return dict(sorted(found.items(), key=lambda item: (item[1].problem is not None, item[1].name, item[0])))

    def _read(self) -> dict[str, tuple[str, Entry]] | None:
        """Returns stamp and entry by folder; None where there is no index, or not a sound one."""
        if not self.path.exists():
            return None
        try:
            with self._lock(fcntl.LOCK_SH), self._connect() as connection:
                if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                    return None
                rows = connection.execute("SELECT folder, stamp, record, digest FROM entries").fetchall()
            return {row[0]: (row[1], _entry(*row)) for row in rows}
        except (sqlite3.Error, OSError, ValueError, TypeError, OverflowError):  # corrupt or unreadable: made again
            return None

    def _write(self, fresh: dict[str, tuple[str, Entry]], gone: Iterable[str], anew: bool) -> None:
        """Brings the index up to date; where that cannot be done now, the next listing tries again."""
        rows = [(name, stamp, *_record(name, stamp, entry)) for name, (stamp, entry) in fresh.items()]
        try:
            with self._lock(fcntl.LOCK_EX if anew else fcntl.LOCK_SH):
                if anew:
                    self._create(rows)
                    return
                with self._connect() as connection:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.executemany("DELETE FROM entries WHERE folder = ?", [(name,) for name in gone])
                    connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", rows)
                    connection.execute("COMMIT")
        except (sqlite3.Error, OSError):  # a read-only zoo, a full disk: folders are the truth, the index only a cache
            return

    def _create(self, rows: list[tuple[str, str, str, str]]) -> None:
        """Makes the index under another name and renames it; the exclusive lock keeps every other process out."""
        handle, name = tempfile.mkstemp(prefix=".partial-index-", dir=self.path.parent)
        os.close(handle)
        try:
            with closing(sqlite3.connect(name, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("BEGIN")
                connection.execute(_TABLE)
                connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", rows)
                connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.execute("COMMIT")
            for ending in ("-wal", "-shm"):
                self.path.with_name(self.path.name + ending).unlink(missing_ok=True)
            Path(name).replace(self.path)
        finally:
            for ending in ("", "-wal", "-shm"):
                Path(name + ending).unlink(missing_ok=True)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        uri = f"{self.path.resolve().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
            yield connection

    @contextmanager
    def _lock(self, how: int) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(".lock").open("ab") as file:
            fcntl.flock(file, how)
            yield


def _stamps(adapters: Path) -> dict[str, str]:
    """Returns what changes when an adapter's manifest or the list of its files does, by folder name."""
    stamps = {}
    try:
        folders = list(os.scandir(adapters))
    except FileNotFoundError:
        return {}
    for one in folders:
        if one.name.startswith(".") or not one.is_dir():
            continue
        try:
            stamp = str(one.stat().st_mtime_ns)
        except FileNotFoundError:  # removed by another process meanwhile
            continue
        try:
            manifest = Path(one.path, MANIFEST).stat()
            stamp += f":{manifest.st_mtime_ns}:{manifest.st_size}:{manifest.st_ino}"
        except FileNotFoundError:
            pass
        stamps[one.name] = stamp
    return stamps


def _record(folder: str, stamp: str, entry: Entry) -> tuple[str, str]:
    record = json.dumps({key: value for key, value in asdict(entry).items() if key != "path"})
    return record, _digest(folder, stamp, record)


def _entry(folder: str, stamp: str, record: str, digest: str) -> Entry:
    if digest != _digest(folder, stamp, record):
        raise ValueError(f"index row of {folder} is corrupt")
    return Entry(**json.loads(record), path=Path())


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
