"""``adaptmtl fuse``: one adapter for the target, out of several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from adaptmtl.cli import render
from adaptmtl.cli.data import OwnData
from adaptmtl.cli.options import Seed, Sources, Target, Training, auto_or_names, with_options

if TYPE_CHECKING:
    from adaptmtl.fusion.fuse import Fused

EXAMPLES = """
adaptmtl fuse --target boolq --sources auto --rows 1000 --name boolq-fused
adaptmtl fuse --target boolq --sources trec,disfl_qa --method joint
"""


@with_options
def fuse(
    general: OwnData,
    training: Training,
    target: Target = None,
    sources: Sources = "auto",
    method: Annotated[str, typer.Option("--method", help="merge, scalearn or joint.", metavar="NAME")] = "merge",
    name: Annotated[
        str | None,
        typer.Option("--name", help="Alias of the new adapter in the zoo.", metavar="NAME", show_default=False),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Make one adapter for a target out of related sources; of the target alone when none is expected to help."""
    target = general.target(target)
    setup = training.setup(general)
    from adaptmtl.fusion.fuse import fuse as make

    result = make(
        setup, target, sources=auto_or_names(sources), method=method, rows=training.rows, seed=seed, name=name
    )
    if general.json:
        render.print_json(result)
    else:
        _print(result, name)


def _print(result: Fused, alias: str | None) -> None:
    console = render.console()
    console.print(result.summary + "\n")
    if result.reasons:
        table = render.table("source", "used", "why", elastic="why")
        for source, reason in result.reasons.items():
            table.add_row(source, "yes" if source in result.sources else "no", reason)
        console.print(table)
        console.print()
    entry = result.entry
    score = render.figure(entry.metrics, entry.metric)
    console.print(
        render.facts(
            {
                "adapter": f"{entry.name} ({alias})" if alias and alias != entry.name else entry.name,
                "method": result.method,
                entry.metric: score,
                "took": render.seconds(result.seconds),
                "folder": entry.path,
            }
        ),
        soft_wrap=True,
    )
