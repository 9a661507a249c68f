"""Ways to make one adapter for the target out of several sources, each ending with the same steps on the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from adaptmtl.adapters.bundle import Bundle
from adaptmtl.adapters.heads import make_head
from adaptmtl.adapters.methods import LoraMethod, LoraWeights, inject_lora, one_scale, weights_from_peft
from adaptmtl.backbone.precision import LowRankLinear, default_dtype
from adaptmtl.backbone.segments import SegmentedEncoder
from adaptmtl.errors import SelectionError
from adaptmtl.fusion.contract import merges
from adaptmtl.fusion.delta import Delta, add, from_peft, scale_outputs
from adaptmtl.registry import Registry
from adaptmtl.training.adapter import Trained, count_trainable, fit, head_rates, train_adapter
from adaptmtl.training.data import TaskData
from adaptmtl.training.kept import kept_shared
from adaptmtl.training.loop import Log, accelerator
from adaptmtl.training.model import TaskModel
from adaptmtl.training.setup import Setup

#: Peak learning rate of ScaLearn's scales: at 1e-2 they hardly leave their start within a few hundred steps.
SCALE_RATE = 5e-2


@dataclass(frozen=True)
class SourceAdapter:
    """A source as fusion sees it: its rows, for methods that train on them, and its weights."""

    task: str
    train_rows: int
    bundle: Bundle

    @property
    def delta(self) -> Delta:
        """Its weight updates, the scale folded in."""
        return from_peft(self.bundle.adapter, self.bundle.lora_config)


@dataclass(frozen=True)
class FusedModel:
    """A trained fusion.

    Attributes:
        trained: the target's model.
        lora: shape of its LoRA, where that is not the recipe's.
        before: what was trained for this seed before the target's own steps, if anything.
    """

    trained: Trained
    lora: LoraMethod | None = None
    before: Log | None = None

    @property
    def logs(self) -> tuple[Log, Log]:
        """Of the target's own steps, and of what came before."""
        return self.trained.log, self.before or Log()


#: A method that trains on the sources' rows first has an attribute ``trains_on_sources = True``: trials are priced so.
FusionMethod = Callable[[Setup, TaskData, Sequence[SourceAdapter], int], FusedModel]
fusions: Registry[FusionMethod] = Registry("fusion method", "adaptmtl.fusions")


def trains_on_sources(method: str) -> bool:
    """Whether a method trains on the sources' rows before the target's."""
    return bool(getattr(fusions[method], "trains_on_sources", False))


@fusions.register("merge")
def merge_and_tune(setup: Setup, target: TaskData, sources: Sequence[SourceAdapter], seed: int) -> FusedModel:
    """Starts the target's training from the mean of the sources' updates, brought to the recipe's rank.

    One source is taken as it is. The mean of several is taken of B A (never of A and B apart) and cut to the rank by an
    exact SVD; see Wortsman et al. 2022 (model soups) for averaging. It is the default for its cost: nothing is trained
    before the target's own steps, and the rank stays the recipe's. Results of the three methods are not compared yet.
    """
    start = start_from(setup, [one.bundle for one in sources])
    return FusedModel(train_adapter(setup.workspace, setup.backbone, target, setup.recipe, seed, start=start,
                                    description=f"{target.spec.name} from {len(sources)} merged"))  # fmt: skip


@fusions.register("joint")
def train_jointly(setup: Setup, target: TaskData, sources: Sequence[SourceAdapter], seed: int) -> FusedModel:
    """Trains one LoRA on the chosen sources together, then on the target.

    The sources' steps are as many as their own adapters took in all (Padmakumar et al. 2022, with an adapter in place
    of the encoder).
    """
    for one in sources:
        if one.task not in setup.catalogue.tasks:
            raise SelectionError(
                f"method 'joint' trains on the rows of its sources, and no task {one.task!r} is known here: give its "
                "YAML file with --task-file, leave it out of --sources, or take --method merge"
            )
    tasks = {one.task: setup.data(one.task, one.train_rows) for one in sources}
    steps = sum(one.bundle.manifest.cost.steps for one in sources)
    shared = kept_shared(setup, tasks, steps, full=False, seed=seed,
                         description=f"joint adapter of {len(sources)} sources")  # fmt: skip
    modules = dict.fromkeys(name.rpartition(".")[0] for name in shared.tensors)
    start = {name: (shared.tensors[f"{name}.a"], shared.tensors[f"{name}.b"]) for name in modules}
    trained = train_adapter(setup.workspace, setup.backbone, target, setup.recipe, seed, start=start)
    return FusedModel(trained, before=shared.log)


train_jointly.trains_on_sources = True  # type: ignore[attr-defined]


