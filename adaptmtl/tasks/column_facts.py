"""What a table's columns hold: the facts that a guess of its kind of task rests on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from adaptmtl.tasks.check_rows import as_list
from adaptmtl.tasks.rows import Row

#: Rows that are looked at.
LOOKED_AT = 10_000


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: as in the file.
        values: of the rows that were looked at; missing ones are None.
    """

    name: str
    values: Sequence[Any]

    @cached_property
    def present(self) -> list[Any]:
        """The values that are there: neither None nor blank."""
        return [v for v in self.values if v is not None and not (isinstance(v, str) and not v.strip())]

    @cached_property
    def key(self) -> str:
        """The name in lower case with "_" for blanks and dashes."""
        return self.name.strip().lower().replace(" ", "_").replace("-", "_")

    @cached_property
    def is_text(self) -> bool:
        """Whether all values are texts that are not all numbers or lists."""
        return bool(self.present) and all(isinstance(v, str) for v in self.present) and self.numbers is None

    @cached_property
    def words(self) -> float:
        """Mean number of words of a text."""
        texts = [v for v in self.present if isinstance(v, str)]
        return sum(len(v.split()) for v in texts) / len(texts) if texts else 0.0

    @cached_property
    def numbers(self) -> list[float] | None:
        """The values as numbers, None where one is none."""
        found = []
        for value in self.present:
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                return None
            try:
                number = float(value)
            except ValueError:
                return None
            if not math.isfinite(number):
                return None
            found.append(number)
        return found or None

    @cached_property
    def lists(self) -> list[list[Any]] | None:
        """The values as lists (in csv and tsv written as JSON), None where one is no list."""
        found = [as_list(value) for value in self.present]
        return [one for one in found if one is not None] if found and None not in found else None

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each value occurs, as text."""
        return Counter(str(value).strip() for value in self.present)

    def is_struct(self, *fields: str) -> bool:
        """Whether all values are mappings with at least these fields."""
        return bool(self.present) and all(isinstance(v, Mapping) and set(fields) <= set(v) for v in self.present)


@dataclass(frozen=True)
class Table:
    """Columns of a file, in its order.

    Attributes:
        rows: the rows that were looked at.
        n_rows: rows of the whole file.
    """

    rows: Sequence[Row]
    n_rows: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Table:
        """Looks at 10,000 rows, evenly spread over the file."""
        return cls(rows[:: max(1, -(-len(rows) // LOOKED_AT))], len(rows))

    @cached_property
    def columns(self) -> dict[str, Column]:
        """By name."""
        names = dict.fromkeys(str(name) for row in self.rows for name in row)
        return {name: Column(name, [row.get(name) for row in self.rows]) for name in names}

    def named(self, *hints: str) -> Column | None:
        """Returns the first column, in the order of the hints, whose name is one of them."""
        by_key = {column.key: column for column in reversed(self.columns.values())}
        return next((by_key[hint] for hint in hints if hint in by_key), None)
