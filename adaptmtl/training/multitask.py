"""One encoder, many tasks, a head each: batches mix rows of all tasks.

Full multi-task training of all weights is what adapters are checked against (Padmakumar et al. 2022); with a LoRA
instead, it is the "joint" way of fusing sources.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adaptmtl.adapters.heads import Head, make_head
from adaptmtl.adapters.methods import LoraWeights
from adaptmtl.backbone.load import Backbone
from adaptmtl.backbone.precision import default_dtype
from adaptmtl.backbone.states import RecomputedStates, States, states_on
from adaptmtl.errors import SelectionError
from adaptmtl.training.adapter import accumulated, count_trainable, head_rates
from adaptmtl.training.batches import epochs_of_units, make_batch, training_units
from adaptmtl.training.checkpoint import checkpoint_for
from adaptmtl.training.data import TaskData
from adaptmtl.training.loop import Log, Piece, accelerator, run
from adaptmtl.training.model import TaskModel, full_encoder, lora_model, to_device
from adaptmtl.training.recipe import Recipe
from adaptmtl.workspace import Workspace


@dataclass(frozen=True)
class Mixing:
    """How tasks share the steps.

    Attributes:
        temperature: a task's share is its rows to the power 1 / temperature; 1 is proportional (the paper's choice).
        patience: checks of the held-out loss without improvement after which training stops; 0 for never.
        checks: how often over the planned steps the held-out loss is looked at.
        held_out: share of each task's training rows for it.
        most_held_out: most rows, and then most units, of a task that are looked at.
    """

    temperature: float = 1.0
    patience: int = 3
    checks: int = 5
    held_out: float = 0.1
    most_held_out: int = 32


@dataclass(frozen=True)
class Shared:
    """The result of multi-task training.

    Attributes:
        encoder: weights of the whole encoder (full training), else None.
        lora: LoRA weights (joint adapter), else None.
        log: steps, rows, tokens, losses.
        held_out_losses: mean loss over tasks at each check, the best of which was kept.
        trained_parameters: number of trained values, heads included.
    """

    encoder: dict[str, Tensor] | None
    lora: LoraWeights | None
    log: Log
    held_out_losses: tuple[float, ...]
    trained_parameters: int


def train_shared(
    workspace: Workspace,
    backbone: Backbone,
    tasks: Mapping[str, TaskData],
    recipe: Recipe,
    seed: int,
    *,
    full: bool,
    mixing: Mixing | None = None,
    description: str = "multi-task",
) -> Shared:
    """Trains one encoder on several tasks at once.

    Args:
        workspace: holds cached states.
        backbone: pretrained weights.
        tasks: their rows, by name; only training rows are read.
        recipe: its steps are for the union of rows; ``batch_size`` rows of mixed tasks a step.
        seed: of heads, mixing, order and dropout.
        full: train all weights; else one LoRA shared by the tasks.
        mixing: shares and early stopping.
        description: shown with the progress.

    Raises:
        SelectionError: no task is given.
    """
    if not tasks:
        raise SelectionError("multi-task training needs at least one task; none was given")
    mixing = mixing or Mixing()
    parts = {name: data.hold_out(mixing.held_out, mixing.most_held_out, seed=0) for name, data in tasks.items()}
    heads = {
        name: make_head(data.spec, backbone.hidden_size, data.train.encoded, seed + index, recipe.head_dropout)
        for index, (name, data) in enumerate(parts.items())
    }
    k = 0 if full else recipe.layers_below(backbone)
    lora: LoraWeights | None = None
    if full:
        encoder = full_encoder(backbone, default_dtype())
    else:
        built = lora_model(backbone, recipe.method, k, next(iter(heads.values())), default_dtype())
        encoder, lora = built.model.encoder, built.weights
    models = nn.ModuleDict({_slot(name): TaskModel(encoder, head, frozen=not full) for name, head in heads.items()})
    device = accelerator().device
    states = {
        name: states_on(data.train.states(workspace, k, default_dtype(), device), device)
        for name, data in parts.items()
    }
    mixture = _Mixture(parts, recipe.batch_size, mixing.temperature, seed)
    steps = recipe.steps_for(sum(len(training_units(data.train.encoded)) for data in parts.values()))
    held_out = {name: data.validation.states(workspace, k, default_dtype(), device) for name, data in parts.items()}
    watch = _Watch(models, parts, held_out, mixing, steps, device)

    def step(prepared: nn.Module) -> Iterator[Piece]:
        chosen = next(mixture)
        total = sum(len(units) for units in chosen.values())
        for name, units in chosen.items():
            model = prepared[_slot(name)]  # type: ignore[index]
            encoded = parts[name].train.encoded
            yield from accumulated(model, model.head, encoded, states[name], units, device, len(units) / total)

    def skip(done: int) -> None:
        for _ in range(done):
            next(mixture)

    rate = recipe.full_learning_rate if full else recipe.learning_rate
    own_rates = [] if full else head_rates(recipe, *heads.values())
    checkpoint = checkpoint_for(
        workspace, models, backbone=backbone.hash, recipe=recipe.to_dict(), mixing=asdict(mixing), full=full, lower=k,
        dtype=str(default_dtype()), device=device.type, steps=steps, learning_rate=rate, seed=seed,
        own_rates=[rate for _, rate in own_rates],
        recomputed=[name for name, held in states.items() if isinstance(held, RecomputedStates)],
        rows={name: (data.train.encoded.fingerprint, data.validation.encoded.fingerprint)
              for name, data in parts.items()},
    )  # fmt: skip
    log = run(models, step, recipe, steps, learning_rate=rate, seed=seed, reporter=workspace.reporter,
              description=description, own_rates=own_rates, stop=watch.after, checkpoint=checkpoint, skip=skip,
              extra=watch)  # fmt: skip
    watch.restore()
    return Shared(
        encoder={name: value.detach().clone() for name, value in encoder.state_dict().items()} if full else None,
        lora=lora,
        log=log,
        held_out_losses=tuple(watch.losses),
        trained_parameters=count_trainable(models),
    )


def _slot(task: str) -> str:
    """Returns what a task's model is called among others, whatever the task: "train" is taken, and dots are refused."""
    return "task " + task.replace(".", ",")


