"""What choosing sources may cost: seconds, a share of brute force, or a number of trial trainings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from adaptmtl.errors import SelectionError

Unit = Literal["seconds", "share", "trainings"]
_FORMS = {
    "seconds": re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h)"),
    "share": re.compile(r"(\d+(?:\.\d+)?)\s*%"),
    "trainings": re.compile(r"(\d+)"),
}
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Prices:
    """What things cost on one target, in tokens that the layers with adapters run forwards.

    Attributes:
        training: one whole training on the target.
        per_second: such tokens that this machine gets through in a second.
    """

    training: float
    per_second: float


@dataclass(frozen=True)
class Budget:
    """An amount of work.

    Attributes:
        amount: at least 0.
        unit: "seconds"; "share" of one training on the target from every source; "trainings" on the target.
    """

    amount: float
    unit: Unit

    @classmethod
    def of(cls, value: Budget | str | int) -> Budget:
        """Returns a budget as it is, one that is written as :meth:`parse` reads it, or a number of trial trainings.

        Raises:
            SelectionError: it is none of these.
        """
        return value if isinstance(value, Budget) else cls.parse(str(value))

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Reads "30s", "5m", "1h", "2%" or "8".

        Raises:
            SelectionError: anything else.
        """
        stripped = text.strip().lower()
        if found := _FORMS["seconds"].fullmatch(stripped):
            return cls(float(found[1]) * _SECONDS[found[2]], "seconds")
        if found := _FORMS["share"].fullmatch(stripped):
            return cls(float(found[1]) / 100, "share")
        if found := _FORMS["trainings"].fullmatch(stripped):
            return cls(float(found[1]), "trainings")
        raise SelectionError(
            f"budget is {text!r}; give seconds (30s, 5m), a share of trying every source (2%), "
            "or a number of trial trainings (8)"
        )

    def tokens(self, prices: Prices, sources: int) -> float:
        """Returns the budget in the unit of the prices, for a target with so many sources."""
        if self.unit == "seconds":
            return self.amount * prices.per_second
        if self.unit == "share":
            return self.amount * sources * prices.training
        return self.amount * prices.training

    def __str__(self) -> str:
        if self.unit == "seconds":
            return f"{self.amount:g}s"
        return f"{100 * self.amount:g}%" if self.unit == "share" else f"{self.amount:g}"


DEFAULT_BUDGET = Budget(6, "trainings")
