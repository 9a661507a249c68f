"""Talk on stderr: bars on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, TextIO, TypeVar

from adaptmtl.workspace import Reporter, Silent

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
#: Seconds between two plain lines about one loop; shorter loops are not mentioned.
LINE_SECONDS = 10.0


def make_reporter(quiet: bool, stream: TextIO | None = None) -> Reporter:
    """Returns the reporter that fits the stream (stderr by default)."""
    stream = stream or sys.stderr
    if quiet:
        return Silent()
    return BarReporter() if stream.isatty() else LineReporter(stream)


class LineReporter:
    """Plain lines, for logs: a loop is mentioned every :data:`LINE_SECONDS`.

    Args:
        stream: where lines go.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._said: set[str] = set()

    def say(self, message: str) -> None:
        """Prints one line of talk, once."""
        if message in self._said:
            return
        self._said.add(message)
        print(message, file=self._stream, flush=True)

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yields the items; prints how far they are now and then."""
        total = _total(items, total)
        start = said = time.monotonic()
        for done, item in enumerate(items):
            if (now := time.monotonic()) - said >= LINE_SECONDS:
                said = now
                self.say(f"{description}: {done}{f' of {total}' if total else ''}, {now - start:.0f} s")
            yield item


class BarReporter:
    """Progress bars on a terminal; loops inside loops share one display, and finished bars vanish."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._running = 0
        self._said: set[str] = set()

    def say(self, message: str) -> None:
        """Prints one line of talk, once, above the bars."""
        if message in self._said:
            return
        self._said.add(message)
        if self._progress is None:
            print(message, file=sys.stderr, flush=True)
        else:
            self._progress.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yields the items while a bar shows how far they are."""
        progress = self._begin()
        bar = progress.add_task(description, total=_total(items, total))
        try:
            for item in items:
                yield item
                progress.advance(bar)
        finally:
            progress.remove_task(bar)
            self._end()

    def _begin(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.start()
        self._running += 1
        return self._progress

    def _end(self) -> None:
        self._running -= 1
        if self._running == 0 and self._progress is not None:
            self._progress.stop()
            self._progress = None


def _total(items: Iterable[T], total: int | None) -> int | None:
    return len(items) if total is None and isinstance(items, Sized) else total
