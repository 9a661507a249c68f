"""From a data set's rows to normalised ones, with one clear error where a row cannot be used."""

from __future__ import annotations

import ast
import json
import math
import numbers
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptmtl.errors import DataError, suggest
from adaptmtl.tasks.columns import Expression, MissingColumnError, lookup
from adaptmtl.tasks.rows import Row
from adaptmtl.tasks.spec import COLUMNS, Kind, TaskSpec

#: Share of question-answering rows that may be dropped because their answer does not stand where it is said to.
MAX_MISPLACED = 0.05
#: Column that holds the labels, where it is not "label".
LABEL_COLUMN = {Kind.TOKEN_CLASSIFICATION: "tags", Kind.MULTI_LABEL_CLASSIFICATION: "labels"}
_UNLABELLED = "the row is unlabelled (a hidden test set?): name a labelled split, or leave such rows out"


@dataclass(frozen=True)
class Where:
    """The place of a value, for messages.

    Attributes:
        task: the task's name.
        split: "train" or "validation".
        columns: normalised column -> expression.
        file: that the rows were read from, where they come from a file.
    """

    task: str
    split: str
    columns: Mapping[str, Expression]
    file: str | None = None

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
    read = _READERS[spec.kind]
    result: list[Row] = []
    dropped, misplaced = 0, []
    label_column = LABEL_COLUMN.get(spec.kind, "label")
    rename = _renamer(where, label_column, names, class_names)
    for number, raw in enumerate(rows, first):
        values = {column: where.value(raw, number, column) for column in where.columns}
        if any(e.drop and str(values[c]).strip() in e.drop for c, e in where.columns.items()):
            dropped += 1
            continue
        if rename and label_column in values:
            values[label_column] = rename(values[label_column])
        row = read(values, names, number, where)
        if row is None:
            misplaced.append(number)
        else:
            result.append(row)
    notes = [f"{where.split}: left out {dropped} rows that the task's columns say to drop"] if dropped else []
    if misplaced:
        if len(misplaced) > max(1, MAX_MISPLACED * len(rows)) or not result:
            problem = f"{len(misplaced)} of {len(rows)} rows have no answer text at answer_start"
            raise where.error(misplaced[0], "answers", problem, "check that answer_start counts characters, from 0")
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
    column, listed = LABEL_COLUMN.get(kind, "label"), kind in LABEL_COLUMN
    counts: Counter[str] = Counter()
    for number, row in enumerate(rows, 1):
        value = where.value(row, number, column)
        several = as_list(value) if listed else None
        for label in [value] if several is None else several:
            if isinstance(label, str) and not label.strip() and kind is Kind.MULTI_LABEL_CLASSIFICATION:
                continue
            if _missing(label):
                raise where.error(number, column, "no label", "every row needs one: fill it in or remove the row")
            if not isinstance(label, str | numbers.Real):
                raise where.error(number, column, f"saw {_show(label)}", "a label is a name or a number")
            counts[_label_text(label)] += 1
    whole = all(_is_whole(name) for name in counts)
    if len(counts) > max(20, len(rows) // 2):
        problem = f"{len(counts)} different values in {len(rows)} rows"
        raise where.error(None, column, problem, "this is no class label: choose another column, or kind: regression")
    if "-1" in counts:
        raise where.error(None, column, f"{counts['-1']} rows hold -1", _UNLABELLED)
    ordered = sorted(counts, key=int) if whole else sorted(counts)
    if kind is Kind.TOKEN_CLASSIFICATION and "O" in counts:
        ordered = ["O", *(name for name in ordered if name != "O")]
    return tuple(ordered)


def _classification(values: Row, names: tuple[str, ...] | None, number: int, where: Where) -> Row:
    return {**_texts(values, number, where), "label": _label(values["label"], names or (), number, "label", where)}


def _several_labels(values: Row, names: tuple[str, ...] | None, number: int, where: Where) -> Row:
    labels = as_list(values["labels"])
    if labels is None:
        problem = f"saw {_show(values['labels'])}"
        raise where.error(number, "labels", problem, "give a list of labels, or {from: ..., split: ','}")
    stated = [label for label in labels if not (isinstance(label, str) and not label.strip())]  # "" split is [""]
    found = {_label(label, names or (), number, "labels", where) for label in stated}
    return {**_texts(values, number, where), "labels": sorted(found)}


def _regression(values: Row, names: tuple[str, ...] | None, number: int, where: Where) -> Row:
    value = values["label"]
    try:
        label = math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        label = math.nan
    if not math.isfinite(label):
        raise where.error(number, "label", f"saw {_show(value)}", "a regression label is a finite number")
    return {**_texts(values, number, where), "label": label}


def _multiple_choice(values: Row, names: tuple[str, ...] | None, number: int, where: Where) -> Row:
    choices = as_list(values["choices"])
    if choices is None or len(choices) < 2:
        raise where.error(number, "choices", f"saw {_show(values['choices'])}", "give a list of 2 or more texts")
    texts = [_text(choice, number, "choices", where) for choice in choices]
    label, options = values["label"], tuple(texts)
    if isinstance(label, str) and label not in options and not _is_whole(label):
        raise where.error(number, "label", f"{_show(label)} is not one of the choices", "give its position, from 0")
    return {
        "text": _text(values["text"], number, "text", where),
        "choices": texts,
        "label": _position(label, options, number, where),
    }


def _position(label: Any, options: tuple[str, ...], number: int, where: Where) -> int:
    """Position of the right choice: a number counts from 0, a text is looked up."""
    if isinstance(label, str) and label in options:
        return options.index(label)
    return _label(label, tuple(f"\0{i}" for i in range(len(options))), number, "label", where)


def _tagging(values: Row, names: tuple[str, ...] | None, number: int, where: Where) -> Row:
    tokens, tags = as_list(values["tokens"]), as_list(values["tags"])
    for column, value in (("tokens", tokens), ("tags", tags)):
        if value is None:
            raise where.error(number, column, f"saw {_show(values[column])}", "give a list, or {from: ..., split: ' '}")
    assert tokens is not None and tags is not None
    if len(tokens) != len(tags):
        problem = f"{len(tokens)} tokens but {len(tags)} tags"
        raise where.error(number, "tags", problem, "give one tag per token")
    if not tokens:
        raise where.error(number, "tokens", "no tokens", "remove the row")
    return {
        "tokens": [str(token) for token in tokens],
        "tags": [_label(tag, names or (), number, "tags", where) for tag in tags],
    }


def _question_answering(values: Row, names: tuple[str, ...] | None, number: int, where: Where) -> Row | None:
    question, context = (_text(values[name], number, name, where) for name in ("question", "context"))
    answers = values["answers"]
    if isinstance(where.columns["answers"].source, tuple) and _is_placed(answers):
        text, start = answers  # two columns of a table
        answers = {"text": [text], "answer_start": [int(start)]} if text and start not in (None, "") else text or ""
    if isinstance(answers, str):
        answers = [answers] if answers else []
    if isinstance(answers, list) and all(isinstance(text, str) for text in answers):  # looked up where they stand first
        texts = [text for text in dict.fromkeys(answers) if text.strip()]
        pairs, stated = [(text, context.find(text)) for text in texts if text in context], bool(texts)
    elif _is_squad(answers):
        texts, starts = answers["text"], answers["answer_start"]
        if len(texts) != len(starts):
            problem = f"{len(texts)} texts but {len(starts)} starts"
            raise where.error(number, "answers", problem, "give one answer_start per text")
        stated = bool(texts)
        pairs = [(t, s) for text, s in zip(texts, starts, strict=True) if (t := _standing_at(context, text, s))]
    else:
        shape = "give a text, or {text: [...], answer_start: [...]}; empty lists mean no answer"
        raise where.error(number, "answers", f"saw {_show(answers)}", shape)
    if stated and not pairs:
        return None
    found = {"text": [text for text, _ in pairs], "answer_start": [start for _, start in pairs]}
    return {"question": question, "context": context, "answers": found}


_READERS: dict[Kind, Callable[[Row, tuple[str, ...] | None, int, Where], Row | None]] = {
    Kind.SEQUENCE_CLASSIFICATION: _classification,
    Kind.MULTI_LABEL_CLASSIFICATION: _several_labels,
    Kind.REGRESSION: _regression,
    Kind.MULTIPLE_CHOICE: _multiple_choice,
    Kind.TOKEN_CLASSIFICATION: _tagging,
    Kind.QUESTION_ANSWERING: _question_answering,
}


def required(kind: Kind) -> tuple[str, ...]:
    """Returns the columns that rows of a kind must have."""
    return tuple(name for name in COLUMNS[kind] if not name.endswith("?"))


def _texts(values: Row, number: int, where: Where) -> Row:
    pair = values.get("text_pair")
    return {
        "text": _text(values["text"], number, "text", where),
        "text_pair": _text(pair, number, "text_pair", where) if "text_pair" in where.columns else None,
    }


def _text(value: Any, number: int, column: str, where: Where) -> str:
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        problem = "the text is empty" if _missing(value) or isinstance(value, str) else f"saw {_show(value)}"
        raise where.error(number, column, problem, "give text in every row, or remove the row")
    return value


def _label(value: Any, names: tuple[str, ...], number: int, column: str, where: Where) -> int:
    if _missing(value):
        raise where.error(number, column, f"no label (saw {_show(value)})", "fill it in or remove the row")
    if not isinstance(value, str | numbers.Real):
        raise where.error(number, column, f"saw {_show(value)}", "a label is a name or a number")
    text = _label_text(value)
    if text in names:
        return names.index(text)
    if isinstance(value, bool) and len(names) == 2:
        return int(value)
    if not _is_whole(text):
        known = f"known labels: {', '.join(names[:12])}{' ...' if len(names) > 12 else ''}"
        raise where.error(number, column, f"unknown label {_show(value)}{suggest(text, names)}", known)
    index = int(text)
    if index == -1:
        raise where.error(number, column, "label -1", _UNLABELLED)
    if not 0 <= index < len(names):
        raise where.error(number, column, f"label {index} is out of range", f"labels go from 0 to {len(names) - 1}")
    return index


def _renamer(
    where: Where, column: str, names: tuple[str, ...] | None, class_names: Mapping[str, tuple[str, ...]]
) -> Callable[[Any], Any] | None:
    """Turns the source's integer labels into names where both sides use the same names in another order."""
    plain = where.columns[column].plain if column in where.columns else None
    seen = class_names.get(plain or "")
    if not names or not seen or seen == names:
        return None
    if len(seen) != len(names):
        problem = f"the data has {len(seen)} classes ({', '.join(seen[:5])} ...), the task {len(names)}"
        raise where.error(None, column, problem, "give the task the data's label_names")
    if set(seen) != set(names):
        return None
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


def _is_squad(answers: Any) -> bool:
    return isinstance(answers, dict) and all(isinstance(answers.get(key), list) for key in ("text", "answer_start"))


def _label_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii()


def _is_placed(answers: Any) -> bool:
    """Whether two values are a text and its place, which is missing where there is no answer."""
    if not isinstance(answers, list) or len(answers) != 2 or not isinstance(answers[0], str | None):
        return False
    start = answers[1]
    return start is None or isinstance(start, int) or (isinstance(start, str) and (not start or start.isdecimal()))


def _missing(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def _standing_at(context: str, text: Any, start: Any) -> str | None:
    """Returns the answer as it stands in the context at ``start``; only blanks may differ ("do n't" for "don't")."""
    if not isinstance(text, str) or not isinstance(start, int) or not text.strip() or not 0 <= start < len(context):
        return None
    if context.startswith(text, start):
        return text
    letters = r"\s*".join(re.escape(letter) for letter in text if not letter.isspace())
    place = re.compile(letters).match(context, start)
    return place[0] if place else None


def _show(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
