"""The honest check: every arm on the same target rows, over seeds, compared with the fused arm."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file

from adaptmtl.evaluation.arms import Arm, Plan, Upstream, arms, choosing_cost, flops_per_token
from adaptmtl.fusion.fuse import DEFAULT_METHOD, choose_sources
from adaptmtl.fusion.methods import fusions, trains_on_sources
from adaptmtl.provenance import measured, record
from adaptmtl.registry import is_ours, name_list, seed_list
from adaptmtl.selection.budget import DEFAULT_BUDGET, Budget
from adaptmtl.selection.planner import Choice
from adaptmtl.selection.reading import rank_sources
from adaptmtl.statistics import against_constant, holm, interval, paired, verdict
from adaptmtl.storage import publish_folder, read_json, sha256_file, write_json
from adaptmtl.tasks.metrics import metrics
from adaptmtl.training.checkpoint import until_published
from adaptmtl.training.data import TaskData
from adaptmtl.training.kept import read_tensors
from adaptmtl.training.loop import Log, made_once
from adaptmtl.training.score import evaluate
from adaptmtl.training.setup import Setup
from adaptmtl.training.sizes import sizes_of
from adaptmtl.transfer.history import Transfer, recipe_of
from adaptmtl.transfer.remember import remember_transfers
from adaptmtl.transfer.sources import find_sources

VERSION = 3
DEFAULT_ARMS = ("target_adapter", "target_full", "best_source", "fused", "multitask_chosen", "multitask_all")


@dataclass(frozen=True)
class ArmResult:
    """One arm's figures. Scores are of the target's main metric; seconds are wall time on the machine that ran it.

    Attributes:
        name: of the arm.
        title: for people.
        values: the score of each seed.
        mean, sd: over seeds; ``sd`` is None for one seed.
        low, high: 95% interval over rows and seeds.
        seconds: of one seed's training on the target and its evaluation, mean over seeds.
        upstream_seconds: before that, once: the sources' adapters and the trial that chose them, or the multi-task
            training.
        examples, tokens, flops: seen in training, upstream included, for one seed; flops are matrix products only.
        trained_parameters: values trained on the target.
        difference, difference_low, difference_high: fused minus this arm, paired, with its 95% interval.
        p_value: two-sided, Holm-adjusted over the arms.
        verdict: the fused arm against this one: better, worse, not inferior, no difference shown, or identical (the
            same answers on every row, as when no source was chosen).
        beats_majority: lower and upper end of the 95% interval of this arm minus the majority rate, if there is one.
    """

    name: str
    title: str
    values: tuple[float, ...]
    mean: float
    sd: float | None
    low: float
    high: float
    seconds: float
    upstream_seconds: float
    examples: int
    tokens: int
    flops: float
    trained_parameters: int
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None
    verdict: str | None = None
    beats_majority: tuple[float, float] | None = None


@dataclass(frozen=True)
class CheckResult:
    """A check of one target.

    Attributes:
        target, kind, metric: the task and the metric that all figures are of.
        n_rows: evaluation rows.
        train_rows: training rows of the target.
        steps: optimiser steps on the target, the same for every arm.
        n_seeds: trainings per arm.
        majority: score of always giving the training rows' most frequent label; None where that makes no sense.
        sources: chosen sources, best first; empty when none was expected to help (fused is then target-only).
        all_sources: those that could have been chosen.
        summary: why these.
        margin: largest loss that counts as not inferior, stated before the run.
        arms: results in the order asked for.
        provenance: versions, machine, commit.
    """

    target: str
    kind: str
    metric: str
    n_rows: int
    train_rows: int
    steps: int
    n_seeds: int
    majority: float | None
    sources: tuple[str, ...]
    all_sources: tuple[str, ...]
    summary: str
    method: str
    margin: float
    arms: tuple[ArmResult, ...]
    seconds: float
    provenance: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


def check(
    setup: Setup, target: str, *, sources: Literal["auto"] | Sequence[str] = "auto", method: str = DEFAULT_METHOD,
    rows: int | None = None, seeds: int | Sequence[int] = 5, arms_wanted: Sequence[str] = DEFAULT_ARMS,
    margin: float = 0.01, budget: Budget | str | int = DEFAULT_BUDGET,
) -> CheckResult:  # fmt: skip
    """Trains every arm on the target over several seeds and compares them; trainings done before are not repeated.

    The chosen sources, the method and all settings are fixed before any evaluation row is read.

    Args:
        setup: backbone, recipe, encoding, zoo.
        target: name of the target task.
        sources: "auto", or names of tasks whose adapters are in the zoo.
        method: of fusion.
        rows: at most so many training rows of the target.
        seeds: trainings per arm: how many (seeds 0, 1, ...), or which seeds.
        arms_wanted: names of arms; "fused" is always among them, since the others are compared with it.
        margin: non-inferiority margin in the metric's unit (0.01 is one point of accuracy).
        budget: what choosing sources may cost, as for :func:`adaptmtl.fusion.fuse.fuse`.

    Raises:
        UnknownNameError: no such target, source, method or arm.
        SelectionError: the target is among the sources, or the zoo has none.
    """
    fusions[method]
    numbers, wanted, budget = seed_list(seeds), name_list(arms_wanted, "arms_wanted"), Budget.of(budget)
    for name in wanted:
        arms[name]
    wanted += [] if "fused" in wanted else ["fused"]
    with measured() as cost:
        plan, choice = make_plan(setup, target, sources, method, rows, budget, ranked="best_source" in wanted)
        strangers = [entry.task for entry in plan.all_sources if entry.task not in setup.catalogue.tasks]
        if strangers and any(arms[name].multitask for name in wanted):
            setup.workspace.reporter.say(
                f"full multi-task training is without {', '.join(strangers)}: no task of that name is known, so there "
                "are no rows; adaptmtl tasks add"
            )
        runs = {name: [_run(plan, _stands_for(plan, name), seed) for seed in numbers] for name in wanted}
    metric, data = plan.target.spec.main_metric, plan.target
    _remember(plan, choice, runs, numbers)
    majority = majority_score(data)
    choosing = {"fused": choosing_cost(plan)}  # not in the arm's own product: named sources take no trial
    summaries = {
        name: _summarise(name, found, metric, majority, choosing.get(name, Upstream())) for name, found in runs.items()
    }
    results = _compare(summaries, runs, metric, margin)
    return CheckResult(
        target=target,
        kind=str(data.spec.kind),
        metric=metric,
        n_rows=len(data.validation.rows),
        train_rows=data.n_train,
        steps=plan.setup.recipe.steps or 0,
        n_seeds=len(numbers),
        majority=majority,
        sources=tuple(entry.task for entry in plan.chosen),
        all_sources=tuple(entry.task for entry in plan.all_sources),
        summary=choice.summary,
        method=method,
        margin=margin,
        arms=tuple(results),
        seconds=cost.seconds,
        provenance=record(seeds=numbers, backbone=setup.backbone.hash, data=data.fingerprint, origin=data.origin),
    )


def make_plan(
    setup: Setup, target: str, sources: Literal["auto"] | Sequence[str], method: str, rows: int | None,
    budget: Budget = DEFAULT_BUDGET, ranked: bool = True,
) -> tuple[Plan, Choice]:  # fmt: skip
    """Chooses the sources and fixes the number of steps, from training rows alone; returns the plan and the choice.

    Sources that are named come in the order of their predicted gains where ``ranked``.
    """
    data = setup.data(target, rows)
    choice = choose_sources(setup, target, sources, rows, method, budget)
    found = find_sources(setup, data)
    candidates = {entry.key: entry for entry in (*found.entries, *choice.entries)}
    table = choice.table
    if ranked and table is None and len(choice.entries) > 1:
        table = rank_sources(setup, target, sources=[entry.task for entry in choice.entries], rows=rows)
    order = [row.key for row in table.sources] if table else [entry.key for entry in choice.entries]
    place = {key: i for i, key in enumerate(order)}
    chosen = tuple(sorted(choice.entries, key=lambda entry: place.get(entry.key, len(place))))
    usable = [candidates[key] for key in order if key in candidates]
    usable += [entry for key, entry in candidates.items() if key not in order]
    fixed = setup.with_steps(setup.recipe.steps_for(sizes_of(data.train).units))
    overlapping = frozenset(task for task, _ in found.overlapping)
    return Plan(fixed, setup, data, tuple(usable), chosen, method, choice.trial, overlapping), choice


def _remember(plan: Plan, choice: Choice, runs: Mapping[str, Sequence[_Done]], seeds: Sequence[int]) -> None:
    """Puts what the arms that transfer gained over the target's own adapter into the workspace's history.

    What owes its gain to texts that a source shares with the evaluation rows is no lesson for other targets.
    """
    setup, data, metric = plan.setup, plan.target, plan.target.spec.main_metric
    recipe = recipe_of(setup)
    found = []
    for name, entries in (("best_source", plan.related[:1]), ("fused", plan.chosen)):
        sources = tuple(sorted(entry.task for entry in entries))
        seen = choice.seen.get(sources)
        for seed, run, alone in zip(seeds, runs.get(name, ()), runs.get("target_adapter", ()), strict=False):
            if sources and not plan.overlapping & set(sources):
                found.append(Transfer(
                    setup.backbone.hash, data.spec.name, sources, seed, run.facts["values"][metric],
                    alone.facts["values"][metric], metric, data.n_train,
                    plan.method if name == "fused" else "start", recipe, run.facts["seconds"],
                    seen=seen.to_json() if seen else "",
                ))  # fmt: skip
    remember_transfers(setup, data, found)


def _stands_for(plan: Plan, name: str) -> str:
    """Returns the arm whose trainings an arm's figures come from: without chosen sources, fused is target-only."""
    return "target_adapter" if name == "fused" and not plan.chosen else name


