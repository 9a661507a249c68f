"""Rows from a person's own files: csv, tsv, jsonl, json (rows, or the layout of SQuAD), parquet, CoNLL."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

from adaptmtl.errors import DataError, suggest
from adaptmtl.tasks.rows import Row
from adaptmtl.tasks.sources.conll import ENDINGS, read_conll
from adaptmtl.tasks.sources.mirror import read_parquet
from adaptmtl.tasks.sources.raw import RawRows
from adaptmtl.tasks.sources.squad import is_squad, read_squad
from adaptmtl.tasks.spec import FileRows

_MARKS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def read_local(source: FileRows) -> RawRows:
    """Reads training rows, and validation rows where a file is named for them.

    Raises:
        DataError: a file is missing, empty, not UTF-8 or not what its ending says.
    """
    train = read_file(Path(source.train))
    names = _class_names(Path(source.train).expanduser())
    validation = read_file(Path(source.validation)) if source.validation else None
    origin = f"file {source.train}" + (f" and {source.validation}" if source.validation else "")
    files = {"train": source.train, "validation": source.validation or source.train}
    own = _class_names(Path(source.validation).expanduser()) if source.validation else None
    return RawRows(train, validation, origin, class_names=names, validation_class_names=own, files=files)


def _class_names(path: Path) -> dict[str, tuple[str, ...]]:
    """Names of integer labels by column, which only parquet files of ``datasets`` hold."""
    return read_parquet(path, [])[1] if path.suffix.lower() == ".parquet" else {}


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
        rows = reader(read_text(path), path)
    else:
        raise DataError(f"{path}: unknown ending {path.suffix!r}; known: {', '.join(sorted({*_READERS, '.parquet'}))}")
    if not rows:
        raise DataError(f"{path} holds no rows; give at least 2")
    return rows


def read_text(path: Path) -> str:
    """Returns the whole file.

    Raises:
        DataError: it is not UTF-8; names line and byte.
    """
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        offset = error.start - (raw.rfind(b"\n", 0, error.start) + 1)
        raise DataError(
            f"{path} line {line}, byte {offset + 1}: 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error


def _csv(text: str, path: Path) -> list[Row]:
    return list(table_rows(io.StringIO(text, newline=""), path, ","))


def _tsv(text: str, path: Path) -> list[Row]:
    return list(table_rows(io.StringIO(text, newline=""), path, "\t"))


def table_rows(file: Iterable[str], path: Path, delimiter: str) -> Iterator[Row]:
    """Yields the rows of a csv or tsv file as they are read.

    Args:
        file: its lines, with their ends as they stand.
        path: for messages.
        delimiter: between fields; where it is a comma and the header holds none but semicolons, those are.

    Raises:
        DataError: the header or a row is malformed; names row, line and column.
    """
    limit = csv.field_size_limit(sys.maxsize)
    file = iter(file)
    first = next(file, "")
    if delimiter == "," and "," not in first and ";" in first:  # as spreadsheets write it where 1,5 is a number
        delimiter = ";"
    record: list[str] = []  # lines of the row that is being read
    whole = chain([first] if first else [], file)
    lines = csv.reader(_watched(whole, record), delimiter=delimiter, strict=True)
    number, header = 0, []
    try:
        header = [name.strip() for name in next(lines, [])]
        if not header and lines.line_num:
            raise DataError(f"{path} line 1, column 1: the line is empty; put the names of the columns there")
        if repeated := [name for name in header if header.count(name) > 1]:
            raise DataError(f"{path} line 1, column {repeated[0]!r}: it stands there twice; give each its own name")
        record.clear()
        for fields in lines:
            record.clear()
            if not fields:
                continue
            number += 1
            if len(fields) != len(header):
                at = min(len(fields), len(header))
                column = repr(header[at]) if at < len(header) else f"{at + 1}, after {header[-1]!r}"
                raise DataError(
                    f"{path} row {number} (line {lines.line_num}), column {column}: {len(fields)} fields where "
                    f"the header has {len(header)}; put texts that hold "
                    f"{_MARKS[delimiter]} in double quotes"
                )
            yield dict(zip(header, fields, strict=True))
    except csv.Error as error:
        at = _torn_field("".join(record), delimiter)
        column = f", column {header[at]!r}" if at < len(header) else ""
        place = f"{path} row {number + 1} (line {lines.line_num}){column}"
        raise DataError(f"{place}: {error}; check the quotes there") from error
    finally:
        csv.field_size_limit(limit)


def _watched(lines: Iterable[str], seen: list[str]) -> Iterator[str]:
    for line in lines:
        seen.append(line)
        yield line


def _torn_field(record: str, delimiter: str) -> int:
    """Returns the place of the first field whose quotes are wrong: text after them, or none at its end."""
    whole = re.compile(rf'(?:"(?:[^"]|"")*"|[^"{delimiter}][^{delimiter}]*|){delimiter}')
    field = place = 0
    while found := whole.match(record, place):
        field, place = field + 1, found.end()
    return field


def _jsonl(text: str, path: Path) -> list[Row]:
    return list(json_rows(text.split("\n"), path))


def json_rows(lines: Iterable[str], path: Path) -> Iterator[Row]:
    """Yields the rows of a file with a JSON object per line, as they are read.

    Raises:
        DataError: a line is not JSON or no object; names row and line.
    """
    row = 0
    for number, line in enumerate(lines, 1):
        if line.strip():
            row += 1
            yield _object(_parse(line.rstrip("\r\n"), path, number), f"{path} row {row} (line {number})")


def _json(text: str, path: Path) -> list[Row]:
    if not text.strip():
        return []
    value = _parse(text, path, 1)
    if is_squad(value):
        return read_squad(value, path)
    if not isinstance(value, list):
        raise DataError(
            f"{path}: holds {type(value).__name__}, not a list of rows; use [{{...}}, {{...}}], "
            ".jsonl, or the layout of SQuAD"
        )
    return [_object(row, f"{path} row {number}") for number, row in enumerate(value, 1)]


def _parse(text: str, path: Path, line: int) -> object:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError):
            where, why = f"line {line + error.lineno - 1}, column {error.colno}", error.msg
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
    **dict.fromkeys(ENDINGS, read_conll),
}
