"""Which adapters of the zoo can be sources for a target, and which are left out for a stated reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from adaptmtl.errors import DataError, OfflineError, SelectionError, UnknownNameError
from adaptmtl.storage import key_of, read_json, write_json
from adaptmtl.tasks.overlap import VERSION as OVERLAP_VERSION
from adaptmtl.tasks.overlap import declared_overlap, shared, sketch_of
from adaptmtl.tasks.rows import Split
from adaptmtl.training.data import TaskData
from adaptmtl.training.setup import Setup
from adaptmtl.transfer.signatures import nearest_texts
from adaptmtl.zoo.index import Entry
from adaptmtl.zoo.store import Zoo

#: A source is left out when more than this share of the target's evaluation rows occurs in its training rows.
MOST_OVERLAP = 0.01
#: Of more adapters than these, only those with the nearest texts are looked at.
MOST_CHECKED = 256
VERSION = 1


@dataclass(frozen=True)
class Candidates:
    """Sources that may be used, one adapter per task, and what was left out with the reason.

    Attributes:
        entries: the sources.
        excluded: (task, reason) of what was left out.
        overlapping: (task, reason) of sources that share texts with the target's evaluation rows and are used anyway.
        unchecked: (task, reason) of sources whose texts could not be compared with the target's.
    """

    entries: tuple[Entry, ...]
    excluded: tuple[tuple[str, str], ...]
    overlapping: tuple[tuple[str, str], ...] = ()
    unchecked: tuple[tuple[str, str], ...] = ()

    @property
    def doubtful(self) -> tuple[tuple[str, str], ...]:
        """(task, reason) of sources that figures on the target may owe too much to."""
        return (*self.overlapping, *self.unchecked)


class _Doubt(NamedTuple):
    """Why figures on the target may owe too much to a source.

    Attributes:
        reason: for people.
        certain: whether texts are shared; else they could not be compared.
    """

    reason: str
    certain: bool


def find_sources(setup: Setup, target: TaskData, wanted: Sequence[str] | None = None) -> Candidates:
    """Lists the zoo's adapters on this backbone that can be sources for a target.

    Of very many adapters only those with the nearest texts are looked at. Of several adapters of a task, one on the
    recipe's layers is taken, then the one with most training rows, then the lowest seed, then the newest.

    Args:
        setup: whose zoo and backbone.
        target: its evaluation rows are compared with the sources' training rows, by text.
        wanted: names of tasks; None for all in the zoo.

    Raises:
        SelectionError: the target is among the wanted sources, or a wanted source cannot be used.
        UnknownNameError: a wanted source is no task.
    """
    name = target.spec.name
    best: dict[str, Entry] = {}
    elsewhere: dict[str, Entry] = {}
    for entry in Zoo(setup.workspace).find(method="lora"):
        if entry.backbone_hash != setup.backbone.hash:
            elsewhere[entry.task] = entry
        elif entry.task not in best or _order(setup, entry) > _order(setup, best[entry.task]):
            best[entry.task] = entry
    if wanted is not None:
        _check_wanted(setup, name, wanted, best)
        best, elsewhere = {task: best[task] for task in wanted}, {}
    excluded = [
        (task, f"its adapter is for another backbone ({entry.manifest().backbone.name})")
        for task, entry in sorted(elsewhere.items()) if task not in (name, *best)
    ]  # fmt: skip
    best.pop(name, None)
    order = sorted(best.values(), key=lambda entry: entry.task)
    if wanted is None and len(order) > MOST_CHECKED:  # what follows takes a while for each
        near = {key: place for place, key in enumerate(nearest_texts(setup, target, order))}
        order.sort(key=lambda entry: near[entry.key])
    kept: list[Entry] = []
    overlapping: list[tuple[str, str]] = []
    unchecked: list[tuple[str, str]] = []
    looked_at = 0
    for place, entry in enumerate(order):
        if wanted is None and looked_at == MOST_CHECKED:
            first, others = min(one.task for one in order[place:]), len(order) - place - 1
            far = f"{first} and {others} more tasks" if others else first
            excluded.append((far, f"only the {MOST_CHECKED} adapters with the nearest texts are looked at"))
            break
        if reason := _other_layers(setup, entry) or _refused(setup, entry):
            excluded.append((entry.task, reason))
            continue
        looked_at += 1
        doubt = _doubt(setup, target, entry)
        if doubt and doubt.certain and not setup.allow_overlap:
            remedy = "" if wanted is None else "; leave it out, or use it all the same (--allow-overlap)"
            excluded.append((entry.task, doubt.reason + remedy))
            continue
        kept.append(entry)
        if doubt:
            (overlapping if doubt.certain else unchecked).append((entry.task, doubt.reason))
    if wanted is not None and excluded:
        task, reason = excluded[0]
        raise SelectionError(f"source {task!r} cannot be used for {name!r}: {reason}")
    kept.sort(key=lambda entry: entry.task)
    return Candidates(tuple(kept), *(tuple(sorted(part)) for part in (excluded, overlapping, unchecked)))


def doubts_about(setup: Setup, target: TaskData, entries: Sequence[Entry]) -> dict[str, str]:
    """Returns task -> why figures on the target may owe too much to its adapter; without those that nothing is said of.

    Args:
        setup: whose workspace keeps what was compared.
        target: whose evaluation rows count.
        entries: sources.
    """
    return {entry.task: doubt.reason for entry in entries if (doubt := _doubt(setup, target, entry))}


def doubts_in_words(doubtful: Sequence[tuple[str, str]], used: Sequence[str]) -> str:
    """Returns the end of a sentence that names the used sources with overlap, or maybe so; empty without any."""
    by_reason: dict[str, list[str]] = {}
    for task, reason in doubtful:
        if task in used:
            by_reason.setdefault(reason, []).append(task)
    return "".join(
        f"; {', '.join(tasks)} {'are' if len(tasks) > 1 else 'is'} used although {reason}"
        for reason, tasks in by_reason.items()
    )


def _check_wanted(setup: Setup, target: str, wanted: Sequence[str], best: Mapping[str, Entry]) -> None:
    if target in wanted:
        raise SelectionError(f"target {target!r} is among its own sources; remove it from --sources")
    for task in wanted:
        if task not in best:
            if task not in setup.catalogue.tasks:
                raise UnknownNameError("source", task, {**setup.catalogue.tasks, **best}, "see: adaptmtl zoo list")
            raise SelectionError(
                f"source {task!r} has no adapter on backbone {setup.backbone.name!r} in the zoo; "
                f"train it: adaptmtl train-adapters --tasks {task}"
            )


def _order(setup: Setup, entry: Entry) -> tuple[bool, int, int, str]:
    return _other_layers(setup, entry) is None, entry.train_rows, -entry.seed, entry.created


def _other_layers(setup: Setup, entry: Entry) -> str | None:
    recipe = entry.manifest().recipe
    wanted = (setup.recipe.layers_below(setup.backbone), setup.recipe.method.targets)
    seen = (recipe.get("lower_layers"), recipe.get("method", {}).get("targets"))
    return None if seen == wanted else f"its adapter sits on other layers (lower_layers {seen[0]}, targets {seen[1]})"


def _refused(setup: Setup, entry: Entry) -> str | None:
    licence = entry.manifest().data.licence
    refused = any(
        re.search(rf"(?<![^\W_]){re.escape(part)}(?![^\W_])", licence, re.IGNORECASE) for part in setup.refused_licences
    )
    return f"the licence of its data is refused ({licence})" if refused else None


def _doubt(setup: Setup, target: TaskData, entry: Entry) -> _Doubt | None:
    """Returns why figures on the target may be too good with this source, by declaration or by its texts, if at all."""
    name = target.spec.name
    not_compared = f"texts were not compared with those of {name}"
    spec = setup.catalogue.tasks.get(entry.task)
    if spec is None:
        return _Doubt(f"{not_compared}: no task of that name is known (--task-file)", certain=False)
    if declared_overlap(spec, target.spec):
        return _Doubt(f"it shares rows with {name}", certain=True)
    try:
        rows = setup.data(entry.task, entry.train_rows).train.rows
    except (DataError, OfflineError):
        return _Doubt(f"{not_compared}: the rows are not at hand", certain=False)
    share = _share(setup, rows, target)
    if share > MOST_OVERLAP:
        shared_rows = f"{share:.1%} of the evaluation rows of {name} have a text that is in its training rows"
        return _Doubt(shared_rows, certain=True)
    if rows.fingerprint != entry.manifest().data.train_fingerprint:
        other = "the rows of that name here are not those it was trained on"
        return _Doubt(f"{not_compared}: {other}", certain=False)
    return None


def _share(setup: Setup, rows: Split, target: TaskData) -> float:
    """Returns the overlap, from the workspace where these rows were compared before."""
    key = key_of(
        step="overlap", version=(VERSION, OVERLAP_VERSION), source=rows.fingerprint,
        target=target.fingerprint["validation"],
    )  # fmt: skip
    path = setup.workspace.folder("overlaps", f"{key}.json")
    held = read_json(path)
    if held is None:
        sketches = (sketch_of(setup.workspace, split) for split in (rows, target.validation.rows))
        held = {"share": shared(*sketches).any}
        write_json(path, held)
    return float(held["share"])
