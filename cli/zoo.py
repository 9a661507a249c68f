"""``adaptmtl zoo``: the adapters that are kept on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from adaptmtl.cli import render
from adaptmtl.cli.layout import CONTEXT, Command, Group
from adaptmtl.cli.options import General, with_options

if TYPE_CHECKING:
    from adaptmtl.adapters.manifest import Manifest

app = typer.Typer(
    cls=Group,
    context_settings=CONTEXT,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Adapters kept on this machine.",
    epilog="adaptmtl zoo list",
)

Name = Annotated[str, typer.Argument(help="Name, alias, key, or the beginning of one.", metavar="NAME")]


@app.command("list", cls=Command, epilog="adaptmtl zoo list --task boolq", short_help="List the adapters.")
@with_options
def list_adapters(
    general: General,
    task: Annotated[str | None, typer.Option("--task", help="Only adapters of this task.", metavar="NAME")] = None,
) -> None:
    """List the adapters, with their score on the task's validation rows."""
    from adaptmtl.zoo.store import Zoo

    zoo = Zoo(general.workspace())
    entries, problems, aliases = zoo.find(task=task), zoo.problems(), zoo.aliases()
    if general.json:
        render.print_json({"adapters": entries, "aliases": aliases, "damaged": problems})
        return
    console = render.console()
    if not entries and not problems:
        console.print(f"no adapters{f' of {task}' if task else ''} in {zoo.adapters}")
        return
    called = {key: alias for alias, key in aliases.items()}
    columns = ("adapter", "task", "metric", "score [95%]", "training rows", "backbone")
    table = render.table(*columns, right=("training rows",), elastic="backbone")
    for one in entries:
        name = f"{one.name} ({called[one.key]})" if one.key in called else one.name
        score = render.figure(one.metrics, one.metric)
        table.add_row(name, one.task, one.metric, score, render.count(one.train_rows), one.backbone)
    console.print(table)
    for one in problems:
        console.print(f"damaged: {one.problem}", soft_wrap=True)


@app.command("show", cls=Command, epilog="adaptmtl zoo show boolq-fused", short_help="Show an adapter's manifest.")
@with_options
def show_adapter(general: General, name: Name) -> None:
    """Show an adapter's manifest: task, data, recipe, scores, sources, cost."""
    from adaptmtl.zoo.store import Zoo

    entry = Zoo(general.workspace()).get(name)
    manifest = entry.manifest()
    if general.json:
        render.print_json(manifest)
        return
    console = render.console()
    console.print(render.facts(_facts(manifest) | {"folder": entry.path}), soft_wrap=True)


@app.command("remove", cls=Command, epilog="adaptmtl zoo remove boolq-fused", short_help="Delete an adapter.")
@with_options
def remove_adapter(
    general: General, name: Annotated[str, typer.Argument(help="Name, alias or key, in full.", metavar="NAME")]
) -> None:
    """Delete an adapter and its aliases from this machine."""
    from adaptmtl.zoo.store import Zoo

    gone = Zoo(general.workspace()).remove(name)
    if general.json:
        render.print_json({"removed": gone.name or gone.key, "key": gone.key})
    else:
        render.console().print(f"removed {' '.join(filter(None, (gone.name, f'({gone.key})')))}")


def _facts(manifest: Manifest) -> dict[str, object]:
    backbone, data, cost = manifest.backbone, manifest.data, manifest.cost
    scores = (
        f"{name} {render.estimate(one.value, one.low, one.high)} on {one.n:,} rows"
        for name, one in manifest.metrics.items()
    )
    return {
        "adapter": manifest.name,
        "key": manifest.key,
        "task": f"{manifest.task.name} ({manifest.task.kind})",
        "labels": ", ".join(manifest.task.label_names or ()),
        "method": manifest.method,
        "sources": "\n".join(f"{one.name} (weight {one.weight:.3g})" for one in manifest.sources),
        "backbone": f"{backbone.hub_id or backbone.name} ({backbone.n_layers} layers of width {backbone.hidden_size})",
        "scores": "\n".join(scores),
        "rows": f"{data.train_rows:,} training, {data.validation_rows:,} validation, {data.origin}",
        "licence": data.licence,
        "seed": manifest.seed,
        "steps": f"{cost.steps:,} ({cost.examples_seen:,} examples)",
        "parameters": f"{cost.trained_parameters:,}",
        "cost": f"{render.seconds(cost.seconds)}, {cost.peak_memory_mib:,.0f} MiB at most",
        "created": manifest.provenance.get("created", ""),
    }
