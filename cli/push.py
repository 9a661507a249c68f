"""``adaptmtl push``: an adapter of the zoo to the Hub."""

from __future__ import annotations

from typing import Annotated

import typer

from adaptmtl.cli import render
from adaptmtl.cli.options import General, with_options

EXAMPLES = "adaptmtl push boolq-fused your-name/boolq-minilm-fused --private"


@with_options
def push(
    general: General,
    name: Annotated[str, typer.Argument(help="Adapter of the zoo.", metavar="NAME")],
    repo: Annotated[str, typer.Argument(help="Repository on the Hub; made if there is none.", metavar="OWNER/REPO")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[
        str | None,
        typer.Option("--revision", help="Branch; made if there is none.", metavar="NAME", show_default="main"),
    ] = None,
) -> None:
    """Upload an adapter to the Hub, with a card written from its measured results.

    It takes a token that may write: that of `hf auth login`, or HF_TOKEN.
    """
    from adaptmtl.zoo.hub import push as upload

    address = upload(name, repo, general.workspace(), private=private, revision=revision)
    if general.json:
        render.print_json({"adapter": name, "repository": repo, "commit": address})
    else:
        render.console().print(address, soft_wrap=True)
