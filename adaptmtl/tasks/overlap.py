"""Texts that a source's training rows share with a target's evaluation rows: leakage that looks like transfer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping

from adaptmtl.tasks.rows import Row, Split
from adaptmtl.tasks.spec import TaskSpec

#: Texts of fewer words ("yes", "How is the food?") occur in independent sets by chance and do not count.
MIN_WORDS = 4
_NOT_WORD = re.compile(r"[\W_]+")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")


def overlap(source_train: Split, target_eval: Split) -> float:
    """Returns the share of the target's evaluation rows that hold a text of the source's training rows.

    Every text field is compared as a whole, after lower-casing and without whitespace and punctuation; texts of fewer
    than 4 words do not count.

    Args:
        source_train: training rows of the source.
        target_eval: rows that the target's figures are computed on.

    Returns:
        Between 0 and 1; 0 for a target without rows.
    """
    known = text_hashes(source_train)
    hits = sum(any(digest in known for digest in _hashes(row)) for row in target_eval.rows)
    return hits / len(target_eval) if len(target_eval) else 0.0


def text_hashes(split: Split) -> frozenset[bytes]:
    """Returns 8-byte hashes of every text that counts; small enough to be kept for many sources."""
    return frozenset(digest for row in split.rows for digest in _hashes(row))


def declared_overlap(source: TaskSpec, target: TaskSpec) -> bool:
    """Tells whether two tasks are the same or either declares to share rows with the other."""
    return source.name == target.name or source.name in target.overlaps or target.name in source.overlaps


def overlapping(target: TaskSpec, tasks: Mapping[str, TaskSpec]) -> tuple[str, ...]:
    """Returns the names of the tasks that must not be sources of ``target`` by declaration, in order."""
    return tuple(name for name, task in tasks.items() if name != target.name and declared_overlap(task, target))


def _hashes(row: Row) -> Iterator[bytes]:
    for text in _texts(row):
        words = _NOT_WORD.sub(" ", text.lower()).split()
        if len(words) >= MIN_WORDS or len(_UNSPACED.findall(text)) >= MIN_WORDS * 2:
            yield hashlib.blake2b("".join(words).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _texts(row: Row) -> Iterator[str]:
    for name in ("text", "text_pair", "question", "context"):
        if row.get(name):
            yield row[name]
    yield from row.get("choices", ())
    if "tokens" in row:
        yield " ".join(row["tokens"])