class _Mixture:
    """Draws the units of each step: task by share, units from that task's own endless, bucketed order."""

    def __init__(self, parts: Mapping[str, TaskData], batch_size: int, temperature: float, seed: int):
        sizes = np.array([len(training_units(data.train.encoded)) for data in parts.values()], dtype=float)
        share = sizes ** (1.0 / temperature)
        self.names, self.share, self.batch_size = list(parts), share / share.sum(), batch_size
        self.generator = np.random.default_rng(seed)
        self.queues = {name: _Queue(data, batch_size, seed) for name, data in parts.items()}

    def __next__(self) -> dict[str, np.ndarray]:
        counts = self.generator.multinomial(self.batch_size, self.share)
        return {name: self.queues[name].take(int(n)) for name, n in zip(self.names, counts, strict=True) if n}


class _Queue:
    def __init__(self, data: TaskData, batch_size: int, seed: int):
        self.source = epochs_of_units(data.train.encoded, batch_size, seed)
        self.held = np.empty(0, dtype=np.int64)

    def take(self, count: int) -> np.ndarray:
        while len(self.held) < count:
            self.held = np.concatenate([self.held, next(self.source)])
        taken, self.held = self.held[:count], self.held[count:]
        return taken


class _Watch:
    """Looks at the mean held-out loss now and then, keeps the best weights, and says when to stop."""

    def __init__(
        self, models: nn.ModuleDict, parts: Mapping[str, TaskData], states: Mapping[str, States | None],
        mixing: Mixing, steps: int, device: torch.device,
    ):  # fmt: skip
        self.models, self.parts, self.states, self.mixing, self.device = models, parts, states, mixing, device
        self.every = max(1, steps // mixing.checks)
        self.losses: list[float] = []
        self.best: dict[str, Tensor] | None = None

    def after(self, step: int) -> bool:
        if not self.mixing.patience or (step + 1) % self.every:
            return False
        self.losses.append(self._mean_loss())
        if self.losses[-1] == min(self.losses):
            trained = {name for name, p in self.models.named_parameters() if p.requires_grad}
            self.best = {n: copy.deepcopy(p.detach()) for n, p in self.models.named_parameters() if n in trained}
        waited = len(self.losses) - 1 - int(np.argmin(self.losses))
        return waited >= self.mixing.patience

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns what a checkpoint has to hold of the watch."""
        return self.best or {}, {"losses": self.losses, "kept": self.best is not None}

    def restore_saved(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Takes it back."""
        self.losses = list(facts["losses"])
        self.best = {name: value.to(self.device) for name, value in tensors.items()} if facts["kept"] else None

    def restore(self) -> None:
        if self.best is not None:
            with torch.no_grad():
                for name, parameter in self.models.named_parameters():
                    if name in self.best:
                        parameter.copy_(self.best[name])

    def _mean_loss(self) -> float:
        self.models.eval()
        losses = []
        with torch.inference_mode():
            for name, data in self.parts.items():
                encoded, head = data.validation.encoded, _head(self.models[_slot(name)])
                units = training_units(encoded)[: self.mixing.most_held_out]
                batch = to_device(make_batch(encoded, self.states[name], units), self.device)
                losses.append(float(head.loss(self.models[_slot(name)](batch), batch)))
        self.models.train()
        return float(np.mean(losses))


def _head(model: nn.Module) -> Head:
    assert isinstance(model, TaskModel)
    return model.head
