"""What a task is: a frozen declaration, read from YAML, that says where rows come from and what they mean."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, model_validator

from adaptmtl.errors import UnknownNameError
from adaptmtl.tasks.kind import Kind, kinds

#: What a task may be called.
NAME = r"^[a-z0-9][a-z0-9_\-]*$"


def _kind(name: Any) -> Kind:
    try:
        return kinds[str(name)]
    except UnknownNameError as error:
        raise ValueError(str(error)) from error


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HubRows(_Frozen):
    """Rows of a data set on the Hub (or in a mirror folder of the same layout)."""

    type: Literal["hub"] = "hub"
    id: str
    config: str | None = None
    revision: str | None = None
    splits: dict[Literal["train", "validation"], str] = {"train": "train", "validation": "validation"}
    columns: dict[str, Any] = Field(
        description="normalised column -> the data set's column, list of columns, or template"
    )


class ArchiveRows(_Frozen):
    """Rows inside a package archive (a wheel), read as a zip after its sha256 was checked; never installed."""

    type: Literal["archive"] = "archive"
    package: str
    version: str
    sha256: str
    reader: str = Field(description="name of a registered reader")
    options: dict[str, Any] = {}
    columns: dict[str, Any] = {}


class FileRows(_Frozen):
    """Rows in a person's own csv, tsv, jsonl, json or parquet files."""

    type: Literal["file"] = "file"
    train: str
    validation: str | None = Field(None, description="without it, validation rows are cut from the train file, seeded")
    columns: dict[str, Any]


RowSource = Annotated[HubRows | ArchiveRows | FileRows, Field(discriminator="type")]


class Verified(_Frozen):
    """Where and when a task's rows were loaded whole and counted.

    Attributes:
        source: "hub", "mirror" (a folder in the Hub's layout, which may hold part of the rows) or "archive".
        date: ISO date.
        train: training rows.
        validation: validation rows.
    """

    source: Literal["hub", "mirror", "archive"]
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\d$")
    train: int = Field(ge=1)
    validation: int = Field(ge=1)


class TaskSpec(_Frozen):
    """A task, as declared.

    Attributes:
        name: unique, lower case, ``[a-z0-9_-]``.
        kind: one of :data:`adaptmtl.tasks.kind.kinds`, in YAML by its name.
        label_names: in the order of the integer labels; None where the kind's labels have no names.
        metric: the one figure that stands for the task (see :mod:`adaptmtl.tasks.metrics`).
        rows: places to read from, in order of preference.
        overlaps: names of tasks that share rows with this one; never its sources unless asked.
        group: name of a family of sets made from the same texts ("squad"); its members are never each other's sources
            unless asked.
        verified: where and when the rows were loaded and counted; None where the task is only declared.
    """

    name: str = Field(pattern=NAME)
    kind: Annotated[Kind, PlainValidator(_kind), PlainSerializer(str)]
    description: str = ""
    language: str = "en"
    licence: str = "unstated"
    label_names: tuple[str, ...] | None = None
    metric: str | None = None
    rows: tuple[RowSource, ...] = Field(min_length=1)
    overlaps: tuple[str, ...] = ()
    group: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_\-]*$")
    verified: Verified | None = None

    @model_validator(mode="after")
    def _labels_fit_kind(self) -> TaskSpec:
        needs = self.kind.named_labels
        if needs and not self.label_names and not any(isinstance(r, FileRows) for r in self.rows):
            raise ValueError(f"a {self.kind} task needs label_names")
        if not needs and self.label_names:
            raise ValueError(f"a {self.kind} task has no label_names")
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that are given to the model, in the kind's order: a text, say, or a text and a second one."""
        given = {column for part in self.rows for column in part.columns}
        return tuple(name.removesuffix("?") for name in self.kind.inputs if name.removesuffix("?") in given)

    @property
    def main_metric(self) -> str:
        """The declared metric, or the default of the kind."""
        return self.metric or self.kind.metrics[0]
