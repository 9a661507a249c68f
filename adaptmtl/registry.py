"""A generic registry: methods are looked up by name, third parties add theirs through entry points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from adaptmtl.errors import UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Named things of one sort; ``@registry.register("logme")`` adds, ``registry["logme"]`` finds.

    Args:
        noun: what an entry is called in messages ("estimator").
        group: entry-point group that third-party packages declare ("adaptmtl.estimators").
    """

    def __init__(self, noun: str, group: str | None = None):
        self.noun = noun
        self.group = group
        self._entries: dict[str, T] = {}
        self._plugins_loaded = group is None

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds the decorated thing under ``name``.

        Raises:
            ValueError: the name is taken.
        """

        def add(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.noun} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        self._load_plugins()
        if name not in self._entries:
            raise UnknownNameError(self.noun, name, self._entries, f"known: {', '.join(sorted(self._entries))}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._load_plugins()
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        self._load_plugins()
        return name in self._entries

    def _load_plugins(self) -> None:
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        for point in entry_points(group=self.group or ""):
            self._entries.setdefault(point.name, point.load())
