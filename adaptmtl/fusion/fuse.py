"""Chooses sources, fuses them for a target, tunes, evaluates and saves the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from adaptmtl.adapters.manifest import SourceFacts
from adaptmtl.errors import SelectionError
from adaptmtl.fusion.methods import fusions
from adaptmtl.fusion.run import run_fusion
from adaptmtl.fusion.trial import Trial, try_sources
from adaptmtl.provenance import measured
from adaptmtl.selection.planner import TransferTable, rank_sources
from adaptmtl.training.data import TaskData
from adaptmtl.training.score import score
from adaptmtl.training.setup import Setup
from adaptmtl.transfer.sources import find_sources
from adaptmtl.zoo.build import ensure_adapter, held_adapter, make_bundle
from adaptmtl.zoo.index import Entry
from adaptmtl.zoo.store import Zoo, check_alias

DEFAULT_METHOD = "merge"
#: What stands for the method when no source was expected to help.
TARGET_ONLY = "target-only"


@dataclass(frozen=True)
class Fused:
    """A fused adapter in the zoo, and how it came about.

    Attributes:
        entry: the adapter.
        target: the task.
        method: how the sources were fused; "target-only" when none was expected to help.
        sources: task names of what went in.
        reasons: task -> why it was kept or dropped (only for automatic choice).
        helped: whether any source was expected to help.
        summary: one sentence.
        table: the ranking behind an automatic choice.
        seconds: wall seconds of this call.
    """

    entry: Entry
    target: str
    method: str
    sources: tuple[str, ...]
    reasons: dict[str, str]
    helped: bool
    summary: str
    table: TransferTable | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "adapter": self.entry.name, "key": self.entry.key, "target": self.target, "method": self.method,
            "sources": list(self.sources), "reasons": self.reasons, "helped": self.helped, "summary": self.summary,
            "metrics": self.entry.metrics, "seconds": self.seconds, "path": str(self.entry.path),
            "table": self.table.to_dict() if self.table else None,
        }  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """The source set of a fusion, with the reasons.

    Attributes:
        entries: the adapters to fuse, best first; none where the target is trained alone.
        reasons: task -> why it was kept or dropped.
        summary: one sentence.
        table: the ranking, where they were chosen automatically.
        trial: what decided, where the ranking alone did not.
    """

    entries: tuple[Entry, ...]
    reasons: dict[str, str]
    summary: str
    table: TransferTable | None
    trial: Trial | None = None


def choose_sources(
    setup: Setup, target: str, sources: Literal["auto"] | Sequence[str], rows: int | None, method: str = DEFAULT_METHOD
) -> Choice:
    """Returns the adapters to fuse: those named, or those that the planner takes.

    Where the planner finds none that is shown to help, the likeliest are tried on held-out training rows.

    Raises:
        SelectionError: no source is named, one is named that cannot be used, or the zoo has none.
    """
    if sources == "auto":
        table = rank_sources(setup, target, rows=rows)
        if not table.sources:
            raise SelectionError(
                f"the zoo has no source for {target!r} on backbone {setup.backbone.name!r}; "
                "train some: adaptmtl train-adapters --suite embedded"
            )
        held = {entry.key: entry for entry in Zoo(setup.workspace).entries()}
        if table.selection.helped or not table.selection.likely:
            entries = tuple(held[key] for key in table.selection.sources)
            return Choice(entries, table.selection.reasons, table.selection.summary, table)
        return _after_trial(
            setup, setup.data(target, rows), table, [held[key] for key in table.selection.likely], method
        )
    if isinstance(sources, str) or not sources:
        raise SelectionError(f"sources is {sources!r}; give 'auto' or a list of task names")
    candidates = find_sources(setup, setup.data(target, rows), list(dict.fromkeys(sources)))
    names = ", ".join(entry.task for entry in candidates.entries)
    return Choice(candidates.entries, {}, f"sources as asked for: {names}", None)


def _after_trial(setup: Setup, target: TaskData, table: TransferTable, likely: Sequence[Entry], method: str) -> Choice:
    trial = try_sources(setup, target, likely, method)
    names = ", ".join(entry.task for entry in likely)
    taken = trial.gain > 0
    found = (
        f"on {trial.rows} held-out training rows {names} fused scored {100 * np.mean(trial.fused):.1f}, "
        f"the target alone {100 * np.mean(trial.alone):.1f} ({len(trial.fused)} seeds each)"
    )
    summary = f"no single source is shown to help; {found}: {'fused' if taken else 'the target is trained alone'}"
    reasons = dict(table.selection.reasons)
    for entry in likely:
        figures = reasons[entry.task].removeprefix("dropped: ").split(";")[0]
        reasons[entry.task] = f"{'kept' if taken else 'dropped'} after a trial: {figures}"
    return Choice(tuple(likely) if taken else (), reasons, summary, table, trial)


def fuse(
    setup: Setup, target: str, *, sources: Literal["auto"] | Sequence[str] = "auto", method: str = DEFAULT_METHOD,
    rows: int | None = None, seed: int = 0, name: str | None = None,
) -> Fused:  # fmt: skip
    """Makes one adapter for a target out of source adapters, and puts it in the zoo.

    When no source is expected to help, the target's own adapter is trained instead, and the result says so.

    Args:
        setup: backbone, recipe, encoding, zoo.
        target: name of the target task.
        sources: "auto", or names of tasks whose adapters are in the zoo.
        method: "merge", "scalearn" or "joint".
        rows: at most so many training rows of the target.
        seed: of the target's training.
        name: another name for the result in the zoo.

    Raises:
        UnknownNameError: no such target, source or method.
        SelectionError: the target is among the sources, or a source has no adapter.
    """
    fusions[method]
    if name is not None:
        check_alias(name)
    zoo = Zoo(setup.workspace)
    with measured() as total:
        choice = choose_sources(setup, target, sources, rows, method)
        if choice.entries:
            entry = ensure_fused(setup, target, choice.entries, method, rows, seed)
        else:  # the same adapter that train-adapters makes
            entry = ensure_adapter(setup, target, rows, seed)
        if name is not None:
            zoo.alias(name, entry.key)
    return Fused(
        entry=entry, target=target, method=method if choice.entries else TARGET_ONLY,
        sources=tuple(one.task for one in choice.entries), reasons=choice.reasons,
        helped=bool(choice.entries), summary=choice.summary, table=choice.table, seconds=total.seconds,
    )  # fmt: skip


def ensure_fused(
    setup: Setup, target: str, entries: Sequence[Entry], method: str, rows: int | None, seed: int
) -> Entry:
    """Returns the fusion of these sources for a target from the zoo, making it first where it is not there."""
    zoo, data = Zoo(setup.workspace), setup.data(target, rows)
    key = setup.key("fuse", target=target, data=data.identity, method=method, seed=seed,
                    sources=sorted(entry.key for entry in entries))  # fmt: skip
    if (held := held_adapter(zoo, key)) is not None:
        setup.workspace.reporter.say(f"{target}: in the zoo as {held.name}")
        return held
    with measured() as cost:
        fused = run_fusion(setup, data, entries, method, seed)
        scored = score(data, data.validation, fused.trained.outputs(setup.workspace, data.validation))
    facts = [SourceFacts(name=one.name, key=one.key, weight=1.0 / len(entries)) for one in entries]
    bundle = make_bundle(setup, data, fused.trained, scored, cost, key=key, method="fused", seed=seed, sources=facts,
                         lora=fused.lora, fusion=method)  # fmt: skip
    return zoo.add(bundle)
