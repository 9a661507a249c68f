"""Trains one adapter, or all weights, on one task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adaptmtl.adapters.heads import Head, make_head
from adaptmtl.adapters.methods import LoraWeights
from adaptmtl.backbone.load import Backbone
from adaptmtl.backbone.precision import default_dtype, merged_once
from adaptmtl.backbone.states import RecomputedStates, States, states_on
from adaptmtl.tasks.encoded import EncodedRows
from adaptmtl.training.batches import epochs_of_units, labelled, make_batch, pieces, training_units
from adaptmtl.training.checkpoint import checkpoint_for
from adaptmtl.training.data import PreparedSplit, TaskData
from adaptmtl.training.loop import Log, Piece, accelerator, place, run
from adaptmtl.training.model import TaskModel, full_encoder, lora_model, outputs_of, to_device
from adaptmtl.training.recipe import Recipe
from adaptmtl.workspace import Workspace


@dataclass(frozen=True)
class Trained:
    """A trained task model, with what is needed to run it on another split.

    Attributes:
        model: in evaluation mode.
        weights: LoRA tensors by module name; None after full fine-tuning.
        k: lower layers whose states the model reads.
        log: steps, rows and tokens seen, losses.
        trained_parameters: number of trained values, the head included.
    """

    model: TaskModel
    weights: LoraWeights | None
    k: int
    log: Log
    trained_parameters: int

    def outputs(self, workspace: Workspace, split: PreparedSplit) -> np.ndarray:
        """Returns the outputs on a split, in its encoded order."""
        device = accelerator().device
        return outputs_of(self.model, split.encoded, split.states(workspace, self.k, default_dtype(), device), device)


def train_adapter(
    workspace: Workspace,
    backbone: Backbone,
    data: TaskData,
    recipe: Recipe,
    seed: int,
    *,
    start: LoraWeights | None = None,
    head: Head | None = None,
    description: str | None = None,
) -> Trained:
    """Trains a LoRA and a head on a task's training rows.

    Args:
        workspace: holds cached states.
        backbone: frozen encoder.
        data: the task.
        recipe: all choices.
        seed: of the head's weights, the order of rows and dropout.
        start: LoRA weights to begin from (a source's, or a merge's); fresh ones by default.
        head: to begin from; fresh by default.
        description: shown with the progress.
    """
    k = recipe.layers_below(backbone)
    head = head or make_head(data.spec, backbone.hidden_size, data.train.encoded, seed, recipe.head_dropout)
    built = lora_model(backbone, recipe.method, k, head, default_dtype(), start)
    states = data.train.states(workspace, k, default_dtype(), accelerator().device)
    rate = recipe.learning_rate
    own = head_rates(recipe, head)
    log = fit(built.model, data.train, states, recipe, seed, rate, workspace, description or data.spec.name, own)
    return Trained(built.model, built.weights, k, log, count_trainable(built.model))


def fine_tune(
    workspace: Workspace,
    backbone: Backbone,
    data: TaskData,
    recipe: Recipe,
    seed: int,
    *,
    start: dict[str, Tensor] | None = None,
    description: str | None = None,
) -> Trained:
    """Trains all weights of the encoder and a fresh head on a task.

    Args:
        workspace: as in :func:`train_adapter`; so are ``backbone``, ``data``, ``seed`` and ``description``.
        backbone: pretrained weights.
        data: the task.
        recipe: ``full_learning_rate`` is the one used.
        seed: of the head, the order of rows and dropout.
        start: encoder weights to begin from (from multi-task training), else the pretrained ones.
        description: shown with the progress.
    """
    head = make_head(data.spec, backbone.hidden_size, data.train.encoded, seed, recipe.head_dropout)
    model = TaskModel(full_encoder(backbone, default_dtype(), start), head, frozen=False)
    name = description or f"{data.spec.name} (all weights)"
    log = fit(model, data.train, None, recipe, seed, recipe.full_learning_rate, workspace, name)
    return Trained(model, None, 0, log, count_trainable(model))


def fit(
    model: TaskModel,
    split: PreparedSplit,
    states: States | None,
    recipe: Recipe,
    seed: int,
    learning_rate: float,
    workspace: Workspace,
    description: str,
    own_rates: Sequence[tuple[torch.nn.Parameter, float]] = (),
) -> Log:
    """Trains a task model on one split, in place; the arguments are those of :func:`adaptmtl.training.loop.run`."""
    units = epochs_of_units(split.encoded, recipe.batch_size, seed)
    device = accelerator().device
    states = states_on(states, device)

    def step(prepared: torch.nn.Module) -> Iterator[Piece]:
        return accumulated(prepared, model.head, split.encoded, states, next(units), device)

    def skip(done: int) -> None:
        for _ in range(done):
            next(units)

    steps = recipe.steps_for(len(training_units(split.encoded)))
    checkpoint = checkpoint_for(
        workspace, model, backbone=split.backbone.hash, rows=split.encoded.fingerprint, recipe=recipe.to_dict(),
        lower=model.encoder.first, dtype=str(default_dtype()), device=device.type, steps=steps,
        learning_rate=learning_rate, seed=seed,
        own_rates=[rate for _, rate in own_rates], recomputed=isinstance(states, RecomputedStates),
    )  # fmt: skip
    return run(
        model, step, recipe, steps,
        learning_rate=learning_rate, seed=seed, reporter=workspace.reporter, description=description,
        own_rates=own_rates, checkpoint=checkpoint, skip=skip,
    )  # fmt: skip


def head_rates(recipe: Recipe, *heads: Head) -> list[tuple[torch.nn.Parameter, float]]:
    """Returns the peak learning rates of heads beside an adapter, where they are not the adapter's."""
    if recipe.head_rate == 1:
        return []
    rate = recipe.learning_rate * recipe.head_rate
    return [(one, rate) for head in heads if head.hasty for one in head.parameters()]


def accumulated(
    prepared: torch.nn.Module,
    head: Head,
    encoded: EncodedRows,
    states: States | None,
    units: np.ndarray,
    device: torch.device,
    share: float = 1.0,
) -> Iterator[Piece]:
    """Yields a step in pieces whose losses add up to ``share`` of the mean loss over its units.

    Of several processes each yields its own part of the units.
    """
    rank, processes = place()
    own = units[rank::processes]
    parts = pieces(encoded, own, device) if len(own) else []
    weights = [labelled(encoded, part) for part in parts]
    whole = labelled(encoded, units)
    if whole == 0:  # no labels at all: the mean is whatever the head says of none
        weights, whole = [1] * len(parts), len(parts) * processes
    with merged_once(prepared):
        for part, weight in zip(parts, weights, strict=True):
            if weight == 0:  # the mean over none may be no number
                continue
            batch = make_batch(encoded, states, part)
            moved = to_device(batch, device)
            loss = head.loss(prepared(moved), moved) * (share * weight / whole)
            yield Piece(loss, len(batch.sizes), batch.n_tokens)


def count_trainable(model: torch.nn.Module) -> int:
    """Returns the number of trainable values."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
