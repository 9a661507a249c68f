"""Normalised rows, kept in the workspace: a task's source is read and checked once, not by every command.

A product's name holds a hash of all that its rows depend on: the declaration, the content of the source's files, and
the code that reads them. The rows stand as JSON, since their fingerprint is taken over JSON: what comes back has the
same types and the same fingerprint, lone surrogates included (arrow refuses those).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from adaptmtl.errors import StorageError
from adaptmtl.registry import is_ours
from adaptmtl.storage import key_of, sha256_file, write_atomic
from adaptmtl.tasks.rows import Split, TaskRows
from adaptmtl.tasks.sources.mirror import mirror_folder
from adaptmtl.tasks.sources.readers import readers
from adaptmtl.tasks.spec import ArchiveRows, FileRows, HubRows, TaskSpec
from adaptmtl.workspace import Workspace

#: Products kept of one task; older ones, such as those of an edited file, are removed.
MOST_KEPT = 2


def kept_rows(
    spec: TaskSpec, declared: HubRows | ArchiveRows | FileRows, source: str, workspace: Workspace,
    read: Callable[[], TaskRows],
) -> TaskRows:  # fmt: skip
    """Returns the rows that the workspace holds, or reads and keeps them; a damaged product is made again.

    Args:
        spec: the task.
        declared: which of its row sources is read.
        source: "file", "mirror", "archive" or "hub".
        workspace: products lie in ``home/rows/<task>/``.
        read: reads and normalises the rows.
    """
    key = rows_key(spec, declared, source, workspace)
    if key is None:
        return read()
    path = workspace.folder("rows", spec.name, f"{key}.json")
    if (held := _held(path, spec)) is not None:
        return held
    rows = read()
    if rows_key(spec, declared, source, workspace) == key:  # a file that changed meanwhile may not be what was read
        try:
            write_atomic(path, _to_bytes(rows))
            _remove_old(path.parent)
        except StorageError as error:
            workspace.reporter.say(f"{spec.name}: its rows are read again next time ({error})")
    return rows


def rows_key(
    spec: TaskSpec, declared: HubRows | ArchiveRows | FileRows, source: str, workspace: Workspace
) -> str | None:
    """Returns the key of a task's rows, or None where their content is not known before they are read.

    That is so for a data set on the Hub, whose revision may move, for an archive reader or a kind of a third party,
    whose code is not known, and where a file is missing (which reading tells better).
    """
    if not is_ours(spec.kind):
        return None
    if isinstance(declared, ArchiveRows):  # its content is declared
        content: Any = declared.sha256 if is_ours(readers[declared.reader]) else None
    elif isinstance(declared, FileRows):
        content = _content(Path(name).expanduser() for name in (declared.train, declared.validation) if name)
    elif source == "mirror" and workspace.mirror is not None:
        folder = mirror_folder(declared, workspace.mirror)
        content = _content(folder / f"{split}.parquet" for split in declared.splits.values())
    else:
        content = None
    if content is None or (code := _code()) is None:
        return None
    return key_of(step="rows", task=spec.model_dump_json(), declared=declared.model_dump_json(), source=source,
                  content=content, code=code)  # fmt: skip


def _content(paths: Any) -> list[str] | None:
    try:
        return [sha256_file(path) for path in paths]
    except OSError:
        return None


@lru_cache(maxsize=1)
def _code() -> str | None:
    """Hash of this package's sources, so that no change of a reader can be forgotten; None where they are not there."""
    here = Path(__file__).parent
    parts = {path.relative_to(here): sha256_file(path) for path in sorted(here.rglob("*.py"))}
    return key_of(files=sorted(parts.items())) if parts else None


def _to_bytes(rows: TaskRows) -> bytes:
    """Writes rows under a line with the sha256 of what follows."""
    facts = {"origin": rows.origin, "notes": rows.notes, "label_names": rows.spec.label_names,
             "train": rows.train.rows, "validation": rows.validation.rows}  # fmt: skip
    body = json.dumps(facts, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _held(path: Path, spec: TaskSpec) -> TaskRows | None:
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    facts = json.loads(body.decode("utf-8", "surrogatepass"))
    names = None if facts["label_names"] is None else tuple(facts["label_names"])
    if names != spec.label_names:  # they were read off the rows
        spec = spec.model_copy(update={"label_names": names})
    train, validation = (Split(tuple(facts[part])) for part in ("train", "validation"))
    return TaskRows(spec, train, validation, facts["origin"], tuple(facts["notes"]))


def _remove_old(folder: Path) -> None:
    with suppress(OSError):  # another process may be removing too, or it is another person's
        for path in sorted(folder.glob("*.json"), key=lambda one: one.stat().st_mtime_ns)[:-MOST_KEPT]:
            path.unlink()