@dataclass(frozen=True)
class _Done:
    """One finished training of an arm: statistics per metric (rows, d), and what it cost."""

    statistics: dict[str, np.ndarray]
    facts: dict[str, Any]


def _run(plan: Plan, name: str, seed: int) -> _Done:
    arm: Arm = arms[name]
    setup, sources = plan.setup, arm.sources(plan)
    foreign = not is_ours(arm.run)  # it may use whatever the plan holds
    fuses = name in ("fused", "random_sources") or foreign
    trains_on_rows = arm.multitask or (fuses and trains_on_sources(plan.method))
    key = setup.key(
        "arm", arm_version=VERSION, arm=name, seed=seed, target=plan.target.spec.name, data=plan.target.identity,
        sources=sorted(entry.key for entry in sources),
        source_recipe=plan.source_setup.recipe.to_dict() if arm.full or foreign else None,
        method=plan.method if fuses else None,
        **({"source_rows": plan.rows_of(sources)} if trains_on_rows else {}),
        **({"drawn": len(plan.related)} if name == "random_sources" else {}),
    )  # fmt: skip
    folder, metric = setup.workspace.folder("checks", key), plan.target.spec.main_metric

    def make() -> _Done:
        arm.prepare(plan)
        with until_published():
            return _made(plan, name, seed, folder)

    return made_once(setup.workspace, key, lambda: _held(folder, metric), make)


