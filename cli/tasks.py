"""``adaptmtl tasks``: what tasks and suites there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptmtl.cli import render
from adaptmtl.cli.data import OwnDataUnkept
from adaptmtl.cli.description import render_description
from adaptmtl.cli.layout import CONTEXT, Command, Group
from adaptmtl.cli.options import Data, General, names, with_options
from adaptmtl.errors import DataError, OfflineError, UnknownNameError

if TYPE_CHECKING:
    from adaptmtl.tasks.catalogue import Catalogue
    from adaptmtl.tasks.spec import RowSource, TaskSpec


class _Tasks(Group):
    """Lists the tasks where no command is named: ``adaptmtl tasks --kind regression``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts ``list`` before options, and where there is nothing."""
        if not args or (args[0].startswith("-") and args[0] not in CONTEXT["help_option_names"]):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Tasks,
    context_settings=CONTEXT,
    rich_markup_mode=None,
    help="Tasks and suites; your own tasks. Without a command: list.",
    epilog="adaptmtl tasks --suite embedded",
)


@app.command(
    "list",
    cls=Command,
    epilog="adaptmtl tasks list --suite embedded\nadaptmtl tasks list --kind regression --language en --verified",
)
@with_options
def list_tasks(
    general: Data,
    suite: Annotated[str | None, typer.Option("--suite", help="Only tasks of this suite.", metavar="NAME")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Only tasks of this kind.", metavar="NAME")] = None,
    language: Annotated[
        str | None, typer.Option("--language", help="Only tasks in this language, such as en.", metavar="CODE")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", help="Only tasks whose licence holds this text.", metavar="TEXT")
    ] = None,
    verified: Annotated[
        bool, typer.Option("--verified", help="Only tasks whose rows were loaded and counted.")
    ] = False,
) -> None:
    """List the tasks that are known, with kind, metric and language."""
    from adaptmtl.tasks.kind import kinds

    catalogue = general.catalogue()
    if kind is not None:
        kinds[kind]
    languages = {task.language for task in catalogue.tasks.values()}
    if language is not None and language not in languages:
        raise UnknownNameError("language", language, languages, f"known: {', '.join(sorted(languages))}")
    chosen = catalogue.suite(suite) if suite is not None else tuple(catalogue.tasks)
    tasks = [
        task
        for task in map(catalogue.task, chosen)
        if (kind is None or task.kind == kind)
        and (language is None or task.language == language)
        and (licence is None or licence.lower() in task.licence.lower())
        and (not verified or task.verified is not None)
    ]
    if general.json:
        suites = {name: one.tasks for name, one in catalogue.suites.items()}
        missing = {name: dict(one.missing) for name, one in catalogue.suites.items() if one.missing}
        render.print_json({"tasks": [_summary(task) for task in tasks], "suites": suites, "missing": missing})
        return
    console = render.console()
    table = render.table(
        "task", "kind", "metric", "lang", "rows", "description", right=("rows",), elastic="description"
    )
    for task in tasks:
        rows = render.count(task.verified.train) if task.verified else render.NONE
        table.add_row(task.name, str(task.kind), task.main_metric, task.language, rows, task.description)
    console.print(table)
    count = sum(task.verified is not None for task in tasks)
    console.print(
        f"\n{len(tasks)} tasks, {count} with training rows that were loaded and counted. "
        f"Suites: {', '.join(catalogue.suites)}",
        soft_wrap=True,
    )
    if suite is not None and (missing := catalogue.suites[suite].missing):
        console.print(
            f"{suite} has {catalogue.suites[suite].size} of the published list; not declared:", soft_wrap=True
        )
        for name, why in missing.items():
            console.print(f"  {name}: {why}", soft_wrap=True)


@app.command("show", cls=Command, epilog="adaptmtl tasks show boolq")
@with_options
def show_task(general: Data, name: Annotated[str, typer.Argument(help="Name of a task.", metavar="NAME")]) -> None:
    """Show a task: labels, metric, where its rows come from, what it shares rows with."""
    catalogue = general.catalogue()
    task = catalogue.task(name)
    suites = [suite.name for suite in catalogue.suites.values() if name in suite.tasks]
    if general.json:
        render.print_json({**task.model_dump(mode="json"), "metric": task.main_metric, "suites": suites})
        return
    labels = task.label_names or ()
    console = render.console()
    console.print(
        render.facts(
            {
                "task": task.name,
                "kind": task.kind,
                "about": task.description,
                "metric": task.main_metric,
                "labels": f"{len(labels)}: {', '.join(labels)}" if labels else "",
                "language": task.language,
                "licence": task.licence,
                "rows": "\n".join(_origin(rows) for rows in task.rows),
                "verified": _verified(task),
                "group": task.group,
                "overlaps": ", ".join(task.overlaps),
                "suites": ", ".join(suites),
            }
        )
    )


@app.command("add", cls=Command, epilog="adaptmtl tasks add my.yaml")
@with_options
def add_task(
    general: General,
    source: Annotated[Path, typer.Argument(help="Task file, or a folder of them.", metavar="PATH")],
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite tasks that were added before.")] = False,
) -> None:
    """Check a task file and keep it, so that later commands know the task by its name."""
    from adaptmtl.tasks.own import add_tasks

    added = add_tasks(general.workspace(), source, replace=replace)
    if general.json:
        render.print_json({"added": [task.name for task in added]})
        return
    for task in added:
        print(f"added {task.name} ({task.kind}); see its rows with: adaptmtl tasks check {task.name}")


@app.command("remove", cls=Command, epilog="adaptmtl tasks remove mine")
@with_options
def remove(general: General, name: Annotated[str, typer.Argument(help="Task that was added.", metavar="NAME")]) -> None:
    """Forget a task that was added; its rows and adapters stay."""
    from adaptmtl.tasks.own import remove_task

    remove_task(general.workspace(), name)
    if general.json:
        render.print_json({"removed": name})
    else:
        print(f"removed {name}")


@app.command(
    "check",
    cls=Command,
    epilog="adaptmtl tasks check boolq --against glue\nadaptmtl tasks check --data my.csv",
)
@with_options
def check_task(
    general: OwnDataUnkept,
    name: Annotated[str | None, typer.Argument(help="Name of a task, or a file of your rows.", metavar="NAME")] = None,
    backbone: Annotated[
        str, typer.Option("--backbone", help="Whose tokens are counted: minilm, a folder or Hub id.", metavar="NAME")
    ] = "minilm",
    max_length: Annotated[int, typer.Option("--max-length", help="Longest input in tokens.", min=8, metavar="N")] = 128,
    row_source: Annotated[
        str,
        typer.Option("--row-source", help="Where rows come from: auto, hub, mirror, archive, file.", metavar="NAME"),
    ] = "auto",
    against: Annotated[
        str,
        typer.Option(
            "--against",
            help="Tasks or suites whose training rows are searched for its validation texts.",
            metavar="A,B",
        ),
    ] = "",
) -> None:
    """Load a task's rows and show counts, balance, lengths, duplicates, shared texts and an example."""
    general, wanted = general.target(name)
    catalogue, workspace = general.catalogue(), general.workspace()
    spec, others = catalogue.task(wanted), [one for one in _tasks_of(against, catalogue) if one != wanted]
    from adaptmtl.backbone.load import resolve
    from adaptmtl.tasks.describe import describe
    from adaptmtl.tasks.load import load_rows
    from adaptmtl.tasks.overlap import overlapping, shared, sketch_of

    loaded = load_rows(spec, workspace, row_source)
    found = describe(loaded, resolve(backbone, workspace).tokenizer, max_length)
    declared = overlapping(spec, catalogue.tasks)
    leaks: dict[str, float | None] = {}
    sketched = sketch_of(workspace, loaded.validation) if others else None
    for other in workspace.reporter.track(others, "comparing texts", len(others)):
        try:
            train = load_rows(catalogue.task(other), workspace, row_source).train
        except (DataError, OfflineError) as error:
            workspace.reporter.say(f"{other}: not compared, its rows are not at hand ({error})")
            leaks[other] = None
        else:
            assert sketched is not None
            leaks[other] = shared(sketch_of(workspace, train), sketched).any
    if general.json:
        render.print_json({**found.to_dict(), "declared_overlaps": declared, "overlaps": leaks})
    else:
        render_description(found, declared, leaks)


def _tasks_of(text: str, catalogue: Catalogue) -> list[str]:
    """The tasks of a list of tasks and suites, once each."""
    given = [catalogue.suite(one) if one in catalogue.suites else (catalogue.task(one).name,) for one in names(text)]
    return list(dict.fromkeys(task for tasks in given for task in tasks))


def _summary(task: TaskSpec) -> dict[str, object]:
    return {
        "name": task.name,
        "kind": task.kind,
        "metric": task.main_metric,
        "language": task.language,
        "licence": task.licence,
        "description": task.description,
        "verified": task.verified.model_dump() if task.verified else None,
    }


def _verified(task: TaskSpec) -> str:
    facts = task.verified
    if facts is None:
        return "no: declared only, its rows were not loaded by us"
    return f"{facts.date}, {facts.source}: {facts.train:,} training and {facts.validation:,} validation rows"


def _origin(rows: RowSource) -> str:
    if rows.type == "hub":
        config, commit = f" ({rows.config})" if rows.config else "", f" at {rows.revision}" if rows.revision else ""
        return f"hub {rows.id}{config}{commit}"
    if rows.type == "archive":
        return f"archive {rows.package} {rows.version}"
    return f"file {rows.train}"
