"""``adaptmtl transfer``: which sources will help a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from adaptmtl.cli import render
from adaptmtl.cli.data import OwnData
from adaptmtl.cli.options import Sources, Target, Training, auto_or_names, with_options

if TYPE_CHECKING:
    from adaptmtl.selection.planner import TransferTable

EXAMPLES = """
adaptmtl transfer --target boolq --rows 1000
adaptmtl transfer --target boolq --sources trec,disfl_qa
"""


@with_options
def transfer(
    general: OwnData,
    training: Training,
    target: Target = None,
    sources: Sources = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the probe's folds.", min=0, metavar="N")] = 0,
) -> None:
    """Estimate how much each adapter of the zoo will help a target, best first; trains nothing."""
    target = general.target(target)
    setup = training.setup(general)
    from adaptmtl.selection.planner import rank_sources

    chosen = auto_or_names(sources)
    result = rank_sources(setup, target, sources=None if chosen == "auto" else chosen, rows=training.rows, seed=seed)
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
    console.print(f"{result.selection.summary}\n")
    estimators = list(dict.fromkeys(name for one in result.sources for name in one.scores))
    titles = [name.replace("_", "\n") for name in estimators]
    fixed = ("gain ± se", "mean\nrank")
    table = render.table("source", "gain ± se", "verdict", "mean\nrank", *titles, right=(*fixed, *titles))
    for one in result.sources:
        gain = f"{one.gain:+.3f} ± {one.gain_error:.3f}".replace("-", "−")
        scores = [render.short(one.scores.get(name)) for name in estimators]
        table.add_row(one.task, gain, one.verdict, f"{one.mean_rank:.2f}", *scores)
    if result.sources:
        console.print(table)
        console.print(
            "\nGain: label uncertainty explained beyond the plain backbone, out of fold. Mean rank: 0 best, 1 worst.\n"
            "Estimators: higher is better, units differ.",
            soft_wrap=True,
        )
    for task, reason in result.excluded:
        console.print(f"excluded {task}: {reason}", soft_wrap=True)
