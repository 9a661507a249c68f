"""What the steps of one experiment share: workspace, backbone, recipe, encoding, and where rows come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from adaptmtl.backbone.load import DEFAULT_BACKBONE, Backbone, resolve
from adaptmtl.backbone.precision import default_dtype
from adaptmtl.errors import AdaptMTLError
from adaptmtl.registry import name_list
from adaptmtl.storage import key_of
from adaptmtl.tasks.catalogue import Catalogue, load_catalogue
from adaptmtl.tasks.own import known_tasks
from adaptmtl.tasks.spec import FileRows, TaskSpec
from adaptmtl.training.data import TaskData, prepare_task
from adaptmtl.training.recipe import Encoding, Recipe
from adaptmtl.workspace import Workspace

CODE_VERSION = 5

#: Tasks that a process keeps at once: each holds its rows, and tokens and states as open files.
MOST_LOADED = 12
#: Tasks loaded by this process, those used last at the end; rows and tokens are shared by all recipes.
_LOADED: dict[tuple, TaskData] = {}


@dataclass(frozen=True)
class Setup:
    """Settings of one experiment.

    Attributes:
        workspace: products, mirror, network, progress.
        backbone: the frozen encoder of all adapters.
        recipe: training choices, for sources and target alike.
        encoding: how rows become tokens.
        catalogue: known tasks and suites.
        row_source: "auto", or one of hub, mirror, archive, file.
        eval_rows: at most so many validation rows; None for all.
        allow_overlap: use sources whose training rows hold texts of the target's evaluation rows; every output says so.
        refused_licences: parts of licences ("nc", "unstated"); sources whose data's licence holds one are left out.
    """

    workspace: Workspace
    backbone: Backbone
    recipe: Recipe = field(default_factory=Recipe)
    encoding: Encoding = field(default_factory=Encoding)
    catalogue: Catalogue = field(default_factory=load_catalogue)
    row_source: str = "auto"
    eval_rows: int | None = None
    allow_overlap: bool = False
    refused_licences: tuple[str, ...] = ()

    def data(self, task: str, rows: int | None = None) -> TaskData:
        """Returns a task's rows, at most ``rows`` for training; the last ones are kept by the process.

        Raises:
            UnknownNameError: no such task.
            DataError: rows are missing or malformed.
        """
        spec = self.catalogue.task(task)
        parts = (self.workspace, self.backbone.hash, spec.model_dump_json(), self.encoding, self.row_source)
        key = (*parts, self.eval_rows, rows, _stamps(spec))
        data = _LOADED.pop(key, None) or prepare_task(
            self.workspace, self.backbone, spec, self.encoding, rows=rows, eval_rows=self.eval_rows,
            source=self.row_source,
        )  # fmt: skip
        _LOADED[key] = data
        while len(_LOADED) > MOST_LOADED:
            del _LOADED[next(iter(_LOADED))]
        return data

    def with_steps(self, steps: int) -> Setup:
        """Returns the same settings with a fixed number of optimiser steps."""
        return replace(self, recipe=replace(self.recipe, steps=steps))

    def key(self, step: str, **parts: object) -> str:
        """Returns the key of a product that depends on these settings and on the given parts."""
        return key_of(
            step=step, version=CODE_VERSION, backbone=self.backbone.hash, recipe=self.recipe.to_dict(),
            lower_layers=self.recipe.layers_below(self.backbone),
            max_length=self.encoding.fitted(self.backbone).max_length,
            stride=self.encoding.stride, dtype=str(default_dtype()), **parts,
        )  # fmt: skip


def _stamps(spec: TaskSpec) -> tuple[tuple[int, int] | None, ...]:
    """Returns times of change and sizes of a person's own files, which may be edited while a process runs."""
    paths = [Path(name).expanduser() for one in spec.rows if isinstance(one, FileRows)
             for name in (one.train, one.validation) if name]  # fmt: skip
    return tuple((path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None for path in paths)


def make_setup(
    backbone: str = DEFAULT_BACKBONE,
    *,
    workspace: Workspace | None = None,
    recipe: Recipe | None = None,
    encoding: Encoding | None = None,
    catalogue: Catalogue | None = None,
    task_file: str | Path | None = None,
    row_source: str = "auto",
    eval_rows: int | None = None,
    allow_overlap: bool = False,
    refused_licences: Sequence[str] = (),
) -> Setup:
    """Makes the settings of an experiment, every part with a default.

    Args:
        backbone: embedded name ("minilm"), folder or Hub id.
        workspace: by default the one that the environment names.
        recipe: training choices.
        encoding: token lengths.
        catalogue: known tasks, by default those that ship, those kept in the workspace and those of ``task_file``.
        task_file: YAML file or folder with tasks and suites of your own.
        row_source: "auto", or one of hub, mirror, archive, file.
        eval_rows: at most so many validation rows.
        allow_overlap: use sources whose training rows hold texts of the target's evaluation rows; every output says so.
        refused_licences: parts of licences ("nc", "unstated"); sources whose data's licence holds one are left out.

    Raises:
        AdaptMTLError: both ``catalogue`` and ``task_file`` are given.
        CatalogueError: a task file is wrong.
        UnknownNameError: no such backbone.
        BackboneError: the backbone is refused or broken.
        OfflineError: it would have to be fetched and cannot be.
    """
    workspace = workspace or Workspace()
    if catalogue is not None and task_file is not None:
        raise AdaptMTLError(f"task_file is {str(task_file)!r} and a catalogue is given as well: give one of them")
    return Setup(
        workspace=workspace,
        backbone=resolve(backbone, workspace),
        recipe=recipe or Recipe(),
        encoding=encoding or Encoding(),
        catalogue=catalogue or known_tasks(workspace, Path(task_file) if task_file is not None else None),
        row_source=row_source,
        eval_rows=eval_rows,
        allow_overlap=allow_overlap,
        refused_licences=tuple(name_list(refused_licences, "refused_licences")),
    )
