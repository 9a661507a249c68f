"""Keys of products, and writes that either happen whole or not at all.

Every product's key is a hash of all it depends on. A product is written under a temporary name in the same folder
and renamed, so that a killed or failed write never leaves something that looks valid.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from adaptmtl.errors import FullDiskError, StorageError

KEY_LENGTH = 20
#: How the names of unfinished files and folders begin.
PARTIAL = ".partial-"
_PARTIAL_SECONDS = 24 * 3600.0
_UMASK = os.umask(0o022)  # can only be read by setting it: once, while nothing else runs
os.umask(_UMASK)


def key_of(**parts: Any) -> str:
    """Hashes named parts (anything JSON can hold, plus paths and dataclasses turned to dicts) into a short hex key."""
    text = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:KEY_LENGTH]


def sha256_file(path: Path, block: int = 1 << 20) -> str:
    """Returns the sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(block):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def publish_folder(final: Path) -> Iterator[Path]:
    """Gives an empty temporary folder that becomes ``final`` when the block ends without an error.

    If ``final`` exists by then (another process was faster), the existing one stays: equal keys mean equal content.

    Raises:
        StorageError: the disk is full or the folder is not writable; nothing is left at ``final``.
    """
    with _writing(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final.parent)
        temporary = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=final.parent))
    try:
        with _writing(final):
            yield temporary
            _sync_tree(temporary)
            temporary.chmod(0o777 & ~_UMASK)
            try:
                temporary.replace(final)
            except OSError as error:  # another process was faster: equal keys mean equal content
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not final.is_dir():
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Lets one process at a time make a product, while others that want it wait; a killed one holds nobody up.

    Raises:
        StorageError: the folder is not writable.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_atomic(path: Path, data: bytes | str) -> None:
    """Writes a file whole or not at all.

    Raises:
        StorageError: the disk is full or the folder is not writable; an older file at ``path`` stays as it was.
    """
    raw = data.encode() if isinstance(data, str) else data
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        handle, name = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            with suppress(PermissionError):  # some file systems have no modes
                Path(name).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_UMASK)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all, keys sorted, readable by a person."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any | None:
    """Returns the JSON at ``path``, or None where there is none or it cannot be parsed (then it is made again)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FullDiskError(f"disk full while writing {path}: free some space and run the command again") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise StorageError(
                f"cannot write {path} ({error.strerror}): set ADAPTMTL_HOME to a writable folder"
            ) from error
        raise


def _sweep(folder: Path) -> None:
    """Removes what runs that were killed more than a day ago left unfinished."""
    for path in folder.glob(f"{PARTIAL}*"):
        with suppress(OSError):  # another process may be sweeping too, or it is another person's
            if time.time() - path.stat().st_mtime > _PARTIAL_SECONDS:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
