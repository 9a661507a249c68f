"""A shorter way through BERT-shaped layers (attention, add, norm, feed-forward, add, norm) over the same weights.

transformers runs a layer as some thirty small operations with as many autograd nodes. Here a frozen layer with low-rank
updates is three: query, key and value in one product; attention; all the rest, with a backward pass written out by hand
that reuses its buffers and computes only what trains. Weights, numerics and saved files are those of the plain path,
which stays for everything that is not of this shape: dropout, other activations, other linear layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptmtl.backbone.anatomy import PostNorm
from adaptmtl.backbone.precision import FrozenLinear, LowRankLinear, low_rank_gradients

#: Longest padded length at which attention as plain batched products beats torch's own kernel on a CPU, by dtype. That
#: kernel is given fp32 there: its backward pass in bf16 takes several times as long.
MOST_BMM_TOKENS = {torch.float32: 64, torch.bfloat16: 512}


@dataclass(frozen=True)
class _Weights:
    """One linear layer at this step: the product's weight with any update merged in, and what the update needs."""

    merged: Tensor
    bias: Tensor | None
    a: Tensor | None = None
    b: Tensor | None = None
    scale: float = 1.0

    @property
    def halves(self) -> tuple[Tensor | None, Tensor | None]:
        return self.a, self.b


