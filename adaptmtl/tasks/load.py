"""Rows of a task, from wherever they can be had, normalised and checked."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from adaptmtl.errors import DataError, UnknownNameError
from adaptmtl.tasks.check_rows import Where, infer_label_names, normalise
from adaptmtl.tasks.columns import Expression, parse_columns
from adaptmtl.tasks.rows import Row, Split, TaskRows
from adaptmtl.tasks.rows_cache import kept_rows
from adaptmtl.tasks.sample import cut, subsample, text_groups
from adaptmtl.tasks.sources.archive import read_archive
from adaptmtl.tasks.sources.local import read_local
from adaptmtl.tasks.sources.mirror import in_mirror, read_mirror
from adaptmtl.tasks.sources.raw import RawRows
from adaptmtl.tasks.spec import ArchiveRows, FileRows, HubRows, TaskSpec
from adaptmtl.workspace import Workspace

__all__ = ["Source", "load_rows", "subsample"]

Source = Literal["auto", "file", "mirror", "archive", "hub"]
_SOURCES: tuple[Source, ...] = ("file", "mirror", "archive", "hub")
_VALIDATION_SHARE = 0.2
_VALIDATION_SEED = 13


def load_rows(spec: TaskSpec, workspace: Workspace, source: str = "auto") -> TaskRows:
    """Loads a task's training and validation rows, from the workspace where they were read before.

    Args:
        spec: the task.
        workspace: mirror folder, offline flag, and where archives and rows are kept.
        source: "file", "mirror", "archive" or "hub"; "auto" takes the first of these, in this order, that the task
            declares and (for the mirror) that is there.

    Raises:
        DataError: rows that cannot be used; names task, row, column, value and remedy.
        OfflineError: the rows are remote, and the network is off or did not answer.
        UnknownNameError: ``source`` is none of the above.
    """
    kind = source if source != "auto" else _choose(spec, workspace)
    if kind not in _SOURCES:
        raise UnknownNameError("row source", kind, ("auto", *_SOURCES), f"known: auto, {', '.join(_SOURCES)}")
    declared, expressions = _declared(spec, kind, workspace)
    return kept_rows(
        spec, declared, kind, workspace,
        read=lambda: _normalised(spec, _read(declared, kind, expressions, workspace), expressions),
    )  # fmt: skip


def available_sources(spec: TaskSpec, workspace: Workspace) -> tuple[str, ...]:
    """Returns the sources that the task declares, in the order that "auto" prefers; mirror only where it is there."""
    found: list[str] = []
    for kind in _SOURCES:
        if any(_serves(rows, kind, workspace) for rows in spec.rows):
            found.append(kind)
    return tuple(found)


def _choose(spec: TaskSpec, workspace: Workspace) -> str:
    return available_sources(spec, workspace)[0]


def _serves(rows: HubRows | ArchiveRows | FileRows, kind: str, workspace: Workspace) -> bool:
    if kind == "mirror":
        return isinstance(rows, HubRows) and in_mirror(rows, workspace.mirror)
    return rows.type == kind


def _declared(
    spec: TaskSpec, kind: str, workspace: Workspace
) -> tuple[HubRows | ArchiveRows | FileRows, dict[str, Expression]]:
    for rows in spec.rows:
        if _serves(rows, kind, workspace):
            columns = rows.columns or {name: name for name in spec.kind.required}
            try:
                return rows, parse_columns(columns)
            except ValueError as error:
                raise DataError(f"task {spec.name}: {error}") from error
    there = ", ".join(available_sources(spec, workspace)) or "none"
    if kind == "mirror":
        folder = workspace.mirror or "(none given)"
        raise DataError(f"task {spec.name}: the mirror {folder} does not hold it; set --mirror; other sources: {there}")
    raise DataError(f"task {spec.name}: has no {kind} source; sources: {there}")


def _read(
    rows: HubRows | ArchiveRows | FileRows, kind: str, expressions: dict[str, Expression], workspace: Workspace
) -> RawRows:
    if isinstance(rows, FileRows):
        return read_local(rows)
    if isinstance(rows, ArchiveRows):
        return read_archive(rows, workspace)
    if kind == "mirror":
        assert workspace.mirror is not None
        return read_mirror(rows, expressions, workspace.mirror)
    from adaptmtl.tasks.sources.hub import read_hub  # datasets takes 2 s to import, and few loads need it

    return read_hub(rows, workspace)


def _normalised(spec: TaskSpec, raw: RawRows, expressions: dict[str, Expression]) -> TaskRows:
    places = {split: Where(spec.name, split, expressions, raw.files.get(split)) for split in ("train", "validation")}
    if missing := [name for name in spec.kind.required if name not in expressions]:
        raise DataError(f"task {spec.name}: 'columns' does not say where {', '.join(missing)} comes from; add it")
    names = spec.label_names
    if names is None and spec.kind.named_labels:
        column = expressions[spec.kind.answer].plain
        held = raw.class_names.get(column) if column else None
        names = held or infer_label_names(raw.train, places["train"], spec.kind)
        if not held:
            places = {split: replace(where, by_place=False) for split, where in places.items()}
        spec = spec.model_copy(update={"label_names": names})
    train, notes = normalise(raw.train, spec, names, places["train"], raw.class_names)
    if raw.validation is None:
        train, validation = cut(train, text_groups(train, spec), spec, _VALIDATION_SHARE, _VALIDATION_SEED)
        notes.append(f"validation is {_VALIDATION_SHARE:.0%} of the rows, stratified (seed {_VALIDATION_SEED})")
        if not train or not validation:
            few = f"{len(train) + len(validation)} rows are too few to cut validation rows from"
            raise places["train"].error(None, next(iter(expressions)), few, "name a validation file")
    else:
        own = raw.class_names if raw.validation_class_names is None else raw.validation_class_names
        validation, more = normalise(raw.validation, spec, names, places["validation"], own)
        notes += more + _shared_texts(spec, train, validation)
    notes += _check_labels(spec, train, validation, places["train"])
    return TaskRows(spec, Split(tuple(train)), Split(tuple(validation)), raw.origin, (*raw.notes, *notes))


def _shared_texts(spec: TaskSpec, train: list[Row], validation: list[Row]) -> list[str]:
    """Notes validation rows whose text is a training row's: figures on those tell what was learned by heart."""
    known = set(text_groups(train, spec))
    again = sum(group in known for group in text_groups(validation, spec))
    return [f"{again} of {len(validation)} validation rows have a text that stands in train"] if again else []


def _check_labels(spec: TaskSpec, train: list[Row], validation: list[Row], where: Where) -> list[str]:
    """Checks that there is something to learn, and notes what cannot be learned."""
    kind, names = spec.kind, spec.label_names or ()
    seen, held = ({label for row in rows for label in kind.labels_of(row)} for rows in (train, validation))
    if len(seen) < kind.least_labels:
        if not seen:
            remedy = f"check the column that {kind.answer!r} is read from"
            raise where.error(None, kind.answer, "no row has a label", remedy)
        only = names[next(iter(seen))] if names else next(iter(seen))
        remedy = f"give rows of {kind.least_labels} or more labels"
        raise where.error(None, kind.answer, f"every row has the label {only!r}", remedy)
    if not names or not (unseen := sorted(held - seen)):
        return []
    shown = ", ".join(names[label] for label in unseen[:5])
    return [f"{len(unseen)} labels of validation rows do not occur in train ({shown}{' ...' if unseen[5:] else ''})"]
