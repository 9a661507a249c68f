"""Help pages in plain text: options in groups, examples last; quick, since nothing of rich is imported."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand, TyperGroup

#: Panels of the shared options.
TRAINING = "Training options"
GENERAL = "General options"
OWN = "Own data options"
#: Settings of every command and group.
CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Command(TyperCommand):
    """A command whose help shows options under their panels and ``epilog`` as examples."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes arguments, then the command's own options, then each shared group."""
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], OWN: [], TRAINING: [], GENERAL: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                default = "Arguments" if parameter.param_type_name == "argument" else "Options"
                title = getattr(parameter, "rich_help_panel", None) or default
                groups[GENERAL if parameter.name == "help" else title].append((_name(record[0]), _text(record[1])))
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Writes the examples as they stand."""
        _examples(self.epilog, formatter)


class Group(TyperGroup):
    """A group of commands whose help shows ``epilog`` as examples."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Writes the examples as they stand."""
        _examples(self.epilog, formatter)


def _name(text: str) -> str:
    """Leaves out the type that typer writes after an argument's name: ``NAME <str>``."""
    return re.sub(r" <[^<>]*>$", "", text)


def _text(text: str) -> str:
    """Leaves out the least value, which an error names when it matters: ``[default: 32; x>=1]``."""
    return re.sub(r"\s*\[x>=\d+\]|; x>=\d+(?=\])", "", text)


def _examples(text: str | None, formatter: Any) -> None:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if not lines:
        return
    with formatter.section("Example" if len(lines) == 1 else "Examples"):
        for line in lines:
            formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
