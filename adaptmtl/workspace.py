"""Where products live, where rows may come from, and who is told about progress."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from adaptmtl.errors import AdaptMTLError

T = TypeVar("T")


class Reporter(Protocol):
    """Talk for a person; never part of a result."""

    def say(self, message: str) -> None:
        """Prints one line of talk."""

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yields the items while showing how far they are."""


class Silent:
    """The reporter of library use: says nothing."""

    def say(self, message: str) -> None:
        """Drops the line."""

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yields the items."""
        yield from items


@dataclass(frozen=True)
class Workspace:
    """One person's products and settings.

    Attributes:
        home: folder of all products (zoo, cached rows and states, archives); ADAPTMTL_HOME or ~/.cache/adaptmtl.
        mirror: folder in the Hub's layout to read data sets from; ADAPTMTL_MIRROR or None.
        offline: never touch the network; ADAPTMTL_OFFLINE or HF_HUB_OFFLINE.
        reporter: who is told about progress.
    """

    home: Path = field(default_factory=lambda: _path("ADAPTMTL_HOME") or Path.home() / ".cache" / "adaptmtl")
    mirror: Path | None = field(default_factory=lambda: _path("ADAPTMTL_MIRROR"))
    offline: bool = field(default_factory=lambda: _flag("ADAPTMTL_OFFLINE") or _flag("HF_HUB_OFFLINE"))
    reporter: Reporter = field(default_factory=Silent, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "home", Path(self.home).expanduser())
        if self.mirror is not None:
            object.__setattr__(self, "mirror", Path(self.mirror).expanduser())

    def folder(self, *parts: str) -> Path:
        """Returns a path below ``home`` (not created)."""
        return self.home.joinpath(*parts)


def number_of(variable: str, default: float) -> float:
    """Returns a number from the environment, such as a limit.

    Raises:
        AdaptMTLError: it is set and no number.
    """
    value = os.environ.get(variable)
    try:
        return default if value is None else float(value)
    except ValueError:
        raise AdaptMTLError(f"{variable} is {value!r}: give a number, such as {default:g}, or unset it") from None


def _path(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


def _flag(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in {"1", "true", "yes", "on"}
