"""What kind of task a person's own file holds, in which columns: a guess with its reasons, that can be overridden."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adaptmtl.errors import DataError, suggest
from adaptmtl.tasks.column_facts import Table
from adaptmtl.tasks.infer_kinds import SAID, Found, Wanted, is_usual
from adaptmtl.tasks.kind import Kind, kinds
from adaptmtl.tasks.sources.local import read_file
from adaptmtl.tasks.spec import NAME, FileRows, TaskSpec

#: Below this the guess is called unsure.
SURE = 0.7
#: The kind whose reason is told where no kind fits.
FALLBACK = "sequence_classification"
_NOT_NAME = re.compile(r"[^a-z0-9_\-]+")


@dataclass(frozen=True)
class Guess:
    """A task made from a file.

    Attributes:
        spec: the task, ready to load.
        rows: rows of the training file.
        found: columns, confidence and reasons.
        labels: counts by label as text, most frequent first; empty where labels are numbers or places.
    """

    spec: TaskSpec
    rows: int
    found: Found
    labels: Mapping[str, int]

    @property
    def confidence(self) -> float:
        """How sure the guess is, in [0, 1]: of the part that is least sure; 1 where a person said it."""
        return min(confidence for _, confidence, _ in self._decisions())

    def _decisions(self) -> tuple[tuple[str, float, str], ...]:
        return ((f"kind: {self.spec.kind}", *self.found.sure), *self.found.parts)

    def lines(self) -> list[str]:
        """Returns the summary for people, a line per decision, with how to change it where it may be wrong."""
        out = [f"{self.spec.name}: {self.rows:,} rows, read as {self.spec.kind} (confidence {self.confidence:.2f})"]
        out += [f"  {what} ({confidence:.2f}: {why})" for what, confidence, why in self._decisions()]
        if self.labels:
            shown = [f"{label} {count:,}" for label, count in list(self.labels.items())[:8]]
            more = f", {len(self.labels) - 8} more" if len(self.labels) > 8 else ""
            out.append(f"  {len(self.labels)} labels: {', '.join(shown)}{more}")
        if self.confidence < SURE:
            out.append("  not sure; if that is wrong, say it with --kind, --text-columns a,b and --label-column c")
        return out


def infer_task(
    data: Path,
    *,
    validation: Path | None = None,
    name: str | None = None,
    kind: str | None = None,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
) -> Guess:
    """Makes a task of a file: csv, tsv, jsonl, json (rows or the layout of SQuAD), parquet or CoNLL.

    Args:
        data: training rows; validation rows are cut from them (seeded) where no file is named for those.
        validation: rows that figures are reported on.
        name: of the task; the file's name without it.
        kind: overrides the guess.
        text_columns: override the guess: text and second text; text and choices; question and context; words.
        label_column: overrides the guess: label, labels, tags or answers.

    Returns:
        The guess.

    Raises:
        DataError: the name is no name of a task, or the file cannot be read, lacks a column that was named, or holds
            nothing that can be learned.
        UnknownNameError: there is no such kind.
    """
    forced = kinds[kind] if kind is not None else None
    data = Path(data).expanduser()
    if name is not None and not re.fullmatch(NAME, name):
        raise DataError(f"task name {name!r}: give one of a to z, 0 to 9, _ and -, such as {task_name(Path(name))!r}")
    table = Table.of(read_file(data))
    _check_header(table, data, {*text_columns, label_column})
    for column in (*text_columns, *((label_column,) if label_column else ())):
        if column not in table.columns:
            known = ", ".join(table.columns)
            raise DataError(f"{data}: no column {column!r}{suggest(column, table.columns)}; columns there: {known}")
    wanted = Wanted(tuple(text_columns), label_column)
    chosen, found = _guess(table, wanted, forced, data)
    rows = FileRows(
        train=str(data.resolve()),
        validation=str(Path(validation).expanduser().resolve()) if validation else None,
        columns=found.columns,
    )
    spec = TaskSpec(name=name or task_name(data), kind=chosen, description=f"Rows of {data.name}.", rows=(rows,))
    return Guess(spec, table.n_rows, found, _labels(table, chosen, found))


def task_name(path: Path) -> str:
    """Returns a name for the task of a file: its stem in lower case, other signs than a-z, 0-9, _ and - replaced."""
    name = _NOT_NAME.sub("-", path.stem.lower()).strip("-_")
    return name or "mine"


def _guess(table: Table, wanted: Wanted, forced: Kind | None, data: Path) -> tuple[Kind, Found]:
    """The first kind that fits, in the registry's order, or the one that a person named."""
    reason = None
    for kind in (forced,) if forced is not None else map(kinds.__getitem__, kinds):
        found = kind.guess(table, wanted, forced is not None)
        if isinstance(found, Found):
            return kind, found if forced is None else replace(found, sure=SAID)
        if forced is not None or kind == FALLBACK:
            reason = found
    known = ", ".join(table.columns)
    why = reason or "no columns of a known kind of task"
    raise DataError(f"{data}: {why}; name them with --text-columns a,b and --label-column c (columns: {known})")


def _labels(table: Table, kind: Kind, found: Found) -> dict[str, int]:
    """Counts of the labels that have names."""
    column = table.columns.get(found.label_column or "")
    if column is None or not kind.named_labels:
        return {}
    counts: Counter[str] = column.counts
    if kind.form in ("sets", "tags"):
        separator = found.separator
        several = column.lists or [
            value.split() if separator == " " else str(value).split(separator) for value in column.present
        ]
        counts = Counter(str(label).strip() for row in several for label in row)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _check_header(table: Table, data: Path, named: Collection[str | None]) -> None:
    """A file without names has its first row where the names should be; names that a person gave are names."""
    names: list[Any] = list(table.columns)
    blank = [i for i, name in enumerate(names, 1) if not str(name).strip()]
    if blank:
        raise DataError(f"{data} row 0 (line 1), column {blank[0]}: the column has no name; give every column one")
    if data.suffix.lower() not in (".csv", ".tsv"):
        return
    if any(name in named for name in table.columns):
        return
    like_values = [
        (position, name) for position, (name, column) in enumerate(table.columns.items(), 1)
        if _is_number(name) or len(name.split()) > 6 or (len(column.counts) < 20 and name in column.counts)
    ]  # fmt: skip
    if 2 * len(like_values) > len(table.columns) or (like_values and not any(map(is_usual, table.columns.values()))):
        position, name = like_values[0]
        raise DataError(
            f"{data} row 0 (line 1), column {position}: {name[:40]!r} looks like a value, not like a name; "
            "put a line of column names first, or name the columns with --text-columns and --label-column"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
