"""Rows as a source gave them, before they are normalised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from adaptmtl.tasks.rows import Row


@dataclass(frozen=True)
class RawRows:
    """Rows of a task with the columns of the data set they came from.

    Attributes:
        train: training rows.
        validation: rows that figures are reported on; None where the source has none (they are cut from ``train``).
        origin: where the rows came from, for provenance and messages.
        notes: what a reader of the figures should know (a split that was derived, rows that were dropped).
        files: path of the file that a split was read from, where it was a person's own.
        class_names: names of integer class labels by column, where the source knows them.
        validation_class_names: the same of the validation rows, where those come from a file of their own.
    """

    train: list[Row]
    validation: list[Row] | None
    origin: str
    notes: tuple[str, ...] = ()
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    validation_class_names: Mapping[str, tuple[str, ...]] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
