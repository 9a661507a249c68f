"""Texts that a source's training rows share with a target's evaluation rows: leakage that looks like transfer."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from adaptmtl.storage import key_of, write_atomic
from adaptmtl.tasks import sketch as sketches
from adaptmtl.tasks.rows import Split
from adaptmtl.tasks.sketch import MIN_WORDS, Sketch, similar, sketch
from adaptmtl.tasks.spec import TaskSpec
from adaptmtl.workspace import Workspace

__all__ = [
    "MIN_WORDS",
    "NEAR",
    "Shared",
    "declared_overlap",
    "families",
    "overlap",
    "overlapping",
    "shared",
    "sketch_of",
]

#: Similarity of two texts' character 5-grams from which they count as near duplicates.
NEAR = 0.8
#: What cached results of a comparison depend on, beside the rows.
VERSION = 2


@dataclass(frozen=True)
class Shared:
    """What share of one split's rows holds a text of another split.

    Attributes:
        exact: a text is equal, but for case, blanks and punctuation.
        near: a text is equal or a near duplicate.
        contained: a text is equal, or one whole text is a sentence of a longer one.
    """

    exact: float
    near: float
    contained: float

    @property
    def any(self) -> float:
        """The greatest of the three."""
        return max(self.near, self.contained)

    def to_dict(self) -> dict[str, float]:
        """Returns the shares by name."""
        return {**asdict(self), "any": self.any}


def overlap(source_train: Split, target_eval: Split) -> float:
    """Returns the share of the target's evaluation rows that hold a text of the source's training rows.

    Every text field is compared as a whole, after lower-casing and without whitespace and punctuation; texts of fewer
    than 4 words do not count. Near duplicates count, and so does a text that is one sentence of a longer one.

    Args:
        source_train: training rows of the source.
        target_eval: rows that the target's figures are computed on.

    Returns:
        Between 0 and 1; 0 for a target without rows.
    """
    return shared(sketch(source_train), sketch(target_eval)).any


def shared(source: Sketch, target: Sketch) -> Shared:
    """Returns what share of the target's rows holds a text of the source; direction matters."""
    if not target.n_rows or not len(target.whole) or not len(source.whole):
        return Shared(0.0, 0.0, 0.0)
    exact = np.isin(target.whole, source.whole)
    near = exact.copy()
    near[~exact] = similar(target.signature[~exact], source.signature, NEAR)
    contained = exact | np.isin(target.whole, source.part)
    contained[target.part_text[np.isin(target.part, source.whole)]] = True
    return Shared(*(float(target.rows_with(marks).mean()) for marks in (exact, near, contained)))


def sketch_of(workspace: Workspace, split: Split) -> Sketch:
    """Returns the sketch of a split, from the workspace where these rows were sketched before."""
    path = workspace.folder("sketches", f"{key_of(version=sketches.VERSION, rows=split.fingerprint)}.npz")
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays: dict[str, Any] = {name: held[name] for name in held.files}
            return Sketch(**{**arrays, "n_rows": int(arrays["n_rows"])})
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        pass  # not there, or damaged: it is made again
    made = sketch(split)
    buffer = io.BytesIO()
    np.savez(buffer, **made.__dict__)
    write_atomic(path, buffer.getvalue())
    return made


def families(found: Mapping[str, Sketch], least: float = 0.05) -> tuple[tuple[str, ...], ...]:
    """Returns groups of sets that share texts, found from the rows alone.

    Args:
        found: sketch of all rows (training and validation) of each set, by name.
        least: share of the smaller set's rows that must hold a text of the other.

    Returns:
        Groups of two or more names, in order; sets are in one group that are connected through others.
    """
    names = sorted(found)
    group = {name: name for name in names}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if root(one) != root(other) and related(found[one], found[other]) >= least:
                group[root(other)] = root(one)
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(root(name), []).append(name)
    return tuple(tuple(sorted(one)) for one in sorted(members.values()) if len(one) > 1)


def related(one: Sketch, other: Sketch) -> float:
    """Returns the share of the smaller set's rows that hold a text of the other, in (0, 1); symmetric."""
    small, large = (one, other) if one.n_rows <= other.n_rows else (other, one)
    return shared(large, small).any


def declared_overlap(source: TaskSpec, target: TaskSpec) -> bool:
    """Tells whether two tasks are the same, are of one named group, or either declares to share rows with the other."""
    return (
        source.name == target.name
        or source.name in target.overlaps
        or target.name in source.overlaps
        or (source.group is not None and source.group == target.group)
    )


def tasks_related_to(target: TaskSpec, tasks: Mapping[str, TaskSpec]) -> frozenset[str]:
    """Returns the target and all tasks that share texts with it by declaration: what is known of them tells of it."""
    return frozenset({target.name, *target.overlaps, *overlapping(target, tasks)})


def overlapping(target: TaskSpec, tasks: Mapping[str, TaskSpec]) -> tuple[str, ...]:
    """Returns the names of the tasks that must not be sources of ``target`` by declaration, in order."""
    return tuple(name for name, task in tasks.items() if name != target.name and declared_overlap(task, target))
