"""``adaptmtl transfer``: which sources will help a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from adaptmtl.cli import render
from adaptmtl.cli.data import OwnData
from adaptmtl.cli.options import Admission, Sources, Target, Training, auto_or_names, with_options

if TYPE_CHECKING:
    from adaptmtl.selection.reading import TransferTable

EXAMPLES = """
adaptmtl transfer --target boolq --rows 1000
adaptmtl transfer --target boolq --sources trec,disfl_qa
"""


@with_options
def transfer(
    general: OwnData,
    training: Training,
    admission: Admission,
    target: Target = None,
    sources: Sources = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the probe's folds.", min=0, metavar="N")] = 0,
) -> None:
    """Estimate how much each adapter of the zoo will help a target, best first; trains nothing."""
    general, target = general.target(target)
    setup = admission.admit(training.setup(general, target))
    from adaptmtl.selection.reading import rank_sources

    result = rank_sources(setup, target, sources=auto_or_names(sources), rows=training.rows, seed=seed)
    if general.json:
        render.print_json(result)
    else:
        _print(result)


def _print(result: TransferTable) -> None:
    console = render.console()
    console.print(
        f"{result.target}: {len(result.sources)} sources, estimated on {result.rows:,} training rows, "
        f"{render.seconds(result.seconds)}",
        soft_wrap=True,
    )
    console.print(f"{result.summary}\n")
    estimators = list(dict.fromkeys(name for one in result.sources for name in one.scores))
    titles = [name.replace("_", "\n") for name in estimators]
    fixed = ("expected gain [90%]", "P(gain > 0)")
    table = render.table("source", *fixed, *titles, right=(*fixed, *titles))
    for one in result.sources:
        scores = [render.short(one.scores.get(name)) for name in estimators]
        table.add_row(one.task, str(one.gain), f"{one.gain.probability:.2f}", *scores)
    if result.sources:
        console.print(table)
        console.print(
            "\nExpected gain: relative to the target's score without a source, from past transfers to "
            f"{result.past_targets} other targets.\nEstimators: higher is better, units differ.",
            soft_wrap=True,
        )
    for task, reason in result.excluded:
        console.print(f"excluded {task}: {reason}", soft_wrap=True)
