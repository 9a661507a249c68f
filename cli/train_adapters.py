"""``adaptmtl train-adapters``: one adapter per task, into the zoo."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptmtl.cli import render
from adaptmtl.cli.data import OwnData
from adaptmtl.cli.options import Training, names, with_options
from adaptmtl.errors import AdaptMTLError

EXAMPLES = """
adaptmtl train-adapters --suite embedded --rows 1000 --epochs 3
adaptmtl train-adapters --tasks trec,sms_spam --seeds 3
"""


@with_options
def train_adapters(
    general: OwnData,
    training: Training,
    tasks: Annotated[str, typer.Option("--tasks", help="Comma-separated tasks.", metavar="A,B")] = "",
    suite: Annotated[
        str | None, typer.Option("--suite", help="All tasks of a suite; see: adaptmtl tasks list.", metavar="NAME")
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", help="Adapters per task, with seeds 0, 1, ...", min=1, metavar="N")
    ] = 1,
) -> None:
    """Train one adapter per task and keep it in the zoo; those that are there are not trained again."""
    if suite is None and not names(tasks) and general.data is None:
        raise AdaptMTLError(
            "no tasks given: name some with --tasks a,b or a suite with --suite embedded, "
            "or give your own rows with --data FILE"
        )
    catalogue = general.catalogue()
    own = [general.own_task()] if general.data is not None else []
    wanted = list(dict.fromkeys([*(catalogue.suite(suite) if suite is not None else ()), *names(tasks), *own]))
    for name in wanted:
        catalogue.task(name)
    setup = training.setup(general)
    from adaptmtl.zoo.build import train_adapters as train

    entries = train(setup, wanted, rows=training.rows, seeds=seeds)
    if general.json:
        render.print_json(entries)
        return
    counts = ("evaluation rows", "training rows")
    table = render.table("adapter", "metric", "score [95%]", *counts, right=counts)
    for one in entries:
        n = render.plain(one.metrics.get(one.metric) or {}).get("n")
        score = render.figure(one.metrics, one.metric)
        table.add_row(one.name, one.metric, score, render.count(n), render.count(one.train_rows))
    render.console().print(table)
