"""``adaptmtl tasks``: what tasks and suites there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from adaptmtl.cli import render
from adaptmtl.cli.layout import CONTEXT, Command, Group
from adaptmtl.cli.options import Data, with_options
from adaptmtl.errors import UnknownNameError

if TYPE_CHECKING:
    from adaptmtl.tasks.spec import RowSource, TaskSpec

app = typer.Typer(
    cls=Group,
    context_settings=CONTEXT,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Tasks and suites.",
    epilog="adaptmtl tasks list --suite embedded",
)


@app.command("list", cls=Command, epilog="adaptmtl tasks list --suite embedded\nadaptmtl tasks list --kind regression")
@with_options
def list_tasks(
    general: Data,
    suite: Annotated[str | None, typer.Option("--suite", help="Only tasks of this suite.", metavar="NAME")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Only tasks of this kind.", metavar="NAME")] = None,
) -> None:
    """List the tasks that are known, with kind, metric and language."""
    from adaptmtl.tasks.spec import Kind

    catalogue = general.catalogue()
    if kind is not None and kind not in list(Kind):
        raise UnknownNameError("kind", kind, list(Kind), f"known: {', '.join(Kind)}")
    chosen = catalogue.suite(suite) if suite is not None else tuple(catalogue.tasks)
    tasks = [catalogue.task(name) for name in chosen]
    tasks = [task for task in tasks if kind is None or task.kind == kind]
    if general.json:
        suites = {name: one.tasks for name, one in catalogue.suites.items()}
        render.print_json({"tasks": [_summary(task) for task in tasks], "suites": suites})
        return
    console = render.console()
    table = render.table("task", "kind", "metric", "lang", "description", elastic="description")
    for task in tasks:
        table.add_row(task.name, str(task.kind), task.main_metric, task.language, task.description)
    console.print(table)
    console.print(f"\n{len(tasks)} tasks. Suites: {', '.join(catalogue.suites)}", soft_wrap=True)


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
                "overlaps": ", ".join(task.overlaps),
                "suites": ", ".join(suites),
            }
        )
    )


def _summary(task: TaskSpec) -> dict[str, object]:
    return {
        "name": task.name,
        "kind": task.kind,
        "metric": task.main_metric,
        "language": task.language,
        "licence": task.licence,
        "description": task.description,
    }


def _origin(rows: RowSource) -> str:
    if rows.type == "hub":
        return f"hub {rows.id}{f' ({rows.config})' if rows.config else ''}"
    if rows.type == "archive":
        return f"archive {rows.package} {rows.version}"
    return f"file {rows.train}"