def _made(plan: Plan, name: str, seed: int, folder: Path) -> _Done:
    """Trains one seed of an arm, scores it and publishes what it came to."""
    arm: Arm = arms[name]
    setup, metric = plan.setup, plan.target.spec.main_metric
    with measured() as cost:
        run = arm.run(plan, seed)
        scored = evaluate(run.trained, setup.workspace, plan.target)
    log, before = run.trained.log, run.before or Log()
    cost.add(log.earlier, before.earlier)
    facts = {
        "values": scored.values,
        "seconds": cost.seconds,
        "upstream": asdict(run.upstream),
        "rows": log.rows + before.rows,
        "tokens": log.tokens + before.tokens,
        "flops": (log.tokens + before.tokens) * flops_per_token(setup, full=arm.full),
        "trained_parameters": run.trained.trained_parameters,
        "peak_memory_mib": cost.peak_memory_mib,
        "provenance": record(seed=seed, arm=name),
    }
    statistics = {name: torch.from_numpy(values) for name, values in scored.statistics.items()}
    shutil.rmtree(folder, ignore_errors=True)  # what is there is damaged
    with publish_folder(folder) as temporary:
        save_file(statistics, temporary / "statistics.safetensors")
        write_json(temporary / "facts.json", {**facts, "sha256": sha256_file(temporary / "statistics.safetensors")})
    setup.workspace.reporter.say(
        f"{arm.title}, seed {seed}: {metric} {scored.values[metric]:.3f}, {cost.seconds:.0f} s"
    )
    return _Done(scored.statistics, facts)


