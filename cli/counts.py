"""Numbers of rows as a person writes them: 64, 1000, 1k."""

from __future__ import annotations

import re

import typer

_COUNT = re.compile(r"(\d+(?:\.\d+)?)([km]?)", re.IGNORECASE)
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000}


def row_count(text: str | int) -> int:
    """Returns the number that a text such as ``64``, ``1k`` or ``1.5k`` stands for.

    Raises:
        typer.BadParameter: it is no number, no whole one, or below 1.
    """
    match = _COUNT.fullmatch(str(text).strip().replace(",", "").replace("_", ""))
    number = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    if not number.is_integer() or number < 1:
        raise typer.BadParameter(f"{text!r} is no number of rows; give one such as 64, 1000 or 1k")
    return int(number)
