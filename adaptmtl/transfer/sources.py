"""Which adapters of the zoo can be sources for a target, and which are left out for a stated reason."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

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
    """

    entries: tuple[Entry, ...]
    excluded: tuple[tuple[str, str], ...]
    overlapping: tuple[tuple[str, str], ...] = ()


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
        if name in wanted:
            raise SelectionError(f"target {name!r} is among its own sources; remove it from --sources")
        for task in wanted:
            if task not in best:
                if task not in setup.catalogue.tasks:
                    raise UnknownNameError("source", task, {**setup.catalogue.tasks, **best}, "see: adaptmtl zoo list")
                raise SelectionError(
                    f"source {task!r} has no adapter on backbone {setup.backbone.name!r} in the zoo; "
                    f"train it: adaptmtl train-adapters --tasks {task}"
                )
        best = {task: best[task] for task in wanted}
    kept, overlapping = [], []
    far: list[str] = []
    if wanted is None and len(best) > MOST_CHECKED:  # what follows takes a while for each
        near = set(nearest_texts(setup, target, list(best.values()))[:MOST_CHECKED])
        far = sorted(task for task, entry in best.items() if entry.key not in near)
        best = {task: entry for task, entry in best.items() if entry.key in near}
    excluded = [
        (task, f"its adapter is for another backbone ({entry.manifest().backbone.name})")
        for task, entry in sorted(elsewhere.items()) if wanted is None and task not in (name, *best, *far)
    ]  # fmt: skip
    if far:
        looked_at = f"only the {MOST_CHECKED} adapters with the nearest texts are looked at"
        excluded.append((f"{far[0]} and {len(far) - 1} more tasks", looked_at))
    for task, entry in sorted(best.items()):
        if task == name:
            continue
        if reason := _other_layers(setup, entry) or _refused(setup, entry):
            excluded.append((task, reason))
            continue
        leak = _leak(setup, target, entry)
        if leak and not setup.allow_overlap:
            excluded.append((task, leak))
            continue
        kept.append(entry)
        if leak:
            overlapping.append((task, leak))
    if wanted is not None and excluded:
        task, reason = excluded[0]
        remedy = "; leave it out, or use it all the same (--allow-overlap)" if _leak(setup, target, best[task]) else ""
        raise SelectionError(f"source {task!r} cannot be used for {name!r}: {reason}{remedy}")
    return Candidates(tuple(kept), tuple(excluded), tuple(overlapping))


def overlap_note(overlapping: Sequence[tuple[str, str]], used: Sequence[str]) -> str:
    """Returns the end of a sentence that names the used sources with overlap; empty where there is none."""
    return "".join(f"; {task} is used although {reason}" for task, reason in overlapping if task in used)


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


def _leak(setup: Setup, target: TaskData, entry: Entry) -> str | None:
    """Why figures on the target would be too good with this source, by declaration or by its texts."""
    spec = setup.catalogue.tasks.get(entry.task)
    if spec is None:
        setup.workspace.reporter.say(
            f"{entry.task}: not a known task, overlap with {target.spec.name} not checked; "
            "give its YAML file with --task-file"
        )
        return None
    if declared_overlap(spec, target.spec):
        return f"it shares rows with {target.spec.name}"
    try:
        rows = setup.data(entry.task, entry.train_rows).train.rows
    except (DataError, OfflineError) as error:
        setup.workspace.reporter.say(
            f"{entry.task}: rows not at hand, overlap with {target.spec.name} not checked ({error})"
        )
        return None
    share = _share(setup, rows, target)
    if share > MOST_OVERLAP:
        return f"{share:.1%} of the evaluation rows of {target.spec.name} have a text that is in its training rows"
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
