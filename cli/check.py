"""``adaptmtl check``: is fusing worth it, against full multi-task fine-tuning and the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from adaptmtl.cli import render
from adaptmtl.cli.data import OwnData
from adaptmtl.cli.options import (
    Admission,
    Allowed,
    Sources,
    Target,
    Training,
    auto_or_names,
    budget_of,
    names,
    with_options,
)

if TYPE_CHECKING:
    from adaptmtl.evaluation.check import CheckResult

EXAMPLES = """
adaptmtl check --target boolq --rows 1000 --seeds 5
adaptmtl check --target boolq --sources trec,disfl_qa --margin 0.02
"""


@with_options
def check(
    general: OwnData,
    training: Training,
    admission: Admission,
    target: Target = None,
    sources: Sources = "auto",
    method: Annotated[str, typer.Option("--method", help="merge, scalearn or joint.", metavar="NAME")] = "merge",
    seeds: Annotated[int, typer.Option("--seeds", help="Runs per arm, with seeds 0, 1, ...", min=1, metavar="N")] = 5,
    arms: Annotated[
        str | None,
        typer.Option(
            "--arms",
            help="Comma-separated, of target_adapter, target_full, best_source, fused, multitask_chosen, "
            "multitask_all and random_sources; all but the last without it. Where no source is chosen, "
            "multitask_chosen takes the three best predicted.",
            metavar="A,B",
        ),
    ] = None,
    margin: Annotated[
        float, typer.Option("--margin", help="Largest loss that counts as no worse; 0.01 is one point.", metavar="X")
    ] = 0.01,
    budget: Allowed = None,
) -> None:
    """Compare fusing with target-only training, the best predicted source and full multi-task fine-tuning, over seeds.

    It trains every arm itself and reads no adapter that fuse made. With --sources auto it chooses anew, within its own
    --budget: the same --rows, --budget, --method and training options as those of fuse give the same choice.
    """
    general, target = general.target(target)
    allowed = budget_of(budget)
    setup = admission.admit(training.setup(general, target))
    from adaptmtl.evaluation.check import check as compare

    chosen = {"arms_wanted": names(arms)} if arms is not None else {}
    result = compare(
        setup, target, sources=auto_or_names(sources), method=method, rows=training.rows, seeds=seeds, margin=margin,
        budget=allowed, **chosen,
    )  # fmt: skip
    if general.json:
        render.print_json(result)
    else:
        _print(result)


def _print(result: CheckResult) -> None:
    console = render.console()
    console.print(
        f"{result.target}: {result.metric} on {result.n_rows:,} validation rows; {result.train_rows:,} training rows, "
        f"{result.steps:,} steps, {result.n_seeds} seeds"
    )
    console.print(f"{result.summary}\n")
    scores = render.table(
        "arm", "score [95%]", "sd", "fused − arm [95%]", "p", "fused is", right=("sd", "p"), elastic="arm", wrap=True
    )
    costs = render.table(
        "arm", "time", "before", "examples", "tokens", "FLOPs", "parameters",
        right=("time", "before", "examples", "tokens", "FLOPs", "parameters"), elastic="arm",
    )  # fmt: skip
    for arm in result.arms:
        score = render.estimate(arm.mean, arm.low, arm.high)
        difference = render.estimate(arm.difference, arm.difference_low, arm.difference_high, signed=True)
        scores.add_row(
            arm.title, score, render.points(arm.sd), difference, render.p_value(arm.p_value), arm.verdict or render.NONE
        )
        costs.add_row(
            arm.title, render.seconds(arm.seconds), render.seconds(arm.upstream_seconds), render.short(arm.examples),
            render.short(arm.tokens), render.short(arm.flops), render.short(arm.trained_parameters),
        )  # fmt: skip
    console.print(scores)
    console.print()
    console.print(costs)
    console.print(
        f"\nPoints of {result.metric}. p: paired, Holm-adjusted. Not inferior: at most {render.points(result.margin)} "
        "points lost. Time: per seed; before: once, for the sources' adapters and the trial that chose them, or the "
        "shared encoder."
    )
    if result.majority is not None:
        console.print(_against_majority(result, result.majority))


def _against_majority(result: CheckResult, majority: float) -> str:
    """Says which arms are not shown to beat the most frequent label."""
    below = [arm.title for arm in result.arms if arm.beats_majority and arm.beats_majority[0] <= 0]
    text = f"Always the most frequent label: {render.points(majority)}"
    if not below:
        return f"{text}; every arm is shown to beat it."
    if len(below) == len(result.arms):
        return f"{text}; no arm is shown to beat it."
    return f"{text}; not shown to beat it: {'; '.join(below)}."
