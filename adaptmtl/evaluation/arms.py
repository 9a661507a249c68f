"""The rows of a check: ways to reach the same target, with the same steps on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from adaptmtl.errors import SelectionError
from adaptmtl.fusion.methods import start_from
from adaptmtl.fusion.run import rows_behind, run_fusion
from adaptmtl.registry import Registry
from adaptmtl.selection.halving import Trial
from adaptmtl.training.adapter import Trained, fine_tune, train_adapter
from adaptmtl.training.data import TaskData
from adaptmtl.training.kept import kept_shared
from adaptmtl.training.loop import Log
from adaptmtl.training.setup import Setup
from adaptmtl.zoo.index import Entry


@dataclass(frozen=True)
class Plan:
    """What all arms of a check share.

    Attributes:
        setup: with the target's number of steps fixed in the recipe.
        source_setup: the recipe that sources were trained with.
        target: its rows.
        all_sources: adapters that could be used, best first by the ranking where there is one.
        chosen: the adapters that were chosen; empty when none was expected to help.
        method: of fusion.
        trial: the trainings that the choice rests on, if any.
        overlapping: tasks of sources that share texts with the target's evaluation rows and are used all the same.
    """

    setup: Setup
    source_setup: Setup
    target: TaskData
    all_sources: tuple[Entry, ...]
    chosen: tuple[Entry, ...]
    method: str
    trial: Trial = field(default_factory=Trial)
    overlapping: frozenset[str] = frozenset()

    def rows_of(self, entries: Sequence[Entry]) -> dict[str, Any]:
        """Returns what identifies the rows that sources have now, by task; those of unknown tasks are absent."""
        return {one.task: self._rows[one.task] for one in entries if one.task in self._rows}

    @cached_property
    def _rows(self) -> dict[str, Any]:
        return rows_behind(self.setup, (*self.all_sources, *self.chosen))

    @property
    def related(self) -> tuple[Entry, ...]:
        """The chosen sources, or the three best ranked when none was chosen."""
        return self.chosen or self.all_sources[:3]


@dataclass(frozen=True)
class Run:
    """One training of an arm.

    Attributes:
        trained: the target's model.
        upstream: what was done before the target's own steps and is shared by all seeds.
        before: what this seed trained before the target's own steps (the joint adapter of the sources), if anything.
    """

    trained: Trained
    upstream: Upstream
    before: Log | None = None


@dataclass(frozen=True)
class Upstream:
    """Cost of what happens before the target's own steps, once for all seeds."""

    seconds: float = 0.0
    rows: int = 0
    tokens: int = 0
    flops: float = 0.0


@dataclass(frozen=True)
class Arm:
    """A way to reach the target.

    Attributes:
        title: for people.
        sources: the adapters (or their tasks' rows) that it depends on.
        run: trains one seed of it.
        full: whether all weights are trained, rather than an adapter.
        multitask: whether an encoder is trained on the sources' rows first, once for all seeds.
    """

    title: str
    sources: Callable[[Plan], tuple[Entry, ...]]
    run: Callable[[Plan, int], Run]
    full: bool = False
    multitask: bool = False

    def prepare(self, plan: Plan) -> None:
        """Does what all seeds share, so that it is not in the cost of the first."""
        if self.multitask:
            _shared_encoder(plan, self.sources(plan))


arms: Registry[Arm] = Registry("arm", "adaptmtl.arms")


def _none(plan: Plan) -> tuple[Entry, ...]:
    return ()


def _target_adapter(plan: Plan, seed: int) -> Run:
    setup = plan.setup
    return Run(train_adapter(setup.workspace, setup.backbone, plan.target, setup.recipe, seed), Upstream())


def _target_full(plan: Plan, seed: int) -> Run:
    setup = plan.setup
    return Run(fine_tune(setup.workspace, setup.backbone, plan.target, setup.recipe, seed), Upstream())


def _best_source(plan: Plan, seed: int) -> Run:
    source = plan.related[0]
    start = start_from(plan.setup, [source.load(backbone_hash=plan.setup.backbone.hash)])
    setup, description = plan.setup, f"{plan.target.spec.name} from {source.task}"
    trained = train_adapter(
        setup.workspace, setup.backbone, plan.target, setup.recipe, seed, start=start, description=description
    )
    return Run(trained, _adapters_cost(plan, (source,)))


def _fused(plan: Plan, seed: int) -> Run:
    fused = run_fusion(plan.setup, plan.target, plan.chosen, plan.method, seed)
    return Run(fused.trained, _adapters_cost(plan, plan.chosen), fused.before)


def _random_sources(plan: Plan, seed: int) -> Run:
    chosen = random_sources(plan, seed)
    fused = run_fusion(plan.setup, plan.target, chosen, plan.method, seed)
    return Run(fused.trained, _adapters_cost(plan, chosen), fused.before)


