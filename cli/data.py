"""Options for one's own file in place of a task of the catalogue, and the tasks that were added to the workspace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import typer

from adaptmtl.cli.layout import OWN
from adaptmtl.cli.options import Data, names
from adaptmtl.errors import AdaptMTLError

if TYPE_CHECKING:
    from adaptmtl.tasks.catalogue import Catalogue
    from adaptmtl.tasks.spec import TaskSpec


def _own(flag: str, help: str, **facts: Any) -> Any:
    return typer.Option(flag, help=help, rich_help_panel=OWN, **facts)


@dataclass(frozen=True)
class OwnData(Data):
    """The options of :class:`Data`, and a file of one's own rows, whose kind and columns are inferred."""

    keep: ClassVar[bool] = True  # later commands know the task by its name
    data: Annotated[
        Path | None,
        _own(
            "--data", "Your rows: csv, tsv, jsonl, json, parquet, CoNLL or SQuAD json.", dir_okay=False, metavar="FILE"
        ),
    ] = None
    validation: Annotated[
        Path | None,
        _own("--validation", "Rows to report figures on; else a fifth of --data.", dir_okay=False, metavar="FILE"),
    ] = None
    text_columns: Annotated[
        str, _own("--text-columns", "Text[,second text]; question,context; text,choices; words.", metavar="A,B")
    ] = ""
    label_column: Annotated[
        str | None, _own("--label-column", "Column of labels, values, tags or answers.", metavar="NAME")
    ] = None
    kind: Annotated[str | None, _own("--kind", "Kind of task; inferred without it.", metavar="NAME")] = None
    task_name: Annotated[
        str | None, _own("--task-name", "Name of the task; that of the file without it.", metavar="NAME")
    ] = None

    def catalogue(self) -> Catalogue:
        """Returns the tasks that ship, those of the workspace and ``--task-file``, and the one of ``--data``."""
        from adaptmtl.tasks.catalogue import Catalogue

        catalogue = super().catalogue()
        task = self._task
        return catalogue if task is None else Catalogue({**catalogue.tasks, task.name: task}, catalogue.suites)

    def target(self, named: str | None) -> tuple[Self, str]:
        """Returns the target's name, the one given, else that of the task of ``--data``, and the options that know it.

        A file in place of a name is the same as ``--data``.

        Raises:
            AdaptMTLError: there is neither, or both and they differ.
            UnknownNameError: there is no such task.
        """
        if named is not None and (file := self._as_file(named)) is not None:
            return replace(self, data=file).target(None)
        task = self._task
        if task is not None and named is not None and named != task.name:
            raise AdaptMTLError(
                f"{named!r} is not the task of --data, {task.name!r}: leave it out, or give --task-name {named}"
            )
        if task is None and named is None:
            raise AdaptMTLError("no task given: name one (--target NAME), or give your own rows with --data FILE")
        return self, self.catalogue().task(named if task is None else task.name).name  # type: ignore[arg-type]

    def _as_file(self, named: str) -> Path | None:
        """Returns the file that is given in place of a name; None for a name: names hold neither dots nor slashes."""
        file = Path(named).expanduser()
        if self.data is not None:
            return self.data if file.resolve() == self.data.expanduser().resolve() else None
        is_path = "." in named or file.name != named
        return file if is_path or (file.is_file() and named not in super().catalogue().tasks) else None

    def own_task(self) -> str | None:
        """Returns the name of the task of ``--data``, or None without it."""
        task = self._task
        return None if task is None else task.name

    @cached_property
    def _task(self) -> TaskSpec | None:
        """The task of ``--data``; made, shown and kept once per command."""
        if self.data is None:
            wrong = [flag for flag, value in self._overrides().items() if value]
            if wrong:
                raise AdaptMTLError(f"{wrong[0]} goes with --data: name the file of your rows, or leave it out")
            return None
        from adaptmtl.tasks.infer import infer_task, task_name
        from adaptmtl.tasks.own import kept_task, remember

        workspace, name = self.workspace(), self.task_name or task_name(self.data)
        given = {flag: value for flag, value in self._overrides().items() if flag != "--task-name"}
        if not any(given.values()) and (held := kept_task(workspace, name, self.data)) is not None:
            workspace.reporter.say(f"{name}: the task kept of {self.data.name}, see: adaptmtl tasks show {name}")
            return held
        guess = infer_task(
            self.data,
            validation=self.validation,
            name=self.task_name,
            kind=self.kind,
            text_columns=names(self.text_columns),
            label_column=self.label_column,
        )
        for line in guess.lines():
            workspace.reporter.say(line)
        if self.keep and remember(workspace, guess.spec) is not None:
            workspace.reporter.say(f"  this replaces the task {guess.spec.name} that was kept of the file before")
        return guess.spec

    def _overrides(self) -> dict[str, Any]:
        return {
            "--validation": self.validation,
            "--text-columns": self.text_columns,
            "--label-column": self.label_column,
            "--kind": self.kind,
            "--task-name": self.task_name,
        }


@dataclass(frozen=True)
class OwnDataUnkept(OwnData):
    """The same, for looking at a file without keeping the task."""

    keep: ClassVar[bool] = False
