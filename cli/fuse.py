"""``adaptmtl fuse``: one adapter for the target, out of several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from adaptmtl.cli import render
from adaptmtl.cli.data import OwnData
from adaptmtl.cli.options import (
    Admission,
    Allowed,
    Seed,
    Sources,
    Target,
    Training,
    auto_or_names,
    budget_of,
    with_options,
)

if TYPE_CHECKING:
    from adaptmtl.fusion.fuse import Fused
    from adaptmtl.selection.planner import Choice

EXAMPLES = """
adaptmtl fuse --target boolq --sources auto --rows 1000 --name boolq-fused
adaptmtl fuse --target boolq --sources auto --budget 2%
adaptmtl fuse --target boolq --sources trec,disfl_qa --method joint
"""


@with_options
def fuse(
    general: OwnData,
    training: Training,
    admission: Admission,
    target: Target = None,
    sources: Sources = "auto",
    method: Annotated[str, typer.Option("--method", help="merge, scalearn or joint.", metavar="NAME")] = "merge",
    name: Annotated[
        str | None,
        typer.Option("--name", help="Alias of the new adapter in the zoo.", metavar="NAME", show_default=False),
    ] = None,
    budget: Allowed = None,
    seed: Seed = 0,
) -> None:
    """Make one adapter for a target out of related sources; of the target alone when none is expected to help."""
    general, target = general.target(target)
    allowed = budget_of(budget)
    setup = admission.admit(training.setup(general, target))
    from adaptmtl.fusion.fuse import fuse as make

    result = make(
        setup,
        target,
        sources=auto_or_names(sources),
        method=method,
        rows=training.rows,
        seed=seed,
        name=name,
        budget=allowed,
    )
    if general.json:
        render.print_json(result)
    else:
        _print(result, name)


def _print(result: Fused, alias: str | None) -> None:
    console = render.console()
    console.print(result.summary + "\n")
    if result.choice.table is not None:
        _print_choice(result.choice)
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


def _print_choice(choice: Choice) -> None:
    """Prints what was expected of sources and of sets, and what the trial showed."""
    assert choice.table is not None
    console = render.console()
    tried = {one.sources: one for one in choice.trial.tried}
    titles = ("expected gain [90%]", "tried", "held-out score (alone)", "gain after the trial [90%]")
    table = render.table("sources", *titles, right=titles[1:], elastic="sources", wrap=True)
    for names, gain in choice.sets:
        row = [str(gain), "", "", ""]
        if (one := tried.get(names)) is not None:
            seeds = len(one.scores)  # every seed has other rows: the target alone is shown on the same ones
            own, alone = (sum(scores[:seeds]) / seeds for scores in (one.scores, choice.trial.alone))
            figures = f"{render.short(own)} ({render.short(alone)})"
            row[1:] = [str(seeds), figures, "dropped" if one.dropped else str(one.gain)]
        table.add_row(" + ".join(names), *row)
    console.print(table)
    others = [one for one in choice.table.sources if (one.task,) not in dict(choice.sets)]
    if others:
        listed = ", ".join(f"{one.task} {one.gain.percent}" for one in others)
        console.print(f"\nother sources, with their expected gains alone: {listed}", soft_wrap=True)
    for task, reason in choice.table.excluded:
        console.print(f"excluded {task}: {reason}", soft_wrap=True)
    console.print()
