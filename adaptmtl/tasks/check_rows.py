"""From a data set's rows to normalised ones, with one clear error where a row cannot be used."""

from __future__ import annotations

import ast
import json
import math
import numbers
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptmtl.errors import DataError, suggest
from adaptmtl.tasks.columns import Expression, MissingColumnError, lookup
from adaptmtl.tasks.kind import Kind
from adaptmtl.tasks.rows import Row
from adaptmtl.tasks.spec import TaskSpec

#: Share of question-answering rows that may be dropped because their answer does not stand where it is said to.
MAX_MISPLACED = 0.05
_UNLABELLED = "the row is unlabelled (a hidden test set?): name a labelled split, or leave such rows out"


@dataclass(frozen=True)
class Where:
    """The place of a value, for messages.

    Attributes:
        task: the task's name.
        split: "train" or "validation".
        columns: normalised column -> expression.
        file: that the rows were read from, where they come from a file.
        by_place: whether a number may be a label's place among the names; not where the names were read off the rows.
    """

    task: str
    split: str
    columns: Mapping[str, Expression]
    file: str | None = None
    by_place: bool = True

    def error(self, number: int | None, column: str, problem: str, remedy: str) -> DataError:
        """Returns an error that names task, split, row (counted from 1), column, value and remedy."""
        row = "" if number is None else f" row {number}"
        place = f"task {self.task}, {f'{self.file}, ' if self.file else ''}{self.split}"
        source = self.columns[column].source if column in self.columns else column
        named = repr(column) if source == column else f"{column!r} (read from {source!r})"
        return DataError(f"{place}{row}, column {named}: {problem}; {remedy}")

    def value(self, row: Row, number: int, column: str) -> Any:
        """Returns a normalised column's value for a row, or raises :meth:`error` where the row has another shape."""
        try:
            return self.columns[column](row)
        except (MissingColumnError, KeyError, TypeError) as error:
            problem = f"missing or of another shape ({error})"
            raise self.error(number, column, problem, "all rows need the same columns") from error


def normalise(
    rows: Sequence[Row],
    spec: TaskSpec,
    names: tuple[str, ...] | None,
    where: Where,
    class_names: Mapping[str, tuple[str, ...]],
    first: int = 1,
) -> tuple[list[Row], list[str]]:
    """Gives rows the columns of the task's kind and checks every value.

    Args:
        rows: rows of one split, as the source gave them.
        spec: the task.
        names: label names, for classification and tagging.
        where: place of the rows, and the expressions that read them.
        class_names: names of integer labels by the data set's column, where the source knows them.
        first: number of the first row, where these are a stretch of a longer file; a single row is then enough.

    Returns:
        Normalised rows, and notes on rows that were left out.

    Raises:
        DataError: the first value that cannot be used.
    """
    if not rows:
        raise where.error(None, next(iter(where.columns)), "no rows", "give at least 2")
    check_columns(rows[0], where)
    result: list[Row] = []
    dropped, misplaced = 0, []
    label_column = spec.kind.answer
    rename = _renamer(where, label_column, names, class_names)
    for number, raw in enumerate(rows, first):
        values = {column: where.value(raw, number, column) for column in where.columns}
        if any(expression.drops(raw, values[column]) for column, expression in where.columns.items()):
            dropped += 1
            continue
        if rename and label_column in values:
            values[label_column] = rename(values[label_column])
        row = spec.kind.read(values, names, number, where)
        if row is None:
            misplaced.append(number)
        else:
            result.append(row)
    notes = [f"{where.split}: left out {dropped} rows that the task's columns say to drop"] if dropped else []
    if misplaced:
        most = len(rows) if where.columns[spec.kind.answer].unplaced else max(1, MAX_MISPLACED * len(rows))
        if len(misplaced) > most or not result:
            problem = f"{len(misplaced)} of {len(rows)} rows have no answer text at answer_start"
            raise where.error(
                misplaced[0], spec.kind.answer, problem, "check that answer_start counts characters, from 0"
            )
        notes.append(f"{where.split}: left out {len(misplaced)} rows whose answers are not in the context as stated")
    if len(result) < 2 and first == 1:
        raise where.error(len(rows), next(iter(where.columns)), f"only {len(result)} usable row", "give at least 2")
    return result, notes


def check_columns(row: Row, where: Where) -> None:
    """Checks that the first row has every column that is read.

    Raises:
        DataError: a column is missing; close names are suggested.
    """
    for column, expression in where.columns.items():
        for name in expression.needs:
            try:
                lookup(row, name)
            except MissingColumnError:
                known = [str(key) for key in row]
                problem = f"the data has no column {name!r}{suggest(name, known)}"
                raise where.error(None, column, problem, f"columns there: {', '.join(sorted(known))}") from None


