"""A person's own tasks, kept in the workspace, so that later commands know them by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from adaptmtl.errors import AdaptMTLError, UnknownNameError
from adaptmtl.storage import write_atomic
from adaptmtl.tasks.catalogue import Catalogue, extended, load_catalogue
from adaptmtl.tasks.spec import FileRows, TaskSpec
from adaptmtl.workspace import Workspace

_FOLDER = "tasks"


def known_tasks(workspace: Workspace, extra: Path | None = None) -> Catalogue:
    """Returns the tasks that ship, those kept in the workspace, and those of a file or folder.

    Raises:
        CatalogueError: every error of every file.
    """
    return load_catalogue(extra, kept=workspace.folder(_FOLDER))


def add_tasks(workspace: Workspace, source: Path, *, replace: bool = False) -> tuple[TaskSpec, ...]:
    """Keeps the tasks of a YAML file or folder.

    Args:
        workspace: where they are kept.
        source: a task file, or a folder of them; paths of rows in it are made absolute.
        replace: overwrite tasks of the same names that were added before.

    Returns:
        The tasks, in order.

    Raises:
        CatalogueError: every error of every file; nothing is kept then.
        AdaptMTLError: another task of that name was added before, or the file holds a suite.
    """
    base = known_tasks(workspace)
    wider = extended(base, Path(source).expanduser())
    found = [task for name, task in wider.tasks.items() if task is not base.tasks.get(name)]
    if suites := sorted(set(wider.suites) - set(base.suites)):
        raise AdaptMTLError(f"{source} holds the suite {suites[0]!r}; only tasks can be added, use it with --task-file")
    for task in found:
        if base.tasks.get(task.name, task) != task and not replace:
            raise AdaptMTLError(f"task {task.name!r} was added before; overwrite it with --replace, or rename this one")
    for task in found:
        _write(workspace, task)
    return tuple(found)


def kept_task(workspace: Workspace, name: str, file: Path) -> TaskSpec | None:
    """Returns the task of a name that is kept in the workspace, if it reads its training rows from a file."""
    held = known_tasks(workspace).tasks.get(name) if name in own_names(workspace) else None
    return held if held is not None and _files(held) == [str(file.expanduser().resolve())] else None


def remember(workspace: Workspace, task: TaskSpec) -> TaskSpec | None:
    """Keeps a task that was made from a file; one that was made from the same file before is replaced.

    Returns:
        The task that was replaced, if one was and it was another.

    Raises:
        AdaptMTLError: another task has that name, or one that a person wrote.
    """
    held = known_tasks(workspace).tasks.get(task.name)
    if held == task:
        return None
    if held is not None and (task.name not in own_names(workspace) or _files(held) != _files(task)):
        raise AdaptMTLError(
            f"there is already a task {task.name!r} ({held.description or held.kind}); choose another name with "
            "--task-name"
        )
    if held is not None and _facts_of_a_guess(held) != _facts_of_a_guess(task):
        raise AdaptMTLError(
            f"task {task.name!r} of this file says more than a guess knows (adaptmtl tasks show {task.name}); "
            "leave out the options that would change it, or choose another name with --task-name"
        )
    _write(workspace, task)
    return held


def _facts_of_a_guess(task: TaskSpec) -> dict[str, Any]:
    """What is the same of all tasks made from one file; a person's own task says more, or something else."""
    return task.model_dump(exclude={"kind", "rows"}) | {"sources": len(task.rows)}


def remove_task(workspace: Workspace, name: str) -> None:
    """Forgets a task that was added; its rows and its adapters stay.

    Raises:
        UnknownNameError: no task of that name was added.
    """
    if name not in own_names(workspace):
        raise UnknownNameError("added task", name, own_names(workspace), "tasks that ship cannot be removed")
    _path(workspace, name).unlink()


def own_names(workspace: Workspace) -> tuple[str, ...]:
    """Returns the names of the tasks that were added, in alphabetical order."""
    return tuple(sorted(path.stem for path in workspace.folder(_FOLDER).glob("*.yaml")))


def as_yaml(task: TaskSpec) -> str:
    """Returns a task as the text of a task file, without what is default."""
    facts: dict[str, Any] = task.model_dump(mode="json", exclude_defaults=True)
    for rows, source in zip(facts["rows"], task.rows, strict=True):
        rows["type"] = source.type
    facts["rows"] = [{"type": rows.pop("type"), **rows} for rows in facts["rows"]]
    return yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=120)


def _write(workspace: Workspace, task: TaskSpec) -> None:
    write_atomic(_path(workspace, task.name), as_yaml(task))


def _path(workspace: Workspace, name: str) -> Path:
    return workspace.folder(_FOLDER, f"{name}.yaml")


def _files(task: TaskSpec) -> Iterable[str]:
    return [rows.train for rows in task.rows if isinstance(rows, FileRows)]
