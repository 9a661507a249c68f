"""The training loop that adapters, fusion weights, warm-started targets and full fine-tuning share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from adaptmtl.errors import AdaptMTLError
from adaptmtl.training.recipe import Recipe
from adaptmtl.workspace import Reporter


@dataclass
class Log:
    """What a training did."""

    steps: int = 0
    rows: int = 0
    tokens: int = 0
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """One optimiser step's loss, with the rows and tokens that it saw."""

    loss: Tensor
    rows: int
    tokens: int


def accelerator() -> Accelerator:
    """Returns accelerate's view of the devices; precision is handled by the engine's own layers."""
    return Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())


def run(
    model: nn.Module,
    step: Callable[[nn.Module, int], Step],
    recipe: Recipe,
    steps: int,
    *,
    learning_rate: float,
    seed: int,
    reporter: Reporter,
    description: str,
    own_rates: Sequence[tuple[nn.Parameter, float]] = (),
    stop: Callable[[int], bool] | None = None,
) -> Log:
    """Trains a model's trainable parameters in place with AdamW, linear warm-up and linear decay.

    Args:
        model: the model; parameters without ``requires_grad`` stay as they are.
        step: computes the loss of step i with the prepared model.
        recipe: weight decay, warm-up, clipping.
        steps: number of optimiser steps.
        learning_rate: peak.
        seed: of dropout; batches are the caller's.
        reporter: progress.
        description: shown with the progress.
        own_rates: parameters with a peak learning rate of their own, without weight decay.
        stop: asked after each step; True ends the training early.

    Raises:
        AdaptMTLError: the loss became infinite or not a number.
    """
    device = accelerator()
    special = {id(parameter) for parameter, _ in own_rates}
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1 and id(p) not in special]
    vectors = [p for p in trained if p.ndim <= 1 and id(p) not in special]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
        *({"params": [parameter], "weight_decay": 0.0, "lr": rate} for parameter, rate in own_rates),
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, fused=True)
    warmup = max(1, math.ceil(recipe.warmup * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / warmup, max(0.0, (steps - i) / max(1, steps - warmup)))
    )
    model, optimizer, schedule = device.prepare(model, optimizer, schedule)
    log = Log()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        model.train()
        for i in reporter.track(range(steps), description, steps):
            done = step(model, i)
            value = float(done.loss.detach())
            if not math.isfinite(value):
                raise AdaptMTLError(
                    f"{description}: the loss became {value} at step {i + 1}; "
                    f"lower the learning rate ({learning_rate:g})"
                )
            device.backward(done.loss)
            device.clip_grad_norm_(trained, recipe.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            log.steps += 1
            log.rows += done.rows
            log.tokens += done.tokens
            log.losses.append(value)
            if stop is not None and stop(i):
                break
    model.eval()
    return log