def random_sources(plan: Plan, seed: int) -> tuple[Entry, ...]:
    """Draws as many sources as were chosen, another set for each seed."""
    by_name = sorted(plan.all_sources, key=lambda entry: entry.key)
    drawn = np.random.default_rng(1000 + seed).permutation(len(by_name))[: len(plan.related)]
    return tuple(by_name[int(index)] for index in sorted(drawn))


def _multitask(sources: Callable[[Plan], tuple[Entry, ...]]) -> Callable[[Plan, int], Run]:
    def run(plan: Plan, seed: int) -> Run:
        encoder, upstream = _shared_encoder(plan, sources(plan))
        setup = plan.setup
        trained = fine_tune(setup.workspace, setup.backbone, plan.target, setup.recipe, seed, start=encoder,
                            description=f"{plan.target.spec.name} after multi-task")  # fmt: skip
        return Run(trained, upstream)

    return run


def _related(plan: Plan) -> tuple[Entry, ...]:
    return with_rows(plan, plan.related)


def _all(plan: Plan) -> tuple[Entry, ...]:
    return with_rows(plan, plan.all_sources)


def with_rows(plan: Plan, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Leaves out adapters of tasks that are not known here (pulled ones, say): multi-task training needs their rows.

    Raises:
        SelectionError: none is left.
    """
    known = tuple(entry for entry in entries if entry.task in plan.setup.catalogue.tasks)
    if not known:
        raise SelectionError(
            "no rows for full multi-task training: no known task among "
            f"{', '.join(entry.task for entry in entries) or 'none'}; "
            "add one with: adaptmtl tasks add, or leave the arm out with --arms"
        )
    return known


arms.register("target_adapter")(Arm("target-only adapter", _none, _target_adapter))
arms.register("target_full")(Arm("target-only full fine-tuning", _none, _target_full, full=True))
arms.register("best_source")(Arm("best predicted source, then target", lambda plan: plan.related[:1], _best_source))
arms.register("random_sources")(
    Arm("random sources fused, then target", lambda plan: plan.all_sources, _random_sources)
)
arms.register("fused")(Arm("fused (chosen sources)", lambda plan: plan.chosen, _fused))
arms.register("multitask_chosen")(
    Arm("full multi-task on chosen, then target", _related, _multitask(_related), full=True, multitask=True)
)
arms.register("multitask_all")(
    Arm("full multi-task on all, then target", _all, _multitask(_all), full=True, multitask=True)
)


def flops_per_token(setup: Setup, *, full: bool) -> float:
    """Returns the matrix-product work of one training step per token, attention left out.

    A layer of width h holds 12 h^2 weights. Training all weights takes 6 operations per weight (forward 2, backward 4);
    an adapter's frozen weights take 4, in the layers that carry one.
    """
    per_layer = 12 * setup.backbone.hidden_size**2
    if full:
        return 6.0 * per_layer * setup.backbone.n_layers
    return 4.0 * per_layer * (setup.backbone.n_layers - setup.recipe.layers_below(setup.backbone))


def _adapters_cost(plan: Plan, entries: tuple[Entry, ...]) -> Upstream:
    manifests = [entry.manifest() for entry in entries]
    tokens = sum(int(one.provenance.get("tokens_seen", 0)) for one in manifests)
    return Upstream(
        seconds=sum(one.cost.seconds for one in manifests),
        rows=sum(one.cost.examples_seen for one in manifests),
        tokens=tokens,
        flops=tokens * flops_per_token(plan.setup, full=False),
    )


def choosing_cost(plan: Plan) -> Upstream:
    """Returns what the trial took that the choice of sources rests on."""
    trial = plan.trial
    return Upstream(trial.seconds, trial.examples, trial.tokens, trial.tokens * flops_per_token(plan.setup, full=False))


def _shared_encoder(plan: Plan, entries: tuple[Entry, ...]) -> tuple[dict[str, Tensor], Upstream]:
    """Trains all weights on the sources' rows, once for all seeds, in as many steps as their adapters took together."""
    setup = plan.source_setup
    ordered = sorted(entries, key=lambda one: one.task)  # the key knows no order, so the training must not either
    tasks = {one.task: setup.data(one.task, one.train_rows) for one in ordered}
    steps = sum(one.manifest().cost.steps for one in ordered)
    shared = kept_shared(setup, tasks, steps, full=True, description=f"multi-task on {len(tasks)} tasks")
    flops = shared.log.tokens * flops_per_token(setup, full=True)
    return shared.tensors, Upstream(shared.seconds, shared.log.rows, shared.log.tokens, flops)
