"""One tree of errors: each says what, where, what was seen and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AdaptMTLError(Exception):
    """Base of every error that a user can mend; the command line prints it in one line and exits with 2."""


class UnknownNameError(AdaptMTLError):
    """A task, suite, source, backbone, adapter or method that does not exist."""

    def __init__(self, what: str, seen: str, known: Iterable[str], remedy: str = ""):
        """
        Args:
            what: the kind of thing, as a noun ("task").
            seen: the name that was given.
            known: all names that would have been accepted.
            remedy: what to do when no close name exists.
        """
        super().__init__(f"unknown {what} {seen!r}{suggest(seen, known)}{'; ' + remedy if remedy else ''}")


class DataError(AdaptMTLError):
    """Rows that cannot be used: a missing column, an unseen label, a broken file."""


class BackboneError(AdaptMTLError):
    """A backbone that cannot be loaded, is refused, or is not the one an adapter was trained on."""


class AdapterError(AdaptMTLError):
    """An adapter folder that is corrupt, truncated, incompatible, or missing a part."""


class SelectionError(AdaptMTLError):
    """A source set that makes no sense, such as the target among its own sources."""


class OfflineError(AdaptMTLError):
    """Something remote is needed, and the network is off or did not answer."""


class StorageError(AdaptMTLError):
    """A product could not be written: the disk is full or the folder is not writable."""


class FullDiskError(StorageError):
    """A product could not be written, because the disk is full or the quota used up."""


def suggest(seen: str, known: Iterable[str], most: int = 3) -> str:
    """Returns ``"; did you mean a, b?"`` for the closest known names, or an empty string."""
    close = difflib.get_close_matches(seen.lower(), sorted(known), n=most, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""
