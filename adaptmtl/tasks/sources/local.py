"""Rows from a person's own files: csv, tsv, jsonl, json, parquet."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

from adaptmtl.errors import DataError, suggest
from adaptmtl.tasks.rows import Row
from adaptmtl.tasks.sources.mirror import read_parquet
from adaptmtl.tasks.sources.raw import RawRows
from adaptmtl.tasks.spec import FileRows


def read_local(source: FileRows) -> RawRows:
    """Reads training rows, and validation rows where a file is named for them.

    Raises:
        DataError: a file is missing, empty, not UTF-8 or not what its ending says.
    """
    train = read_file(Path(source.train))
    validation = read_file(Path(source.validation)) if source.validation else None
    origin = f"file {source.train}" + (f" and {source.validation}" if source.validation else "")
    return RawRows(train, validation, origin)


def read_file(path: Path) -> list[Row]:
    """Reads all rows of one file; its ending says how.

    Raises:
        DataError: the file is missing, empty, not UTF-8 or not what its ending says.
    """
    path = path.expanduser()
    if not path.is_file():
        near = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"no file {path}{suggest(path.name, near)}; give the path of the rows")
    if path.suffix.lower() == ".parquet":
        rows = read_parquet(path)[0]
    elif reader := _READERS.get(path.suffix.lower()):
        rows = reader(_text(path), path)
    else:
        raise DataError(f"{path}: unknown ending {path.suffix!r}; known: {', '.join(sorted({*_READERS, '.parquet'}))}")
    if not rows:
        raise DataError(f"{path} holds no rows; give at least 2")
    return rows


def _text(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        offset = error.start - (raw.rfind(b"\n", 0, error.start) + 1)
        raise DataError(
            f"{path} line {line}: byte {offset + 1} (0x{raw[error.start]:02x}) is not UTF-8; save the file as UTF-8"
        ) from error


def _csv(text: str, path: Path) -> list[Row]:
    return _table(text, path, ",")


def _tsv(text: str, path: Path) -> list[Row]:
    return _table(text, path, "\t")


def _table(text: str, path: Path, delimiter: str) -> list[Row]:
    rows: list[Row] = []
    limit = csv.field_size_limit(sys.maxsize)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        if repeated := [name for name in header if header.count(name) > 1]:
            raise DataError(f"{path} line 1: column {repeated[0]!r} stands there twice; give each its own name")
        for fields in lines:
            if not fields:
                continue
            if len(fields) != len(header):
                raise DataError(
                    f"{path} line {lines.line_num}: {len(fields)} fields where the header has {len(header)}; "
                    f"put texts that hold {'tabs' if delimiter == chr(9) else 'commas'} in double quotes"
                )
            rows.append(dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path} line {lines.line_num}: {error}; check the quotes there") from error
    finally:
        csv.field_size_limit(limit)
    return rows


def _jsonl(text: str, path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            rows.append(_object(_parse(line, path, number), f"{path} line {number}"))
    return rows


def _json(text: str, path: Path) -> list[Row]:
    if not text.strip():
        return []
    value = _parse(text, path, 1)
    if not isinstance(value, list):
        raise DataError(f"{path}: holds {type(value).__name__}, not a list of rows; use [{{...}}, {{...}}] or .jsonl")
    return [_object(row, f"{path} row {number}") for number, row in enumerate(value, 1)]


def _parse(text: str, path: Path, line: int) -> object:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError):
            where, why = f"line {line + error.lineno - 1} column {error.colno}", error.msg
        else:
            where, why = f"line {line}", "nested too deeply"
        raise DataError(f"{path} {where}: not JSON ({why}); mend that line") from error


def _object(value: object, place: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{place}: saw {type(value).__name__}; a row is an object of column names and values")
    return value


_READERS: dict[str, Callable[[str, Path], list[Row]]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
    ".json": _json,
}