@dataclass(frozen=True)
class _Norm:
    """A layer norm's constants in the dtype of what it normalises."""

    weight: Tensor
    bias: Tensor
    eps: float

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the normalised values, the mean and the reciprocal deviation."""
        return torch.native_layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def backward(self, grad: Tensor, x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """Returns the gradient of ``x``, a tensor of its own."""
        return torch.ops.aten.native_layer_norm_backward(
            grad.contiguous(), x, self.weight.shape, mean, spread, self.weight, self.bias, [True, False, False]
        )[0]


class PostNormLayers:
    """The layers of an encoder, run in three operations each.

    Args:
        layers: modules of transformers; their linear layers may be exchanged at any time.
        paths: where the parts of one layer lie.
        heads: attention heads.
    """

    def __init__(self, layers: Sequence[nn.Module], paths: PostNorm, heads: int):
        self.layers, self.heads = list(layers), heads
        self._linears = attrgetter(*paths.linears)
        self._norms = attrgetter(*paths.norms)
        self._cast_norms: dict[tuple[int, torch.dtype, torch.device], _Norm] = {}

    def fits(self) -> bool:
        """Whether every linear layer is frozen, with or without a low-rank update, and nothing hangs on its calls."""
        return all(
            not layer.training and all(_plain_linear(one) for one in self._linears(layer)) for layer in self.layers
        )

    def __call__(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Runs all layers.

        Args:
            hidden: (features, tokens, hidden) input of the lowest layer.
            attention_mask: (features, tokens), 1 for tokens and 0 for padding.

        Returns:
            (features, tokens, hidden) output of the highest layer, fp32.
        """
        features, length, width = hidden.shape
        mask = _additive(attention_mask)
        x = hidden.reshape(-1, width)
        stream = _stream_dtype(x, self._linears(self.layers[0])[0])
        x = x.to(stream)
        for layer in self.layers:
            x = self._layer(layer, x, mask, features, length)
        return x.float().view(features, length, width)

    def _layer(self, layer: nn.Module, x: Tensor, mask: Tensor | None, features: int, length: int) -> Tensor:
        query, key, value, out, up, down = (_weights(one) for one in self._linears(layer))
        first, second = (self._norm(one, x) for one in self._norms(layer))
        q, k, v = _Project.apply(
            x, (query, key, value), (features, length, self.heads), *query.halves, *key.halves, *value.halves
        )
        context = attend(q, k, v, mask)
        return _Finish.apply(context, x, (out, up, down), (first, second), *out.halves, *up.halves, *down.halves)

    def _norm(self, norm: nn.LayerNorm, x: Tensor) -> _Norm:
        key = (id(norm), x.dtype, x.device)
        if key not in self._cast_norms:
            weight, bias = (one.detach().to(x.device, x.dtype) for one in (norm.weight, norm.bias))
            self._cast_norms[key] = _Norm(weight, bias, norm.eps)
        return self._cast_norms[key]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention by whichever way is faster.

    Args:
        q: queries, (features, heads, tokens, width).
        k: keys, alike.
        v: values, alike.
        mask: (features, 1, 1, tokens), added to the scores; None where nothing is padded.

    Returns:
        (features, heads, tokens, width).
    """
    if _by_products(q.device, q.dtype, q.shape[2]):
        return _Attend.apply(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask.to(q.dtype))


def _by_products(device: torch.device, dtype: torch.dtype, length: int) -> bool:
    """Whether attention is made of products, which is faster on CPUs up to some length."""
    return device.type == "cpu" and length <= MOST_BMM_TOKENS.get(dtype, 0)


class _Project(torch.autograd.Function):
    """Query, key and value in one product, split into heads."""

    @staticmethod
    def forward(ctx: Any, x, weights, shape, *halves):  # type: ignore[no-untyped-def]
        features, length, heads = shape
        merged = torch.cat([one.merged for one in weights])  # (3 hidden, hidden)
        bias = torch.cat([one.bias for one in weights])
        low = x.to(merged.dtype)
        joint = F.linear(low, merged, bias).view(features, length, 3, heads, -1)
        ctx.save_for_backward(low, merged, *halves)
        ctx.scales, ctx.shape, ctx.dtype = [one.scale for one in weights], shape, x.dtype
        dtype = merged.dtype if _by_products(x.device, merged.dtype, length) else x.dtype
        parts = [joint[:, :, i].transpose(1, 2).to(dtype) for i in range(3)]
        if x.device.type == "cpu":  # part by part: one copy of all three takes a slow path
            parts = [one.contiguous() for one in parts]
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *grads):  # type: ignore[no-untyped-def]
        low, merged, *halves = ctx.saved_tensors
        features, length, heads = ctx.shape
        joint = merged.new_empty(features, length, 3, heads, merged.shape[1] // heads)
        for i, grad in enumerate(grads):
            joint[:, :, i].copy_(grad.transpose(1, 2))
        flat = joint.view(len(low), -1)
        found: list[Tensor | None] = []
        for i, own in enumerate(flat.chunk(3, dim=1)):
            needs = ctx.needs_input_grad[3 + 2 * i : 5 + 2 * i]
            found += low_rank_gradients(own, low, halves[2 * i], halves[2 * i + 1], ctx.scales[i], needs)
        grad_x = (flat @ merged).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, *found


class _Attend(torch.autograd.Function):
    """Attention by batched products that keeps its probabilities for the backward pass.

    Scores are always fp32: rounded to bf16, a score of 8 is off by as much as 0.03, and its probability by 3%.
    """

    @staticmethod
    def forward(ctx: Any, q, k, v, mask):  # type: ignore[no-untyped-def]
        features, heads, length, width = q.shape
        q, k, v = (one.reshape(-1, length, width) for one in (q, k, v))
        scale = 1.0 / math.sqrt(width)
        exact_q, exact_k = q.float(), k.float()
        scores = torch.baddbmm(exact_q.new_empty(()), exact_q, exact_k.transpose(1, 2), beta=0, alpha=scale)
        if mask is not None:
            scores.view(features, heads, length, length).add_(mask)
        shares = torch.softmax(scores, dim=-1).to(v.dtype)
        ctx.save_for_backward(q, k, v, shares)
        ctx.scale = scale
        return torch.bmm(shares, v).view(features, heads, length, width)

    @staticmethod
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        q, k, v, shares = ctx.saved_tensors
        shape, grad = grad.shape, grad.reshape(q.shape)
        grad_q = grad_k = grad_v = None
        if ctx.needs_input_grad[2]:
            grad_v = torch.bmm(shares.transpose(1, 2), grad).view(shape)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            of_shares = torch.bmm(grad, v.transpose(1, 2))
            scores = torch._softmax_backward_data(of_shares, shares, -1, shares.dtype)
            none = q.new_empty(())
            if ctx.needs_input_grad[0]:
                grad_q = torch.baddbmm(none, scores, k, beta=0, alpha=ctx.scale).view(shape)
            if ctx.needs_input_grad[1]:
                grad_k = torch.baddbmm(none, scores.transpose(1, 2), q, beta=0, alpha=ctx.scale).view(shape)
        return grad_q, grad_k, grad_v, None


class _Finish(torch.autograd.Function):
    """From the heads' contexts to the layer's output: projection, add, norm, feed-forward, add, norm."""

    @staticmethod
    def forward(ctx: Any, context, x, weights, norms, *halves):  # type: ignore[no-untyped-def]
        out, up, down = weights
        dtype = out.merged.dtype
        joined = context.transpose(1, 2).to(dtype).reshape(x.shape)
        attended = F.linear(joined, out.merged, out.bias).to(x.dtype).add_(x)
        first, mean_1, spread_1 = norms[0].forward(attended)
        low = first.to(dtype)
        inner = F.linear(low, up.merged, up.bias)
        active = F.gelu(inner)
        total = F.linear(active, down.merged, down.bias).to(x.dtype).add_(first)
        result, mean_2, spread_2 = norms[1].forward(total)
        ctx.save_for_backward(
            joined, attended, mean_1, spread_1, low, inner, active, total, mean_2, spread_2,
            out.merged, up.merged, down.merged, *halves,
        )  # fmt: skip
        ctx.norms, ctx.scales, ctx.shape = norms, [one.scale for one in weights], context.shape
        ctx.context_dtype = context.dtype
        return result

    @staticmethod
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        (joined, attended, mean_1, spread_1, low, inner, active, total, mean_2, spread_2,
         out, up, down, *halves) = ctx.saved_tensors  # fmt: skip
        needs, scales = ctx.needs_input_grad, ctx.scales
        dtype = out.dtype
        of_first = ctx.norms[1].backward(grad, total, mean_2, spread_2)
        g = of_first.to(dtype)
        by_down = low_rank_gradients(g, active, halves[4], halves[5], scales[2], needs[8:10])
        of_inner = g @ down
        torch.ops.aten.gelu_backward.grad_input(of_inner, inner, grad_input=of_inner)
        by_up = low_rank_gradients(of_inner, low, halves[2], halves[3], scales[1], needs[6:8])
        if not (needs[0] or needs[1] or needs[4] or needs[5]):
            return None, None, None, None, None, None, *by_up, *by_down
        of_first = of_first.addmm_(of_inner, up) if of_first.dtype == dtype else of_first.add_(of_inner @ up)
        of_attended = ctx.norms[0].backward(of_first, attended, mean_1, spread_1)
        g = of_attended.to(dtype)
        by_out = low_rank_gradients(g, joined, halves[0], halves[1], scales[0], needs[4:6])
        of_context = None
        if needs[0]:
            features, heads, length, width = ctx.shape
            of_context = (g @ out).to(ctx.context_dtype).view(features, length, heads, width).transpose(1, 2)
        return of_context, of_attended if needs[1] else None, None, None, *by_out, *by_up, *by_down


def _plain_linear(linear: nn.Module) -> bool:
    return (
        type(linear) in (FrozenLinear, LowRankLinear) and linear.bias is not None
        and not linear._forward_hooks and not linear._forward_pre_hooks
    )  # fmt: skip


def _weights(linear: FrozenLinear | LowRankLinear) -> _Weights:
    if isinstance(linear, FrozenLinear):
        return _Weights(linear.weight, linear.bias)
    b = linear.effective_b()
    return _Weights(linear.merged(b), linear.bias, linear.a, b, linear.scale)


def _additive(attention_mask: Tensor) -> Tensor | None:
    """Returns (features, 1, 1, tokens) to add to attention scores, or None where nothing is padded.

    On a GPU the mask is always made: to look would make the host wait for the device.
    """
    if attention_mask.device.type == "cpu" and bool(attention_mask.all()):
        return None
    hidden = torch.zeros(attention_mask.shape, device=attention_mask.device)
    return hidden.masked_fill_(attention_mask == 0, -1e30)[:, None, None, :]


def _stream_dtype(x: Tensor, linear: nn.Module) -> torch.dtype:
    """Returns the dtype between products: fp32, and bf16 on a GPU that multiplies in it."""
    if x.device.type == "cpu":
        return torch.float32
    return linear.dtype if isinstance(linear, LowRankLinear) else linear.weight.dtype  # type: ignore[return-value]
