"""All tasks and suites that are known, read from YAML and checked at once; imports no model code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adaptmtl.errors import AdaptMTLError, UnknownNameError, suggest
from adaptmtl.tasks.columns import parse_expression
from adaptmtl.tasks.spec import ArchiveRows, FileRows, TaskSpec

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


#: Entry points of packages that bring tasks: each names a folder of YAML files, or a function that returns one.
PLUGINS = "adaptmtl.tasks"


class CatalogueError(AdaptMTLError):
    """Task or suite files that are wrong: every error of every file, one per line."""


class Suite(BaseModel):
    """A named list of tasks.

    Attributes:
        name: unique, lower case.
        description: where the list was published.
        tasks: those that are declared.
        published: tasks of the published list; None where the list is ours.
        missing: tasks of the published list that are not declared -> why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_\-]*$")
    description: str = ""
    tasks: tuple[str, ...] = Field(min_length=1)
    published: int | None = Field(None, ge=1)
    missing: Mapping[str, str] = {}

    @property
    def size(self) -> str:
        """How many tasks it has: "12", or "20 of 29" where some of the published list are not declared."""
        whole = f" of {self.published}" if self.missing and self.published else ""
        return f"{len(self.tasks)}{whole}"


@dataclass(frozen=True)
class Catalogue:
    """Tasks and suites by name, in alphabetical order."""

    tasks: Mapping[str, TaskSpec]
    suites: Mapping[str, Suite]

    def task(self, name: str) -> TaskSpec:
        """Returns a task.

        Raises:
            UnknownNameError: there is none of that name; close names are suggested.
        """
        if name not in self.tasks:
            raise UnknownNameError("task", name, self.tasks, "see: adaptmtl tasks list")
        return self.tasks[name]

    def suite(self, name: str) -> tuple[str, ...]:
        """Returns the names of a suite's tasks.

        Raises:
            UnknownNameError: there is no suite of that name; close names are suggested.
        """
        if name not in self.suites:
            raise UnknownNameError("suite", name, self.suites, f"known: {', '.join(self.suites)}")
        return self.suites[name].tasks


def load_catalogue(extra: str | Path | None = None, kept: Path | None = None) -> Catalogue:
    """Loads the tasks and suites that come with the package, and a person's own.

    Args:
        extra: a YAML file (a task, or a suite: one with a ``tasks`` key), or a folder of them. Paths of rows in it are
            relative to the file's folder. It may hold a task of ``kept`` again, which it then replaces.
        kept: folder of tasks that were added before (:mod:`adaptmtl.tasks.own`); it need not exist.

    Raises:
        CatalogueError: every error of every file, with file, field and value seen.
    """
    base = _installed()
    if kept is not None and (files := sorted(kept.glob("*.yaml"))):
        try:
            base = _build(files, base)
        except CatalogueError as error:
            raise CatalogueError(f"tasks added before, in {kept} (adaptmtl tasks remove NAME): {error}") from error
    return base if extra is None else extended(base, Path(extra).expanduser())


def extended(base: Catalogue, extra: Path) -> Catalogue:
    """Returns the base with the tasks and suites of a file or folder; they may replace tasks that do not ship.

    Raises:
        CatalogueError: every error of every file.
    """
    if not extra.exists():
        raise CatalogueError(f"no task file or folder {extra}; check the path")
    files = [extra] if extra.is_file() else sorted([*extra.rglob("*.yaml"), *extra.rglob("*.yml")])
    if not files:
        raise CatalogueError(f"{extra} holds no .yaml file; a task is one YAML file")
    return _build(files, base, replaced=set(base.tasks) - set(_installed().tasks))


@lru_cache(maxsize=1)
def _installed() -> Catalogue:
    """The tasks that ship, and those of other packages: folders of YAML behind entry points of :data:`PLUGINS`."""
    base = _shipped()
    for point in entry_points(group=PLUGINS):
        try:
            named = point.load()
            folder = Path(str(named() if callable(named) else named))
        except Exception as error:  # another package's code may raise anything
            raise CatalogueError(
                f"tasks of the package behind entry point {point.name!r} ({point.value}) cannot be had: "
                f"{type(error).__name__}: {error}; update or uninstall that package"
            ) from error
        base = _build(sorted(folder.rglob("*.yaml")), base)
    return base