def infer_label_names(rows: Sequence[Row], where: Where, kind: Kind) -> tuple[str, ...]:
    """Returns the label names that training rows hold: by value where all are whole numbers, else by name.

    Raises:
        DataError: a label is missing, or there are so many that the column cannot hold classes.
    """
    if rows:
        check_columns(rows[0], where)
    column, listed = kind.answer, kind.form in ("sets", "tags")
    counts: Counter[str] = Counter()
    for number, row in enumerate(rows, 1):
        value = where.value(row, number, column)
        several = as_list(value) if listed else None
        for label in [value] if several is None else several:
            if isinstance(label, str) and not label.strip() and kind.form == "sets":
                continue
            if _missing(label):
                raise where.error(number, column, "no label", "every row needs one: fill it in or remove the row")
            if not isinstance(label, str | numbers.Real):
                raise where.error(number, column, f"saw {shown(label)}", "a label is a name or a number")
            counts[_label_text(label)] += 1
    whole = all(is_whole(name) for name in counts)
    if len(counts) > max(20, len(rows) // 2):
        problem = f"{len(counts)} different values in {len(rows)} rows"
        raise where.error(None, column, problem, "this is no class label: choose another column, or kind: regression")
    if "-1" in counts and not _is_balance(counts):
        raise where.error(None, column, f"{counts['-1']} rows hold -1", _UNLABELLED)
    ordered = sorted(counts, key=int) if whole else sorted(counts)
    if kind.form == "tags" and "O" in counts:
        ordered = ["O", *(name for name in ordered if name != "O")]
    return tuple(ordered)


def _is_balance(counts: Counter[str]) -> bool:
    """Whether -1 is a label, as in -1, 0, 1, rather than the mark of a row without one."""
    wholes = {int(name) for name in counts if is_whole(name)}
    mirrored = len(wholes) == len(counts) and all(-number in wholes for number in wholes)
    return mirrored and counts["-1"] >= 0.05 * counts.total()


def read_text(value: Any, number: int, column: str, where: Where) -> str:
    """Returns a text, also of a number.

    Raises:
        DataError: it is empty, or no text.
    """
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        problem = "the text is empty" if _missing(value) or isinstance(value, str) else f"saw {shown(value)}"
        raise where.error(number, column, problem, "give text in every row, or remove the row")
    return value


def read_label(value: Any, names: tuple[str, ...], number: int, column: str, where: Where) -> int:
    """Returns the place of a label among ``names``; the label is one of them, or where that may be a place from 0.

    A number is no place where the names are numbers themselves.

    Raises:
        DataError: it is missing, or none of them.
    """
    if _missing(value):
        raise where.error(number, column, f"no label (saw {shown(value)})", "fill it in or remove the row")
    if not isinstance(value, str | numbers.Real):
        raise where.error(number, column, f"saw {shown(value)}", "a label is a name or a number")
    text = _label_text(value)
    if text in names:
        return names.index(text)
    truths = where.by_place or {name.lower() for name in names} == {"false", "true"}
    if isinstance(value, bool) and len(names) == 2 and truths:
        return int(value)
    if not is_whole(text) or not where.by_place or all(map(is_whole, names)):
        if text == "-1":
            raise where.error(number, column, "label -1", _UNLABELLED)
        known = f"known labels: {', '.join(names[:12])}{' ...' if len(names) > 12 else ''}"
        raise where.error(number, column, f"unknown label {shown(value)}{suggest(text, names)}", known)
    index = int(text)
    if index == -1:
        raise where.error(number, column, "label -1", _UNLABELLED)
    if not 0 <= index < len(names):
        raise where.error(number, column, f"label {index} is out of range", f"labels go from 0 to {len(names) - 1}")
    return index


def _renamer(
    where: Where, column: str, names: tuple[str, ...] | None, class_names: Mapping[str, tuple[str, ...]]
) -> Callable[[Any], Any] | None:
    """Turns the source's integer labels into names, where they are not the places of the task's names or may not be.

    Those that the source has, and maybe more, or in another order.
    """
    plain = where.columns[column].plain if column in where.columns else None
    seen = class_names.get(plain or "")
    if not names or not seen or (seen == names and not any(map(is_whole, names))):
        return None
    if not set(seen) <= set(names) and where.by_place and len(seen) != len(names):
        problem = f"the data has {len(seen)} classes ({', '.join(seen[:5])} ...), the task {len(names)}"
        raise where.error(None, column, problem, "give the task the data's label_names")
    if not set(seen) <= set(names) and where.by_place:
        return None  # the task has names of its own for the same places
    return lambda value: [_named(tag, seen) for tag in value] if isinstance(value, list) else _named(value, seen)


def _named(value: Any, names: tuple[str, ...]) -> Any:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def as_list(value: Any) -> list[Any] | None:
    """Returns a list, also one that a csv or tsv file holds as JSON or as Python prints it; None for anything else."""
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, str) and value.lstrip().startswith("[") and value.rstrip().endswith("]"):
        for read in (json.loads, ast.literal_eval):
            try:
                found = read(value.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            return found if isinstance(found, list) else None
    return None


def _label_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def is_whole(text: str) -> bool:
    """Whether a text is a whole number."""
    return text.removeprefix("-").isdecimal() and text.isascii()


def _missing(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def shown(value: Any) -> str:
    """Returns a value for a message, cut to 60 characters."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
