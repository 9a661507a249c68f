"""Linear layers that multiply in bf16 and keep everything else in fp32.

On CPUs with bf16 instructions a matrix product in bf16 runs at more than twice the fp32 rate, while torch's attention
is several times slower in it, backwards (``post_norm`` makes its own of products). So every ``nn.Linear`` of an encoder
is replaced by one of three layers that cast to ``dtype`` on the way in and back on the way out; norms and the residual
stream stay in fp32. The same layers serve fp32 (``dtype=torch.float32``), where the casts are no-ops.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptmtl.errors import AdaptMTLError
from adaptmtl.provenance import multiplies_in_bf16

#: Names that ADAPTMTL_DTYPE goes by.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@lru_cache(maxsize=1)
def default_dtype() -> torch.dtype:
    """Returns the dtype for matrix products on this machine: bf16 where the hardware multiplies in it, else fp32.

    A processor that only emulates bf16 takes it too, and is several times slower for it. The hardware is asked and no
    clock: the dtype is part of every product's key. ``ADAPTMTL_DTYPE``, "float32" or "bfloat16", says it for machines
    that shall find each other's products.

    Raises:
        AdaptMTLError: ``ADAPTMTL_DTYPE`` is something else.
    """
    if (wanted := os.environ.get("ADAPTMTL_DTYPE")) is not None:
        if wanted not in DTYPES:
            raise AdaptMTLError(f"ADAPTMTL_DTYPE is {wanted!r}: give {' or '.join(DTYPES)}, or unset it")
        return DTYPES[wanted]
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if multiplies_in_bf16() else torch.float32


class FrozenLinear(nn.Module):
    """``y = x W^T + c`` with constant weights stored in ``dtype``."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().to(dtype), persistent=False)
        bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out) in the input's dtype."""
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)


class TrainableLinear(nn.Module):
    """``y = x W^T + c`` with fp32 master weights, cast once per forward pass: for full fine-tuning."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype):
        super().__init__()
        self.weight, self.bias, self.dtype = linear.weight, linear.bias, dtype

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out) in the input's dtype."""
        bias = None if self.bias is None else self.bias.to(self.dtype)
        return F.linear(x.to(self.dtype), self.weight.to(self.dtype), bias).to(x.dtype)


class LowRankLinear(nn.Module):
    """``y = x (W + s B A)^T + c``: a frozen linear layer with a trainable low-rank update (LoRA, Hu et al. 2021).

    The update is merged into a copy of the fp32 weights, on every pass or once for several (:func:`merged_once`), which
    costs less than the separate low-rank branch; an fp32 master is needed since updates below half a bf16 ulp would
    vanish otherwise.

    Args:
        linear: the frozen layer, (out, in).
        a: (rank, in); b: (out, rank); scale: s.
        output_scales: optional (sources, out) trainable vectors; row s of ``b``'s columns is multiplied by the vector
            of the source that ``rank_source`` (rank,) assigns to it (ScaLearn, Frohmann et al. 2024).
    """

    weight: Tensor
    bias: Tensor | None
    rank_source: Tensor | None
    _kept: Tensor | None

    def __init__(
        self,
        linear: nn.Linear,
        a: Tensor,
        b: Tensor,
        scale: float,
        dtype: torch.dtype,
        output_scales: nn.Parameter | None = None,
        rank_source: Tensor | None = None,
    ):
        super().__init__()
        self.register_buffer("weight", linear.weight.detach(), persistent=False)
        bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("rank_source", rank_source, persistent=False)
        self.a, self.b, self.scale, self.dtype = a, b, scale, dtype
        self.output_scales = output_scales
        self._keeps, self._kept = False, None

    def effective_b(self) -> Tensor:
        """Returns B with the output scales folded in, (out, rank)."""
        if self.output_scales is None or self.rank_source is None:
            return self.b
        return self.b * self.output_scales[self.rank_source].T

    def merged(self, b: Tensor) -> Tensor:
        """Returns W + s B A in the products' dtype, a constant tensor, for B as :meth:`effective_b` gives it."""
        if (kept := self._kept) is not None:
            return kept
        merged = torch.addmm(self.weight, b.detach(), self.a.detach(), alpha=self.scale).to(self.dtype)
        if self._keeps:
            self._kept = merged
        return merged

    def keep_merged(self, keep: bool) -> None:
        """Sets whether the next merged weight serves all passes to come, until this is called again."""
        self._keeps, self._kept = keep, None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out) in the input's dtype."""
        b = self.effective_b()
        return _MergedLinear.apply(x, self.merged(b), self.bias, self.a, b, self.scale)


@contextmanager
def merged_once(module: nn.Module) -> Iterator[None]:
    """Within it, low-rank updates are merged into their layers once for all passes; A and B must stay as they are."""
    layers = [one for one in module.modules() if isinstance(one, LowRankLinear)]
    for one in layers:
        one.keep_merged(True)
    try:
        yield
    finally:
        for one in layers:
            one.keep_merged(False)


class _MergedLinear(torch.autograd.Function):
    """Forward through the merged weight; backward to x through it, and to A and B through rank-sized products."""

    @staticmethod
    def forward(ctx: Any, x, merged, bias, a, b, scale):  # type: ignore[no-untyped-def]
        low = x.to(merged.dtype)
        ctx.save_for_backward(low, merged, a, b)
        ctx.scale, ctx.out_dtype = scale, x.dtype
        return F.linear(low, merged, bias).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        x, merged, a, b = ctx.saved_tensors
        g = grad.to(merged.dtype)
        flat_g, flat_x = g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1])
        grad_a, grad_b = low_rank_gradients(flat_g, flat_x, a, b, ctx.scale, ctx.needs_input_grad[3:5])
        grad_x = (g @ merged).to(ctx.out_dtype) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, grad_a, grad_b, None


def low_rank_gradients(
    grad: Tensor, x: Tensor, a: Tensor | None, b: Tensor | None, scale: float, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Returns the gradients of A and B of ``y = x (W + s B A)^T``.

    The products are ordered so that the rank is always a number of rows: as a number of columns it makes the same
    product up to fifteen times slower on a CPU.

    Args:
        grad: of y, (rows, out), in the products' dtype.
        x: (rows, in), alike.
        a: (rank, in), or None where the layer has no update.
        b: (out, rank), or None.
        scale: s.
        needed: whether A, and whether B, takes a gradient.
    """
    grad_a = grad_b = None
    if a is not None and b is not None:
        if needed[0]:
            grad_a = (b.to(grad.dtype).T @ grad.T) @ x  # (rank, rows) @ (rows, in)
            grad_a = grad_a.to(a.dtype).mul_(scale)
        if needed[1]:
            grad_b = (a.to(x.dtype) @ x.T) @ grad  # (rank, rows) @ (rows, out)
            grad_b = grad_b.to(b.dtype).mul_(scale).T
    return grad_a, grad_b


def replace_linears(module: nn.Module, dtype: torch.dtype, *, trainable: bool = False) -> None:
    """Replaces every plain ``nn.Linear`` below ``module`` in place.

    Args:
        module: an encoder or a part of one.
        dtype: of the matrix products.
        trainable: keep fp32 master weights that take gradients (full fine-tuning) instead of constants in ``dtype``.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                layer = TrainableLinear(child, dtype) if trainable else FrozenLinear(child, dtype)
                setattr(parent, name, layer)
