"""What the steps of one experiment share: workspace, backbone, recipe, encoding, and where rows come from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

from adaptmtl.backbone.load import DEFAULT_BACKBONE, Backbone, resolve
from adaptmtl.backbone.precision import default_dtype
from adaptmtl.storage import key_of
from adaptmtl.tasks.catalogue import Catalogue, load_catalogue
from adaptmtl.training.data import TaskData, prepare_task
from adaptmtl.training.recipe import Encoding, Recipe
from adaptmtl.workspace import Workspace

CODE_VERSION = 1


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
    """

    workspace: Workspace
    backbone: Backbone
    recipe: Recipe = field(default_factory=Recipe)
    encoding: Encoding = field(default_factory=Encoding)
    catalogue: Catalogue = field(default_factory=load_catalogue)
    row_source: str = "auto"
    eval_rows: int | None = None

    def data(self, task: str, rows: int | None = None) -> TaskData:
        """Returns a task's rows, at most ``rows`` for training; loaded once per process.

        Raises:
            UnknownNameError: no such task.
            DataError: rows are missing or malformed.
        """
        return _data(self, task, rows)

    def with_steps(self, steps: int) -> Setup:
        """Returns the same settings with a fixed number of optimiser steps."""
        return replace(self, recipe=replace(self.recipe, steps=steps))

    def key(self, step: str, **parts: object) -> str:
        """Returns the key of a product that depends on these settings and on the given parts."""
        return key_of(
            step=step, version=CODE_VERSION, backbone=self.backbone.hash, recipe=self.recipe.to_dict(),
            lower_layers=self.recipe.layers_below(self.backbone), max_length=self.encoding.fitted(self.backbone).max_length,
            stride=self.encoding.stride, dtype=str(default_dtype()), **parts,
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash((self.workspace, self.backbone.hash, self.recipe, self.encoding, self.row_source, self.eval_rows))


def make_setup(
    backbone: str = DEFAULT_BACKBONE,
    *,
    workspace: Workspace | None = None,
    recipe: Recipe | None = None,
    encoding: Encoding | None = None,
    catalogue: Catalogue | None = None,
    row_source: str = "auto",
    eval_rows: int | None = None,
) -> Setup:
    """Makes the settings of an experiment, every part with a default.

    Args:
        backbone: embedded name ("minilm"), folder or Hub id.
        workspace: by default the one that the environment names.
        recipe: training choices.
        encoding: token lengths.
        catalogue: known tasks, by default those that ship.
        row_source: "auto", or one of hub, mirror, archive, file.
        eval_rows: at most so many validation rows.

    Raises:
        UnknownNameError: no such backbone.
        BackboneError: the backbone is refused or broken.
        OfflineError: it would have to be fetched and cannot be.
    """
    workspace = workspace or Workspace()
    return Setup(
        workspace=workspace,
        backbone=resolve(backbone, workspace),
        recipe=recipe or Recipe(),
        encoding=encoding or Encoding(),
        catalogue=catalogue or load_catalogue(),
        row_source=row_source,
        eval_rows=eval_rows,
    )


@lru_cache(maxsize=256)
def _data(setup: Setup, task: str, rows: int | None) -> TaskData:
    return prepare_task(
        setup.workspace, setup.backbone, setup.catalogue.task(task), setup.encoding,
        rows=rows, eval_rows=setup.eval_rows, source=setup.row_source,
    )  # fmt: skip
