"""Options that several commands share: dataclasses whose fields become options of every command that takes them."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from adaptmtl.cli.counts import row_count
from adaptmtl.cli.layout import GENERAL, TRAINING
from adaptmtl.cli.reporter import make_reporter
from adaptmtl.workspace import Workspace

if TYPE_CHECKING:
    from adaptmtl.selection.budget import Budget
    from adaptmtl.tasks.catalogue import Catalogue
    from adaptmtl.training.setup import Setup

Target = Annotated[
    str | None,
    typer.Option(
        "--target", help="Task to do well on (see: adaptmtl tasks list), or a file of your rows.", metavar="TASK"
    ),
]
Sources = Annotated[
    str, typer.Option("--sources", help="Comma-separated source tasks; auto: choose by estimate.", metavar="A,B|auto")
]
Allowed = Annotated[
    str | None,
    typer.Option(
        "--budget",
        help="What choosing sources may cost: seconds (30s, 5m), a share of trying each source once (2%), or a number "
        "of trial trainings (8).",
        metavar="X",
        show_default="6 trial trainings",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of row order, head and dropout.", min=0, metavar="N")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=GENERAL)]
Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        help="Folder of all products, such as the zoo; else ADAPTMTL_HOME, else ~/.cache/adaptmtl.",
        file_okay=False,
        metavar="DIR",
        rich_help_panel=GENERAL,
    ),
]


def _general(flag: str, help: str, **facts: Any) -> Any:
    return typer.Option(flag, help=help, rich_help_panel=GENERAL, **facts)


def _training(flag: str, help: str, **facts: Any) -> Any:
    return typer.Option(flag, help=help, rich_help_panel=TRAINING, **facts)


@dataclass(frozen=True)
class General:
    """Where products live, and how much is said."""

    home: Home = None
    offline: Annotated[bool, _general("--offline", "Never touch the network; else ADAPTMTL_OFFLINE.")] = False
    quiet: Annotated[bool, _general("--quiet", "No progress on stderr, only the result on stdout.")] = False
    json: AsJson = False

    def workspace(self) -> Workspace:
        """Returns the workspace that these options name, with progress on stderr."""
        workspace = Workspace(reporter=make_reporter(self.quiet))
        workspace = replace(workspace, home=self.home or workspace.home, offline=self.offline or workspace.offline)
        if workspace.offline:  # before the Hub's client is imported, which reads these once
            os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
        return workspace


@dataclass(frozen=True)
class Data(General):
    """The same, and where tasks and their rows may come from."""

    mirror: Annotated[
        Path | None,
        _general(
            "--mirror",
            "Folder of data sets in the Hub's layout; else ADAPTMTL_MIRROR.",
            exists=True,
            file_okay=False,
            metavar="DIR",
        ),
    ] = None
    task_file: Annotated[
        Path | None, _general("--task-file", "YAML file or folder with tasks of your own.", metavar="PATH")
    ] = None

    def workspace(self) -> Workspace:
        """Returns the workspace that these options name, with progress on stderr."""
        workspace = super().workspace()
        return replace(workspace, mirror=self.mirror or workspace.mirror)

    def catalogue(self) -> Catalogue:
        """Returns the tasks and suites that ship, those added to the workspace, and those of ``--task-file``."""
        from adaptmtl.tasks.own import known_tasks

        return known_tasks(self.workspace(), self.task_file)


@dataclass(frozen=True)
class Training:
    """Backbone, rows and recipe; the defaults are those of :class:`adaptmtl.training.recipe.Recipe`."""

    backbone: Annotated[
        str,
        _training(
            "--backbone",
            "Frozen encoder: minilm (all-MiniLM-L6-v2, from the package index), a folder, or a Hub id.",
            metavar="NAME",
        ),
    ] = "minilm"
    rows: Annotated[
        int | None,
        _training(
            "--rows",
            "Training rows per task, at most, such as 64 or 1k; all without it.",
            parser=row_count,
            metavar="N",
        ),
    ] = None
    eval_rows: Annotated[
        int | None,
        _training("--eval-rows", "Validation rows per task, at most; all without it.", parser=row_count, metavar="N"),
    ] = None
    row_source: Annotated[
        str, _training("--row-source", "Where rows come from: auto, hub, mirror, archive or file.", metavar="NAME")
    ] = "auto"
    max_length: Annotated[
        int, _training("--max-length", "Longest input in tokens; the rest is cut.", min=8, metavar="N")
    ] = 128
    epochs: Annotated[
        float | None,
        _training(
            "--epochs", "Passes over the training rows; without it 3, or more if that is below 48 steps.", metavar="X"
        ),
    ] = None
    steps: Annotated[int | None, _training("--steps", "Optimiser steps, in place of --epochs.", min=1, metavar="N")] = (
        None
    )
    batch_size: Annotated[int, _training("--batch-size", "Rows per step.", min=1, metavar="N")] = 32
    learning_rate: Annotated[
        float,
        _training(
            "--learning-rate",
            "Peak, of the adapter (AdamW); a head's is three times that, a regression's the same.",
            metavar="X",
        ),
    ] = 3e-3
    rank: Annotated[int, _training("--rank", "Inner dimension r of the LoRA.", min=1, metavar="N")] = 8
    alpha: Annotated[float, _training("--alpha", "LoRA scale is alpha / rank.", metavar="X")] = 16.0
    lower_layers: Annotated[
        int | None,
        _training(
            "--lower-layers",
            "Layers from the bottom without adapter, computed once and cached; a sixth of the depth without it.",
            min=0,
            metavar="N",
        ),
    ] = None

    def setup(self, general: Data, target: str | None = None) -> Setup:
        """Returns the library's settings for these options, and says what is to be known of the target's rows.

        Raises:
            AdaptMTLError: a value is out of range, or the backbone or task file cannot be used.
        """
        catalogue = general.catalogue()  # wrong task files are told before the slow imports
        from adaptmtl.adapters.methods import LoraMethod
        from adaptmtl.training.recipe import Encoding, Recipe
        from adaptmtl.training.setup import make_setup

        recipe = Recipe(
            method=LoraMethod(rank=self.rank, alpha=self.alpha),
            lower_layers=self.lower_layers,
            steps=self.steps,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
        )
        made = make_setup(
            self.backbone,
            workspace=general.workspace(),
            recipe=recipe,
            encoding=Encoding(max_length=self.max_length),
            catalogue=catalogue,
            row_source=self.row_source,
            eval_rows=self.eval_rows,
        )
        for note in made.data(target, self.rows).notes if target else ():
            made.workspace.reporter.say(f"{target}: {note}")
        return made


@dataclass(frozen=True)
class Admission:
    """Which sources may be used."""

    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Use sources that hold texts of evaluation rows too, and say so.")
    ] = False
    refuse_licence: Annotated[
        str | None,
        typer.Option(
            "--refuse-licence",
            help="Comma-separated parts of licences, such as nc,unstated; sources with such data are left out.",
            metavar="A,B",
        ),
    ] = None

    def admit(self, setup: Setup) -> Setup:
        """Returns the settings with these rules."""
        return replace(
            setup, allow_overlap=self.allow_overlap, refused_licences=tuple(names(self.refuse_licence or ""))
        )


def names(text: str) -> list[str]:
    """Splits a comma-separated list, leaving out blanks and repeats."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def auto_or_names(text: str) -> Literal["auto"] | list[str]:
    """Returns "auto", or the names of a comma-separated list."""
    return "auto" if text.strip().lower() == "auto" else names(text)


def budget_of(text: str | None) -> Budget:
    """Returns the budget that an option names, or the default.

    Raises:
        SelectionError: it is no budget.
    """
    from adaptmtl.selection.budget import DEFAULT_BUDGET, Budget

    return DEFAULT_BUDGET if text is None else Budget.parse(text)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Makes a command's dataclass parameters (:class:`General`, :class:`Training`) into one option per field."""
    types = get_type_hints(command, include_extras=True)
    bundles: dict[str, Any] = {name: kind for name, kind in types.items() if is_dataclass(kind)}
    own = [one for name, one in inspect.signature(command).parameters.items() if name not in bundles]
    parameters = [one.replace(annotation=types[one.name]) for one in own]
    for bundle in bundles.values():
        hints = get_type_hints(bundle, include_extras=True)
        parameters += [_parameter(field.name, field.default, hints[field.name]) for field in fields(bundle)]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        made = {
            name: bundle(**{field.name: values.pop(field.name) for field in fields(bundle)})
            for name, bundle in bundles.items()
        }
        command(**values, **made)

    keyword_only = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    run.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
