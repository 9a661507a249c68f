"""A generic registry: methods are looked up by name, third parties add theirs through entry points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from adaptmtl.errors import AdaptMTLError, UnknownNameError

T = TypeVar("T")


def name_list(names: Sequence[str], what: str) -> list[str]:
    """Returns names as a list, each once.

    Raises:
        AdaptMTLError: they are one text, which is a sequence too, of letters.
    """
    if isinstance(names, str):
        raise AdaptMTLError(f"{what} is {names!r}: give a list of names, such as [{names!r}]")
    return list(dict.fromkeys(names))


def seed_list(seeds: int | Sequence[int]) -> list[int]:
    """Returns the seeds 0, 1, ... of a number of trainings, or those given.

    Raises:
        AdaptMTLError: there are none, or one is negative or twice.
    """
    found = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not found or min(found) < 0 or len(set(found)) < len(found):
        raise AdaptMTLError(f"seeds is {seeds}; give how many, 1 or more, or a list of different ones from 0 on")
    return found


def is_ours(thing: object) -> bool:
    """Whether a function, or an object's class, is this package's own: the code of others may change unseen."""
    return thing.__module__.startswith("adaptmtl.")


class Registry(Generic[T]):
    """Named things of one sort; ``@registry.register("logme")`` adds, ``registry["logme"]`` finds.

    Args:
        noun: what an entry is called in messages ("estimator").
        group: entry-point group that third-party packages declare ("adaptmtl.estimators").
        home: module that registers our own entries, imported when the first one is looked up; None where whoever
            imports the registry has them.
        check: returns what is wrong with an entry of a third-party package, None where nothing is.
    """

    def __init__(
        self,
        noun: str,
        group: str | None = None,
        *,
        home: str | None = None,
        check: Callable[[str, object], str | None] = lambda name, entry: None,
    ):
        self.noun = noun
        self.group = group
        self.home = home
        self.check = check
        self._entries: dict[str, T] = {}
        self._loaded = False

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
        self._load()
        if name not in self._entries:
            raise UnknownNameError(self.noun, name, self._entries, f"known: {', '.join(sorted(self._entries))}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def _load(self) -> None:
        """Imports our own entries, then those of other packages; a name that is taken stays as it is."""
        if self._loaded:
            return
        self._loaded = True
        if self.home is not None:
            import_module(self.home)
        for point in entry_points(group=self.group) if self.group else ():
            if point.name in self._entries:
                continue
            try:
                entry = point.load()
                wrong = self.check(point.name, entry)
            except Exception as error:  # another package's code may raise anything
                wrong = f"{type(error).__name__}: {error}"
            if wrong:
                self._loaded = False  # the next look-up says so too
                raise AdaptMTLError(
                    f"{self.noun} {point.name!r} ({point.value}) of another package cannot be used: {wrong}; "
                    "update or uninstall that package"
                )
            self._entries[point.name] = entry
