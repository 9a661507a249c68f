"""How something is trained: every choice in one frozen record, part of the product's key."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from adaptmtl.adapters.methods import LoraMethod
from adaptmtl.backbone.load import Backbone
from adaptmtl.errors import AdaptMTLError

#: Optimiser steps of a training on few rows, where the recipe says neither steps nor epochs.
LEAST_STEPS = 48
#: Passes over the rows of such a training, where they are enough for more.
_EPOCHS = 3.0


@dataclass(frozen=True)
class Encoding:
    """How rows become tokens.

    Attributes:
        max_length: longest feature in tokens; longer texts are cut, longer question-answering contexts are windowed.
        stride: overlap of windows in tokens; None for a quarter of ``max_length``.
    """

    max_length: int = 128
    stride: int | None = None

    def fitted(self, backbone: Backbone) -> Encoding:
        """Returns the same encoding, no longer than the backbone allows."""
        return Encoding(min(self.max_length, backbone.max_length), self.stride)


@dataclass(frozen=True)
class Recipe:
    """Training choices.

    Attributes:
        method: the adapter.
        lower_layers: layers from the bottom that carry no adapter and are computed once; None for a sixth of the depth,
            the most whose interval stays within a point of quality (benchmarks/lower_layers.py).
        steps: optimiser steps; None to derive them from ``epochs``.
        epochs: passes over the training rows, used when ``steps`` is None. None for 3, or for as many as make
            ``LEAST_STEPS`` steps where that is more (benchmarks/training_length.py).
        batch_size: rows per step.
        learning_rate: peak, of the adapter (AdamW, linear warm-up and decay).
        head_rate: the head's peak learning rate as a multiple of ``learning_rate``; a regression's is the adapter's.
        full_learning_rate: peak, when all weights are trained.
        weight_decay: of AdamW, on matrices only.
        warmup: share of the steps with a rising learning rate.
        clip: largest gradient norm.
        head_dropout: on what the head reads.
    """

    method: LoraMethod = field(default_factory=LoraMethod)
    lower_layers: int | None = None
    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 32
    learning_rate: float = 3e-3
    head_rate: float = 3.0
    full_learning_rate: float = 5e-5
    weight_decay: float = 0.01
    warmup: float = 0.06
    clip: float = 1.0
    head_dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.epochs is not None:
            object.__setattr__(self, "epochs", float(self.epochs))  # 3 and 3.0 are one recipe, with one key
        for name in ("batch_size", "learning_rate", "head_rate", "full_learning_rate", "epochs", "clip"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise AdaptMTLError(f"recipe: {name} is {value}; it must be above 0")
        for name, most in (("weight_decay", math.inf), ("warmup", 1.0), ("head_dropout", 1.0)):
            if not 0 <= (value := getattr(self, name)) < most:
                raise AdaptMTLError(f"recipe: {name} is {value}; it must be 0 or more, and below {most:g}")
        for name in ("steps", "batch_size"):
            if (value := getattr(self, name)) is not None and (value < 1 or value != int(value)):
                raise AdaptMTLError(f"recipe: {name} is {value}; it must be at least 1, and whole")

    def layers_below(self, backbone: Backbone) -> int:
        """Returns the number of lower layers without adapter, checked against the backbone's depth."""
        k = backbone.n_layers // 6 if self.lower_layers is None else self.lower_layers
        if not 0 <= k < backbone.n_layers:
            raise AdaptMTLError(
                f"recipe: lower_layers is {k}; {backbone.name} has {backbone.n_layers} layers, "
                f"give 0 to {backbone.n_layers - 1}"
            )
        return k

    def steps_for(self, units: int) -> int:
        """Returns the optimiser steps for a training split of so many units."""
        if self.steps is not None:
            return self.steps
        if self.epochs is not None:
            return max(1, round(self.epochs * units / self.batch_size))
        return max(LEAST_STEPS, round(_EPOCHS * units / self.batch_size))

    def rate_at(self, step: int, steps: int) -> float:
        """Returns the share of the peak learning rate at a step: linear warm-up, then linear decay to 0."""
        warmup = max(1, math.ceil(self.warmup * steps))
        return min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, for keys and manifests."""
        rule = {"least_steps": LEAST_STEPS} if self.steps is None and self.epochs is None else {}
        return {**asdict(self), "method": self.method.to_dict(), **rule}
