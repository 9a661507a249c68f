"""``adaptmtl pull``: an adapter from the Hub into the zoo."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptmtl.cli import render
from adaptmtl.cli.options import General, with_options

EXAMPLES = "adaptmtl pull your-name/boolq-minilm-fused"


@with_options
def pull(
    general: General,
    repo: Annotated[str, typer.Argument(help="Repository on the Hub.", metavar="OWNER/REPO")],
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit.", metavar="NAME", show_default="main")
    ] = None,
) -> None:
    """Download an adapter from the Hub, verify it, and put it into the zoo; nothing in it is executed."""
    from adaptmtl.zoo.hub import pull as download

    entry = download(repo, general.workspace(), revision=revision)
    if general.json:
        render.print_json(entry)
    else:
        score = render.figure(entry.metrics, entry.metric)
        render.console().print(f"{entry.name}: {entry.task}, {entry.metric} {score}", soft_wrap=True)
