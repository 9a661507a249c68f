"""Rows to predict, out of arguments, lines or a file; every error names the row and what is missing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptmtl.errors import AdaptMTLError, DataError
from adaptmtl.tasks.columns import MissingColumnError

if TYPE_CHECKING:
    from adaptmtl.tasks.kind import Kind

Columns = Sequence[str] | None


def rows_from_arguments(
    kind: Kind, texts: Sequence[str], pairs: Sequence[str], choices: Sequence[str], columns: Columns = None
) -> list[dict[str, Any]]:
    """Makes a row of each text.

    Args:
        kind: of the adapter's task.
        texts: first text of each row; tokens are separated by blanks.
        pairs: none, one for all rows, or one per row.
        choices: answers of every row (multiple choice).
        columns: that the adapter reads; an optional one ends with "?". Without it those of the kind.

    Raises:
        AdaptMTLError: texts, pairs and choices do not fit the kind or each other.
    """
    first, second = _two_texts(kind, columns)
    if not texts:
        raise AdaptMTLError("nothing to predict: give TEXT, or --file with rows, or - for stdin")
    if pairs and second is None:
        raise AdaptMTLError("--pair does not fit: the adapter takes no second text; leave it out")
    if pairs and len(pairs) not in (1, len(texts)):
        raise AdaptMTLError(f"{len(texts)} texts but {len(pairs)} of --pair: give one for all, or one per text")
    if bool(choices) != ("choices" in kind.inputs):
        wants = "give each answer with --choice" if not choices else "leave out --choice"
        raise AdaptMTLError(f"a {kind} task {'needs' if not choices else 'has no'} answers to choose from: {wants}")
    if second in (columns or kind.inputs) and not pairs:
        raise AdaptMTLError(f"the adapter reads a second text, the {second}: give it with --pair")
    rows = []
    for position, text in enumerate(texts):
        row: dict[str, Any] = {first: text}
        if pairs and second is not None:
            row[second] = pairs[0] if len(pairs) == 1 else pairs[position]
        if choices:
            row["choices"] = list(choices)
        rows.append(checked(row, kind, f"text {position + 1}", columns))
    return rows


def rows_from_lines(text: str, kind: Kind, columns: Columns = None) -> list[dict[str, Any]]:
    """Makes a row of each line: a JSON object, or a text (a tab before the second one).

    Raises:
        AdaptMTLError: no lines, or one that does not fit the kind.
    """
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise AdaptMTLError("stdin holds no rows: give JSON lines, or one text per line")
    return [
        checked(_line(line.rstrip("\r"), kind, f"line {number}", columns), kind, f"line {number}", columns)
        for number, line in lines
    ]


def rows_from_file(
    path: str, kind: Kind, texts: Sequence[str] | None = None, columns: Columns = None,
    own: Mapping[str, Callable[[Mapping[str, Any]], Any]] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Reads the rows of a file; ``-`` reads lines from stdin.

    Args:
        path: of the file.
        kind: of the adapter's task.
        texts: what was given besides.
        columns: that the adapter reads.
        own: how the file that it was trained on was read, column by column, for a file that is like it.

    Raises:
        AdaptMTLError: texts are given as well, or the file or a row does not fit.
    """
    if texts:
        raise AdaptMTLError("TEXT and --file exclude each other: give one of them")
    if path == "-":
        return rows_from_lines(_stdin(), kind, columns)
    from adaptmtl.tasks.sources.local import read_file

    rows = read_file(Path(path))
    wanted = [name for name in (columns or kind.inputs) if not name.endswith("?")]
    if own and any(name not in rows[0] for name in wanted):
        with suppress(MissingColumnError):
            rows = [{name: own[name](row) for name in wanted if name in own} for row in rows]
    return [checked(row, kind, f"{path} row {number}", columns) for number, row in enumerate(rows, 1)]


def _stdin() -> str:
    raw = getattr(sys.stdin, "buffer", None)
    if raw is None:
        return sys.stdin.read()
    try:
        return raw.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"stdin is not UTF-8 at byte {error.start}; convert it (iconv -t utf-8)") from error


def checked(row: Mapping[str, Any], kind: Kind, place: str, columns: Columns = None) -> dict[str, Any]:
    """Returns the columns that the adapter reads, lists made of text where a file can hold no lists.

    Raises:
        DataError: a column is missing, empty or of the wrong type.
    """
    read = columns or kind.inputs
    known = [name.removesuffix("?") for name in read]
    needed = [name for name in read if not name.endswith("?")]
    if missing := [name for name in needed if row.get(name) in (None, "", [])]:
        seen = ", ".join(map(str, row)) or "none"
        raise DataError(f"{place}: no {missing[0]}; the adapter reads {', '.join(known)}; columns seen: {seen}")
    kept: dict[str, Any] = {name: row[name] for name in known if row.get(name) is not None}
    for name, value in kept.items():
        kept[name] = _list(name, value, place) if name in kind.lists else str(value)
    return kept


def _list(name: str, value: Any, place: str) -> list[str]:
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(json.JSONDecodeError):  # a text may just happen to begin with a bracket
            value = json.loads(value)
    if isinstance(value, str) and name == "tokens":
        value = value.split()
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise DataError(f'{place}: {name} is {value!r}; give a list, in csv and tsv as JSON: ["a", "b"]')
    return [str(one) for one in value]


def _line(line: str, kind: Kind, place: str, columns: Columns) -> dict[str, Any]:
    if line.lstrip().startswith("{"):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{place}: not JSON ({error.msg} at column {error.colno}); mend that line") from error
        return row
    first, second = _two_texts(kind, columns)
    text, tab, rest = line.partition("\t")
    if tab and second is None:
        raise DataError(f"{place}: holds a tab, but the adapter takes no second text; give JSON lines")
    return {first: text, second: rest} if tab and second is not None else {first: text}


def _two_texts(kind: Kind, columns: Columns) -> tuple[str, str | None]:
    """The columns of the first and the second text; no second one where that column holds a list."""
    first, second = ([*(name.removesuffix("?") for name in columns or kind.inputs), None] * 2)[:2]
    assert first is not None
    return first, second if second not in kind.lists else None
