"""Multi-task trainings that the workspace keeps, for all targets, arms and trials that begin from them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptmtl.provenance import measured
from adaptmtl.storage import publish_folder, read_json, sha256_file, write_json
from adaptmtl.training.data import TaskData
from adaptmtl.training.loop import Log, made_once
from adaptmtl.training.multitask import Mixing, train_shared
from adaptmtl.training.setup import Setup

_TENSORS = "encoder.safetensors"


@dataclass(frozen=True)
class Kept:
    """A multi-task training.

    Attributes:
        tensors: weights of the whole encoder, or ``<module>.a`` and ``<module>.b`` of a LoRA.
        log: steps, rows and tokens; ``earlier`` holds what it took, where it was not made just now.
        seconds: wall seconds that making it took.
    """

    tensors: dict[str, Tensor]
    log: Log
    seconds: float


def kept_shared(
    setup: Setup, tasks: Mapping[str, TaskData], steps: int, *, full: bool, seed: int = 0, description: str
) -> Kept:
    """Returns a multi-task training from the workspace, making it first where it is not there or is damaged.

    Args:
        setup: whose recipe, but for the number of steps.
        tasks: by name, in an order that is always the same.
        steps: at most so many.
        full: train all weights; else one LoRA.
        seed: of heads, mixing, order and dropout.
        description: shown with the progress.
    """
    how = {} if full else {"full": False, "seed": seed}
    rows = {name: data.train_identity for name, data in tasks.items()}
    key = setup.with_steps(steps).key("multitask", tasks=rows, **how)
    folder = setup.workspace.folder("shared", key)
    return made_once(setup.workspace, key, lambda: _held(folder),
                     lambda: _made(setup, tasks, steps, full, seed, description, folder))  # fmt: skip


def _made(
    setup: Setup, tasks: Mapping[str, TaskData], steps: int, full: bool, seed: int, description: str, folder: Path
) -> Kept:
    with measured() as cost:
        shared = train_shared(
            setup.workspace, setup.backbone, tasks, replace(setup.recipe, steps=steps), seed, full=full,
            mixing=Mixing(), description=description,
        )  # fmt: skip
    cost.add(shared.log.earlier)
    found = shared.encoder if full else {
        f"{name}.{half}": value for name, pair in (shared.lora or {}).items()
        for half, value in zip("ab", pair, strict=True)
    }  # fmt: skip
    assert found is not None
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in found.items()}
    shutil.rmtree(folder, ignore_errors=True)  # what is there is damaged
    with publish_folder(folder) as temporary:
        save_file(tensors, temporary / _TENSORS)
        write_json(temporary / "cost.json", {
            "seconds": cost.seconds, "cpu_seconds": cost.cpu_seconds, "rows": shared.log.rows,
            "tokens": shared.log.tokens, "steps": shared.log.steps,
            "held_out_losses": list(shared.held_out_losses), "sha256": sha256_file(temporary / _TENSORS),
        })  # fmt: skip
    return Kept(tensors, shared.log, cost.seconds)


def _held(folder: Path) -> Kept | None:
    facts = read_json(folder / "cost.json")
    if (tensors := read_tensors(folder / _TENSORS, facts)) is None or facts is None:
        return None
    spent = (facts["seconds"], facts.get("cpu_seconds", 0.0))
    return Kept(tensors, Log(facts["steps"], facts["rows"], facts["tokens"], earlier=spent), facts["seconds"])


def read_tensors(path: Path, facts: dict[str, Any] | None) -> dict[str, Tensor] | None:
    """Reads a product's tensors; None where there are none or they are not those that ``facts`` name by sha256."""
    if facts is None or not path.is_file():
        return None
    try:
        return load_file(path) if facts.get("sha256") in (None, sha256_file(path)) else None
    except SafetensorError:
        return None
