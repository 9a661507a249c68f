"""Chooses sources, fuses them for a target, tunes, evaluates and saves the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adaptmtl.adapters.manifest import SourceFacts
from adaptmtl.errors import SelectionError
from adaptmtl.fusion.bench import FusionBench
from adaptmtl.fusion.methods import fusions
from adaptmtl.fusion.run import rows_in_key, run_fusion
from adaptmtl.provenance import measured
from adaptmtl.selection.budget import DEFAULT_BUDGET, Budget
from adaptmtl.selection.planner import Choice, plan_sources
from adaptmtl.training.checkpoint import until_published
from adaptmtl.training.score import evaluate
from adaptmtl.training.setup import Setup
from adaptmtl.transfer.sources import doubts_about, doubts_in_words, find_sources
from adaptmtl.zoo.build import ensure_adapter, held_adapter, make_bundle
from adaptmtl.zoo.index import Entry
from adaptmtl.zoo.store import Zoo, check_alias

#: Of what a fusion is made by.
VERSION = 2
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
        choice: how the sources were chosen, and why.
        seconds: wall seconds of this call.
    """

    entry: Entry
    target: str
    method: str
    sources: tuple[str, ...]
    choice: Choice
    seconds: float

    @property
    def helped(self) -> bool:
        """Whether any source was expected to help."""
        return bool(self.sources)

    @property
    def summary(self) -> str:
        """One sentence on the choice."""
        return self.choice.summary

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "adapter": self.entry.name, "key": self.entry.key, "target": self.target, "method": self.method,
            "sources": list(self.sources), "helped": self.helped, "summary": self.summary,
            "metrics": self.entry.metrics, "seconds": self.seconds, "path": str(self.entry.path),
            "choice": self.choice.to_dict(),
        }  # fmt: skip


def choose_sources(
    setup: Setup, target: str, sources: Literal["auto"] | Sequence[str], rows: int | None,
    method: str = DEFAULT_METHOD, budget: Budget = DEFAULT_BUDGET,
) -> Choice:  # fmt: skip
    """Returns the adapters to fuse: those named, or those that the planner takes within the budget.

    Raises:
        SelectionError: no source is named, one is named that cannot be used, or the zoo has none.
    """
    data = setup.data(target, rows)
    if sources == "auto":
        choice = plan_sources(setup, target, FusionBench(setup, data, method), rows=rows, budget=budget)
        if choice.table is None or not choice.table.sources:
            raise SelectionError(_no_source(setup, target, choice.table.excluded if choice.table else ()))
        return choice
    if isinstance(sources, str) or not sources:
        raise SelectionError(f"sources is {sources!r}; give 'auto' or a list of task names")
    candidates = find_sources(setup, data, list(dict.fromkeys(sources)))
    names = [entry.task for entry in candidates.entries]
    note = doubts_in_words(candidates.doubtful, names)
    return Choice(candidates.entries, f"sources as asked for: {', '.join(names)}{note}", {})


def _no_source(setup: Setup, target: str, excluded: Sequence[tuple[str, str]]) -> str:
    """Says that a target has no source, why what the zoo has is none, and what to do."""
    missing = f"the zoo has no source for {target!r} on backbone {setup.backbone.name!r}"
    if not excluded:
        return f"{missing}; train some: adaptmtl train-adapters --suite embedded"
    ranked = Counter(reason for _, reason in excluded).most_common()
    reasons = "; ".join(f"{number} because {reason}" for reason, number in ranked[:3])
    return f"{missing}: {len(excluded)} left out, {reasons}; train others, or change the options that leave these out"


def fuse(
    setup: Setup, target: str, *, sources: Literal["auto"] | Sequence[str] = "auto", method: str = DEFAULT_METHOD,
    rows: int | None = None, seed: int = 0, name: str | None = None, budget: Budget | str | int = DEFAULT_BUDGET,
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
        budget: what choosing sources may cost: "30s", "5m", a share of one training from every source ("2%"), or a
            number of trial trainings on the target; 6 of these by default.

    Raises:
        UnknownNameError: no such target, source or method.
        SelectionError: the target is among the sources, a source has no adapter, or the budget is none.
    """
    fusions[method]
    budget = Budget.of(budget)
    if name is not None:
        check_alias(name)
    zoo = Zoo(setup.workspace)
    with measured() as total:
        choice = choose_sources(setup, target, sources, rows, method, budget)
        if choice.entries:
            entry = ensure_fused(setup, target, choice.entries, method, rows, seed)
        else:  # the same adapter that train-adapters makes
            entry = ensure_adapter(setup, target, rows, seed)
        if name is not None:
            zoo.alias(name, entry.key)
    return Fused(
        entry=entry, target=target, method=method if choice.entries else TARGET_ONLY,
        sources=tuple(one.task for one in choice.entries), choice=choice, seconds=total.seconds,
    )  # fmt: skip


def ensure_fused(
    setup: Setup, target: str, entries: Sequence[Entry], method: str, rows: int | None, seed: int
) -> Entry:
    """Returns the fusion of these sources for a target from the zoo, making it first where it is not there."""
    zoo, data = Zoo(setup.workspace), setup.data(target, rows)
    key = setup.key("fuse", fuse_version=VERSION, target=target, data=data.identity, method=method, seed=seed,
                    sources=sorted(entry.key for entry in entries),
                    **({"allow_overlap": True} if setup.allow_overlap else {}),
                    **rows_in_key(setup, method, entries))  # fmt: skip
    if (held := held_adapter(zoo, key)) is not None:
        setup.workspace.reporter.say(f"{target}: in the zoo as {held.name}")
        return held
    doubtful = doubts_about(setup, data, entries)
    facts = [
        SourceFacts(name=one.name, key=one.key, weight=1.0 / len(entries), overlap=doubtful.get(one.task))
        for one in entries
    ]
    with until_published():
        with measured() as cost:
            fused = run_fusion(setup, data, entries, method, seed)
            scored = evaluate(fused.trained, setup.workspace, data)
        cost.add(*(log.earlier for log in fused.logs))
        return zoo.add(make_bundle(setup, data, fused.trained, scored, cost, key=key, method="fused", seed=seed,
                                   sources=facts, lora=fused.lora, fusion=method))  # fmt: skip