@lru_cache(maxsize=1)
def _shipped() -> Catalogue:
    root = Path(str(resources.files("adaptmtl.adapters_zoo")))
    return _build(sorted([*root.glob("tasks/*.yaml"), *root.glob("suites/*.yaml")]), Catalogue({}, {}))


def _build(files: Iterable[Path], base: Catalogue, replaced: Iterable[str] = ()) -> Catalogue:
    errors: list[str] = []
    tasks, suites = dict(base.tasks), dict(base.suites)
    again = set(replaced)
    for file in files:
        content = _read(file, errors)
        if content is None:
            continue
        if "tasks" in content:
            suite = _validated(Suite, content, file, errors)
            if suite is not None and _is_new(suite.name, suites, "suite", file, errors):
                suites[suite.name] = suite
        else:
            task = _validated(TaskSpec, content, file, errors)
            if task is not None and task.name in again:
                again.remove(task.name)
                del tasks[task.name]
            if task is not None:
                errors += [f"{file.name}: {problem}" for problem in _column_errors(task)]
                if _is_new(task.name, tasks, "task", file, errors):
                    tasks[task.name] = _rooted(task, file.parent)
    if not errors:
        errors += _references(tasks, suites)
    if errors:
        raise CatalogueError("\n".join(errors))
    return Catalogue(dict(sorted(tasks.items())), dict(sorted(suites.items())))


def _read(file: Path, errors: list[str]) -> dict[str, Any] | None:
    try:
        content = yaml.load(file.read_bytes(), Loader=_LOADER)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        errors.append(f"{file.name}{place}: not YAML ({problem})")
        return None
    if not isinstance(content, dict):
        errors.append(f"{file.name}: saw {type(content).__name__}; a task file is a mapping with name, kind and rows")
        return None
    return content


def _validated(model: type[Any], content: dict[str, Any], file: Path, errors: list[str]) -> Any:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        for problem in error.errors():
            field = ".".join(str(part) for part in problem["loc"]) or "task"
            message = problem["msg"]
            if problem["type"] == "extra_forbidden":
                message = "unknown key" + suggest(str(problem["loc"][-1]), model.model_fields)
            errors.append(f"{file.name}: {field}: {message} (saw {_show(problem.get('input'))})")
        return None


def _column_errors(task: TaskSpec) -> list[str]:
    known = [name.removesuffix("?") for name in task.kind.columns]
    needed = task.kind.required
    errors = []
    for position, rows in enumerate(task.rows):
        place = f"rows.{position}.columns"
        for name, declared in rows.columns.items():
            if name not in known:
                errors.append(f"{place}: a {task.kind} task has no column {name!r}; columns: {', '.join(known)}")
                continue
            try:
                parse_expression(declared)
            except ValueError as error:
                errors.append(f"{place}.{name}: {error}")
        lacking = [name for name in needed if name not in rows.columns]
        if lacking and not (isinstance(rows, ArchiveRows) and not rows.columns):
            errors.append(f"{place}: {', '.join(lacking)} missing; say which of the data's columns to read")
    return errors


def _references(tasks: Mapping[str, TaskSpec], suites: Mapping[str, Suite]) -> list[str]:
    wanted = [(f"suite {s.name}: tasks", name) for s in suites.values() for name in s.tasks]
    wanted += [(f"task {t.name}: overlaps", name) for t in tasks.values() for name in t.overlaps]
    return [f"{place}: no task {name!r}{suggest(name, tasks)}" for place, name in wanted if name not in tasks]


def _is_new(name: str, held: Mapping[str, Any], noun: str, file: Path, errors: list[str]) -> bool:
    if name in held:
        errors.append(f"{file.name}: name: there is already a {noun} {name!r}; choose another name")
    return name not in held


def _rooted(task: TaskSpec, folder: Path) -> TaskSpec:
    """Makes the paths of a task's own files absolute, seen from the folder of its YAML file."""
    if not any(isinstance(rows, FileRows) for rows in task.rows):
        return task
    rooted = []
    for rows in task.rows:
        if isinstance(rows, FileRows):
            paths = {"train": str((folder / Path(rows.train).expanduser()).resolve())}
            if rows.validation:
                paths["validation"] = str((folder / Path(rows.validation).expanduser()).resolve())
            rows = rows.model_copy(update=paths)
        rooted.append(rows)
    return task.model_copy(update={"rows": tuple(rooted)})


def _show(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
