"""Results on stdout: aligned tables for a person, one JSON document for a program."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Columns of output that does not go to a terminal.
WIDTH = 100
NONE = "–"


def console() -> Console:
    """Returns a console on stdout, as wide as the terminal, or :data:`WIDTH` in a file or pipe."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else WIDTH
    return Console(file=sys.stdout, width=width, highlight=False, emoji=False, markup=False)


def table(*columns: str, right: tuple[str, ...] = (), elastic: str | None = None, wrap: bool = False) -> Table:
    """Makes a table without frame.

    Args:
        columns: headings.
        right: those whose figures are aligned at the right.
        elastic: the one that gives way where the line is full; the others keep their whole text.
        wrap: whether it goes on in a second line, rather than being cut short.
    """
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for name in columns:
        made.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=not (wrap and name == elastic),
            overflow="ellipsis" if name == elastic and not wrap else "fold",
            ratio=1 if name == elastic else None,
        )
    made.expand = elastic is not None
    return made


def facts(pairs: Mapping[str, Any]) -> Table:
    """Makes two columns of names and values; empty values are left out."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs.items():
        if value not in (None, "", (), []):
            made.add_row(name, str(value))
    return made


def points(value: float | None, signed: bool = False) -> str:
    """Returns a score of 0 to 1 in points, ``70.3``; a difference with its sign, ``+1.2``."""
    if value is None or math.isnan(value):
        return NONE
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    return ("0.0" if text in ("+0.0", "-0.0") else text).replace("-", "−")


def interval(low: float | None, high: float | None, signed: bool = False) -> str:
    """Returns the ends of a 95% interval in points, ``[68.1, 72.4]``; empty where there is none."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    return f"[{points(low, signed)}, {points(high, signed)}]"


def estimate(value: float | None, low: float | None, high: float | None, signed: bool = False) -> str:
    """Returns a score with its interval: ``70.3 [68.1, 72.4]``."""
    return f"{points(value, signed)} {interval(low, high, signed)}".rstrip()


def figure(metrics: Mapping[str, Any], name: str) -> str:
    """Returns a metric out of an entry's metrics: ``70.3 [68.1, 72.4]``."""
    one = plain(metrics.get(name) or {})
    return estimate(one.get("value"), one.get("low"), one.get("high"))


def p_value(value: float | None) -> str:
    """Returns a p value: ``0.034``, ``<0.001``."""
    if value is None or math.isnan(value):
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def count(value: float | None) -> str:
    """Returns a whole number with separators: ``12,345``."""
    return NONE if value is None else f"{value:,.0f}"


def short(value: float | None) -> str:
    """Returns a number of any size in three figures with a unit prefix: ``1.23M``, ``4.56e+15`` above that."""
    if value is None or math.isnan(value):
        return NONE
    for limit, divisor, unit in ((1e3, 1, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M"), (1e12, 1e9, "G"), (1e15, 1e12, "T")):
        if abs(value) < limit:
            return f"{value / divisor:.3g}{unit}".replace("-", "−")
    return f"{value:.2e}".replace("-", "−")


def seconds(value: float | None) -> str:
    """Returns a time for a person: ``0.4 s``, ``42 s``, ``3 min 20 s``."""
    if value is None:
        return NONE
    if value < 10:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def cut(text: str, length: int) -> str:
    """Returns the text on one line, at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def print_json(value: Any) -> None:
    """Prints exactly one JSON document."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def plain(value: Any) -> Any:
    """Turns results (anything with ``to_dict``, dataclasses, pydantic models, numpy) into what JSON can hold."""
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
