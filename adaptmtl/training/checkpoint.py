"""A training that was killed goes on from its last checkpoint and ends with the same bytes as if it had not been.

A checkpoint holds all that later steps depend on: trained tensors, optimiser, random state, position. Batches need no
saving: their order follows from the seed, so it is drawn again up to the step. It is named by a hash of the training's
inputs, the first weights among them, is written whole or not at all, and is removed when the training ends, or when
its result is saved (:func:`until_published`).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from adaptmtl.backbone.precision import LowRankLinear
from adaptmtl.storage import key_of, write_atomic
from adaptmtl.workspace import Workspace, number_of

VERSION = 4
DEFAULT_SECONDS = 60.0
_STALE_SECONDS = 14 * 24 * 3600.0


#: Checkpoints of trainings that are done and whose results are not yet saved; None where that makes no difference.
_FINISHED: ContextVar[list[Checkpoint] | None] = ContextVar("finished", default=None)


@contextmanager
def until_published() -> Iterator[None]:
    """Within it, what is trained is not lost before its result is saved: checkpoints are removed at the end."""
    finished: list[Checkpoint] = []
    token = _FINISHED.set(finished)
    try:
        yield
    finally:
        _FINISHED.reset(token)
    for one in finished:
        one.remove()


class Extra(Protocol):
    """State beside the model and the optimiser that decides how a training goes on."""

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns tensors, and facts that JSON can hold."""

    def restore_saved(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Takes back what :meth:`saved` gave."""


class Checkpoint:
    """The checkpoint of one training.

    Args:
        path: the file.
        seconds: between writes.
    """

    def __init__(self, path: Path, seconds: float = DEFAULT_SECONDS):
        self.path, self.seconds = path, seconds
        self._last = time.monotonic()

    def of_process(self, rank: int, processes: int) -> Checkpoint:
        """Returns the checkpoint of one of several processes that train together: each has its own random state."""
        return Checkpoint(self.path.with_suffix(f".{rank}-of-{processes}{self.path.suffix}"), self.seconds)

    @property
    def step(self) -> int:
        """Steps that were done when it was written; 0 where there is none, or it is damaged."""
        try:
            with safe_open(self.path, "pt") as file:
                return int(json.loads(file.metadata()["facts"])["steps"])
        except (SafetensorError, OSError, KeyError, ValueError):
            return 0

    def due(self) -> bool:
        """Whether the last write, or the start, was long enough ago."""
        return time.monotonic() - self._last >= self.seconds

    def write(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Extra | None, facts: dict[str, Any]
    ) -> None:
        """Writes everything, with facts of the caller's own."""
        tensors: dict[str, Tensor] = {}
        for number, (_, parameter) in enumerate(_trained(model)):
            tensors[f"parameter.{number}"] = parameter.detach()
            for part, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{number}.{part}"] = torch.as_tensor(value)
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            for number, state in enumerate(torch.cuda.get_rng_state_all()):
                tensors[f"random.cuda.{number}"] = state
        own: dict[str, Any] = {}
        if extra is not None:
            more, own = extra.saved()
            tensors |= {f"extra.{name}": value for name, value in more.items()}
        ready = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        write_atomic(self.path, save(ready, {"facts": json.dumps(facts), "extra": json.dumps(own)}))
        self._last = time.monotonic()

    def read(self, model: nn.Module, optimizer: torch.optim.Optimizer, extra: Extra | None) -> dict[str, Any] | None:
        """Takes a written state back and returns the caller's facts; None, and nothing changed, where there is none."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                facts, own = (json.loads(file.metadata()[name]) for name in ("facts", "extra"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError):  # damaged from outside: begin anew
            return None
        with torch.no_grad():
            for number, (_, parameter) in enumerate(_trained(model)):
                parameter.copy_(tensors[f"parameter.{number}"])
                prefix = f"optimizer.{number}."
                state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
                if state:
                    optimizer.state[parameter] = {part: value.to(parameter.device) for part, value in state.items()}
        torch.set_rng_state(tensors["random.cpu"])
        if torch.cuda.is_available():
            for number in range(torch.cuda.device_count()):
                if (drawn := tensors.get(f"random.cuda.{number}")) is not None:
                    torch.cuda.set_rng_state(drawn, number)
        if extra is not None:
            extra.restore_saved(
                {name.removeprefix("extra."): value for name, value in tensors.items() if name.startswith("extra.")},
                own,
            )
        return facts

    def outlives(self) -> bool:
        """Whether the last step is to be kept until what was trained is published; it then will be removed."""
        if (finished := _FINISHED.get()) is None or not (self.due() or self.path.exists()):
            return False
        finished.append(self)
        return True

    def remove(self) -> None:
        """Removes the file, the training being done."""
        self.path.unlink(missing_ok=True)


def checkpoint_for(workspace: Workspace, model: nn.Module, **inputs: Any) -> Checkpoint:
    """Returns the checkpoint of a training.

    Args:
        workspace: where it is kept.
        model: its tensors are part of the name: another start is another training.
        inputs: all else that the training depends on.
    """
    digest = hashlib.sha256()
    for name, value in _start(model):
        digest.update(f"{name}:{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    folder = workspace.folder("unfinished")
    _sweep(folder)
    key = key_of(step="training", version=VERSION, start=digest.hexdigest(), torch=torch.__version__, **inputs)
    seconds = number_of("ADAPTMTL_CHECKPOINT_SECONDS", DEFAULT_SECONDS)
    return Checkpoint(folder / f"{key}.safetensors", seconds)


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _start(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields what trains, updates that are held fixed, and scalars; the backbone's own weights have a name already."""
    yield from _trained(model)
    for name, module in model.named_modules():
        if isinstance(module, LowRankLinear):
            fixed = (module.a, module.b, module.rank_source)
            yield from ((name, value) for value in fixed if value is not None and not value.requires_grad)
    yield from ((name, value) for name, value in model.named_buffers() if value.numel() == 1)


def _sweep(folder: Path) -> None:
    """Removes checkpoints that nobody came back for."""
    for path in folder.glob("*.safetensors"):
        with suppress(OSError):  # another process may be sweeping too, or it is another person's
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()
