"""The training loop that adapters, fusion weights, warm-started targets and full fine-tuning share."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from adaptmtl.errors import AdaptMTLError
from adaptmtl.storage import alone
from adaptmtl.training.checkpoint import Checkpoint, Extra
from adaptmtl.training.recipe import Recipe
from adaptmtl.workspace import Reporter, Workspace

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")
#: Steps between looks at the losses by device: on a GPU each look waits for the device.
_LOOK_EVERY = {"cuda": 25}
#: Between the seeds of processes that train together: no seed of a person's is another process's.
_APART = 1_000_003


@dataclass
class Log:
    """What a training did.

    Attributes:
        steps: of the optimiser.
        rows: seen, repeated ones again.
        tokens: the same.
        losses: one per step.
        earlier: wall and processor seconds of processes that were killed, up to their last checkpoint.
    """

    steps: int = 0
    rows: int = 0
    tokens: int = 0
    losses: list[float] = field(default_factory=list)
    earlier: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Piece:
    """A part of an optimiser step: its share of the step's loss, with the rows and tokens that it saw."""

    loss: Tensor
    rows: int
    tokens: int


def accelerator() -> Accelerator:
    """Returns accelerate's view of the devices; precision is handled by the engine's own layers.

    Raises:
        AdaptMTLError: something else in this process has set accelerate up for mixed precision, for all of it.
    """
    from accelerate import Accelerator  # imports half of torch: not for commands that train nothing

    try:
        return Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())
    except ValueError as error:
        if "mixed_precision" not in str(error):
            raise
        raise AdaptMTLError(
            "a Trainer or Accelerator of this process uses mixed precision, which accelerate keeps for the whole "
            "process: train adapters in a process of its own"
        ) from error


def place() -> tuple[int, int]:
    """Returns which of how many processes this is: (0, 1), but for those that ``accelerate launch`` starts together."""
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    return state.process_index, state.num_processes


@contextmanager
def one_at_a_time(workspace: Workspace, key: str) -> Iterator[None]:
    """Lets one command at a time make the product of a key; processes that train together make it together."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        yield
    else:
        with alone(workspace.folder("locks", key)):
            yield


def made_once(workspace: Workspace, key: str, held: Callable[[], T | None], make: Callable[[], T]) -> T:
    """Returns the product of a key that is held, or makes it, unless another command has made it meanwhile."""
    if (found := held()) is not None:
        return found
    with one_at_a_time(workspace, key):
        return found if (found := held()) is not None else make()


class _Together:
    """Several processes that train one model: each takes a part of every step, and their gradients are added up.

    Gradients are summed once per step, not by DistributedDataParallel, which wants one forward and backward pass per
    step; here a step has as many as fit the memory, in several models that share an encoder.
    """

    def __init__(self, device: Accelerator, trained: Sequence[nn.Parameter]):
        self.device, self.trained = device, trained

    def add_up(self, *numbers: float | Tensor) -> list[Tensor]:
        """Adds gradients up over the processes, and numbers beside them, which it returns as scalars."""
        count = len(self.trained)
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.trained]
        told = [float(p.grad is not None) for p in self.trained] + list(numbers)
        scalars = torch.stack([torch.as_tensor(n, dtype=torch.float32, device=self.device.device) for n in told])
        flat = self.device.reduce(torch.cat([*(g.float().flatten() for g in own), scalars]), "sum")
        *totals, sums = torch.split(flat, [*(p.numel() for p in self.trained), len(scalars)])
        for p, total, had in zip(self.trained, totals, sums[:count].tolist(), strict=True):
            p.grad = total.view_as(p).to(p.dtype) if had else None  # one that no process has is no gradient of 0
        return list(sums[count:])

    def agreed(self, value: int) -> bool:
        """Whether the number is the same for all processes."""
        every = self.device.gather(torch.tensor([value], device=self.device.device))
        return bool((every == value).all())

    def of_main(self, value: bool) -> bool:
        """Returns the main process's answer."""
        told = torch.tensor(float(value and self.device.is_main_process), device=self.device.device)
        return bool(self.device.reduce(told, "sum") > 0)