@fusions.register("scalearn")
def scale_and_learn(setup: Setup, target: TaskData, sources: Sequence[SourceAdapter], seed: int) -> FusedModel:
    """Trains one scale per source and output feature, and the head; the sources stay frozen (ScaLearn).

    Frohmann et al. 2024 scale adapter outputs; on LoRA the scales fold into B, so that the result is one ordinary LoRA
    whose rank is the sum of the sources' ranks.
    """
    stacked = add([one.delta for one in sources], [1.0] * len(sources))
    owners = {
        module: torch.cat(
            [torch.full((one.delta[module].rank,), index) for index, one in enumerate(sources) if module in one.delta]
        )
        for module in stacked
    }
    rank = max(update.rank for update in stacked.values())
    shape = LoraMethod(rank=rank, alpha=float(rank), targets=setup.recipe.method.targets)
    k = setup.recipe.layers_below(setup.backbone)
    encoder = setup.backbone.load_encoder()
    start: LoraWeights = {module: (update.a.float(), update.b.float()) for module, update in stacked.items()}
    inject_lora(encoder, shape.config(setup.backbone, k), default_dtype(), _padded(start, rank))
    scales: dict[str, nn.Parameter] = {}
    for module, owner in owners.items():
        layer = encoder.get_submodule(module)
        assert isinstance(layer, LowRankLinear)
        scales[module] = nn.Parameter(torch.full((len(sources), layer.b.shape[0]), 1.0 / len(sources)))
        layer.a.requires_grad_(False)
        layer.b.requires_grad_(False)
        layer.output_scales = scales[module]
        layer.rank_source = nn.functional.pad(owner, (0, rank - len(owner)))
    head = make_head(target.spec, setup.backbone.hidden_size, target.train.encoded, seed, setup.recipe.head_dropout)
    model = TaskModel(SegmentedEncoder(encoder, setup.backbone.anatomy, k), head, frozen=True)
    states = target.train.states(setup.workspace, k, default_dtype(), accelerator().device)
    rates = [*((scale, SCALE_RATE) for scale in scales.values()), *head_rates(setup.recipe, head)]
    log = fit(model, target.train, states, setup.recipe, seed, setup.recipe.learning_rate, setup.workspace,
              f"{target.spec.name} scales of {len(sources)}", rates)  # fmt: skip
    parts = [
        scale_outputs(one.delta, {m: scales[m].detach()[i].cpu() for m in one.delta}) for i, one in enumerate(sources)
    ]
    folded = add(parts, [1.0] * len(sources))
    weights = _padded({module: (update.a.float(), update.b.float()) for module, update in folded.items()}, rank)
    return FusedModel(Trained(model, weights, k, log, count_trainable(model)), shape)


def start_from(setup: Setup, bundles: Sequence[Bundle]) -> LoraWeights:
    """Returns weights to begin training from: one source's own, if its shape is the recipe's, else the mean update."""
    method = setup.recipe.method
    if len(bundles) == 1:
        only, config = bundles[0].adapter, bundles[0].lora_config
        if (config["r"], config["lora_alpha"]) == (method.rank, method.alpha) and one_scale(config):
            return weights_from_peft(only)
    return merged_start(setup, [from_peft(one.adapter, one.lora_config) for one in bundles])


def merged_start(setup: Setup, deltas: Sequence[Delta]) -> LoraWeights:
    """Returns the mean of some updates, cut to the recipe's rank, as weights to begin training from."""
    merged = merges["linear"](deltas, [1.0] * len(deltas), setup.recipe.method.rank, 0)
    return start_weights(setup, merged.delta)


def start_weights(setup: Setup, delta: Delta) -> LoraWeights:
    """Writes a merged update as LoRA weights of the recipe's shape, to begin training from.

    Directions that the update does not use get the usual fresh A and a zero B, so that they can be learned.
    """
    method = setup.recipe.method
    scale = method.alpha / method.rank
    generator = torch.Generator().manual_seed(0)
    weights: LoraWeights = {}
    for module in method.modules(setup.backbone, setup.recipe.layers_below(setup.backbone)):
        update = delta[module]
        a = torch.empty(method.rank, update.a.shape[1]).uniform_(-1, 1, generator=generator) / update.a.shape[1] ** 0.5
        b = torch.zeros(update.b.shape[0], method.rank)
        # balanced halves: |A| and |B| alike, as after training, whatever the SVD gave
        size_a, size_b = update.a.float().norm(dim=1), update.b.float().norm(dim=0)
        balance = torch.sqrt(size_b.clamp(min=1e-12) / size_a.clamp(min=1e-12))
        a[: update.rank] = update.a.float() * balance[:, None]
        b[:, : update.rank] = update.b.float() / balance[None, :] / scale
        weights[module] = (a, b)
    return weights


def _padded(weights: LoraWeights, rank: int) -> LoraWeights:
    """Brings every module to one rank with zeros."""
    pad = nn.functional.pad
    return {
        module: (pad(a, (0, 0, 0, rank - a.shape[0])), pad(b, (0, rank - b.shape[1])))
        for module, (a, b) in weights.items()
    }