def _held(folder: Path, metric: str) -> _Done | None:
    facts = read_json(folder / "facts.json")
    statistics = read_tensors(folder / "statistics.safetensors", facts)
    if facts is None or statistics is None or metric not in statistics:
        return None
    return _Done({name: values.numpy() for name, values in statistics.items()}, facts)


def _summarise(name: str, runs: Sequence[_Done], metric: str, majority: float | None, choosing: Upstream) -> ArmResult:
    stats = np.stack([run.statistics[metric] for run in runs])
    scorer = metrics[metric].score
    bounds = interval(stats, scorer, limits=(metrics[metric].lowest, 1.0))
    above = against_constant(stats, scorer, majority) if majority is not None else None
    upstream = {
        part: float(np.mean([run.facts["upstream"][part] for run in runs])) + extra
        for part, extra in asdict(choosing).items()
    }  # differs between seeds only where each draws sources of its own
    return ArmResult(
        name=name,
        title=arms[name].title,
        values=tuple(run.facts["values"][metric] for run in runs),
        mean=bounds.mean,
        sd=bounds.sd_seeds if len(runs) > 1 else None,
        low=bounds.low,
        high=bounds.high,
        seconds=_mean(runs, "seconds"),
        upstream_seconds=upstream["seconds"],
        examples=round(_mean(runs, "rows") + upstream["rows"]),
        tokens=round(_mean(runs, "tokens") + upstream["tokens"]),
        flops=_mean(runs, "flops") + upstream["flops"],
        trained_parameters=runs[0].facts["trained_parameters"],
        beats_majority=(above.low, above.high) if above else None,
    )


def _compare(
    results: dict[str, ArmResult], runs: dict[str, list[_Done]], metric: str, margin: float
) -> list[ArmResult]:
    scorer = metrics[metric].score
    stats = {name: np.stack([run.statistics[metric] for run in found]) for name, found in runs.items()}
    others = [name for name in results if name != "fused"]
    compared = {name: paired(stats["fused"], stats[name], scorer) for name in others}
    adjusted = dict(zip(others, holm([compared[name].p_two_sided for name in others]), strict=True))
    out = []
    for name, result in results.items():
        if name in compared:
            one, p = compared[name], float(adjusted[name])
            same = np.array_equal(stats["fused"], stats[name])
            result = replace(result, difference=one.difference, difference_low=one.low, difference_high=one.high,
                             p_value=p, verdict="identical" if same else verdict(one, margin, p))  # fmt: skip
        out.append(result)
    return out


def majority_score(data: TaskData) -> float | None:
    """Returns the accuracy of always giving the most frequent training label; None for other metrics and kinds."""
    kind = data.spec.kind
    if not (kind.named_labels and kind.form == "classes" and data.spec.main_metric == "accuracy"):
        return None
    label, _ = Counter(row[kind.answer] for row in data.train.rows.rows).most_common(1)[0]
    return float(np.mean([row[kind.answer] == label for row in data.validation.rows.rows]))


def _mean(runs: Sequence[_Done], fact: str) -> float:
    return float(np.mean([float(run.facts[fact]) for run in runs]))