def run(
    model: nn.Module,
    step: Callable[[nn.Module], Iterable[Piece]],
    recipe: Recipe,
    steps: int,
    *,
    learning_rate: float,
    seed: int,
    reporter: Reporter,
    description: str,
    own_rates: Sequence[tuple[nn.Parameter, float]] = (),
    stop: Callable[[int], bool] | None = None,
    checkpoint: Checkpoint | None = None,
    skip: Callable[[int], None] | None = None,
    extra: Extra | None = None,
) -> Log:
    """Trains a model's trainable parameters in place with AdamW, linear warm-up and linear decay.

    Args:
        model: the model; parameters without ``requires_grad`` stay as they are.
        step: yields the pieces of the next step; each is passed backwards before the next one is asked for.
        recipe: weight decay, warm-up, clipping.
        steps: number of optimiser steps.
        learning_rate: peak.
        seed: of dropout; batches are the caller's.
        reporter: progress.
        description: shown with the progress.
        own_rates: parameters with a peak learning rate of their own, without weight decay.
        stop: asked after each step; True ends the training early.
        checkpoint: written now and then, and where the training goes on if there is one from before.
        skip: told how many steps were done before, so that it can leave their batches out.
        extra: what else a checkpoint has to hold.

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
    peaks = [group["lr"] for group in optimizer.param_groups]
    own = model, optimizer
    together = _Together(device, trained) if device.num_processes > 1 else None
    # together, it is not wrapped either: gradients are added up below
    model = device.prepare_model(model, evaluation_mode=together is not None)
    optimizer = device.prepare_optimizer(optimizer)
    if together is not None and checkpoint is not None:
        checkpoint = checkpoint.of_process(device.process_index, device.num_processes)
    log = Log()
    wall, processor = time.perf_counter(), time.process_time()
    look_every = _LOOK_EVERY.get(device.device.type, 1)
    losses: list[Tensor] = []

    def look() -> None:
        values = torch.stack(losses).tolist() if losses else []
        for number, value in enumerate(values, log.steps - len(values) + 1):
            if not math.isfinite(value):
                raise AdaptMTLError(
                    f"{description}: the loss became {value} at step {number}; "
                    f"lower the learning rate ({learning_rate:g})"
                )
        log.losses.extend(values)
        losses.clear()

    def keep(file: Checkpoint) -> None:
        look()
        spent = time.perf_counter() - wall, time.process_time() - processor
        facts = asdict(log) | {"earlier": [a + b for a, b in zip(log.earlier, spent, strict=True)]}
        file.write(*own, extra, facts)

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed + _APART * device.process_index)
        model.train()
        if checkpoint is not None and together is not None and not together.agreed(checkpoint.step):
            checkpoint.remove()  # killed between two processes' writes: they begin anew together
        if checkpoint is not None and (facts := checkpoint.read(*own, extra)) is not None:
            log = Log(**facts | {"earlier": tuple(facts["earlier"])})
            reporter.say(f"{description}: going on after step {log.steps} of {steps}")
            if skip is not None:
                skip(log.steps)
        for i in reporter.track(range(log.steps, steps), description, steps - log.steps):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * recipe.rate_at(i, steps)
            loss = torch.zeros((), device=device.device)
            rows, tokens = 0, 0
            for piece in step(model):
                loss += piece.loss.detach().float()
                device.backward(piece.loss)
                rows += piece.rows
                tokens += piece.tokens
            due = checkpoint is not None and i + 1 < steps and checkpoint.due()
            if together is not None:
                loss, *told = together.add_up(loss, rows, tokens, due and device.is_main_process)
                rows, tokens, due = int(told[0]), int(told[1]), bool(told[2])
            log.rows += rows
            log.tokens += tokens
            log.steps += 1
            losses.append(loss)
            if len(losses) >= look_every:
                look()
            device.clip_grad_norm_(trained, recipe.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if stop is not None and (together.of_main(stop(i)) if together else stop(i)):
                break
            if checkpoint is not None and due:
                keep(checkpoint)
        look()
    model.eval()
    if checkpoint is not None and stop is None and together is None and checkpoint.outlives():
        keep(checkpoint)
    elif checkpoint is not None:
        checkpoint.remove()
    return log
