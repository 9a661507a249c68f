"""The short way through BERT-shaped layers computes what the plain way does, forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tiny_architectures import CASES, encoded_rows, lower_states, padded
from torch import Tensor, nn

from adaptmtl.adapters.methods import LoraMethod, LoraWeights, inject_lora
from adaptmtl.backbone import post_norm as module
from adaptmtl.backbone.anatomy import ANATOMY
from adaptmtl.backbone.load import Backbone
from adaptmtl.backbone.precision import replace_linears
from adaptmtl.backbone.segments import SegmentedEncoder

BackboneOf = Callable[[str], Backbone]
SHORT = [case for case, (model_type, _) in CASES.items() if ANATOMY[model_type].post_norm is not None]


def built(backbone: Backbone, k: int, dtype: torch.dtype, targets: str) -> tuple[SegmentedEncoder, LoraWeights]:
    encoder = backbone.load_encoder()
    method = LoraMethod(rank=3, alpha=6.0, targets=targets)
    generator = torch.Generator().manual_seed(1)
    weights = inject_lora(encoder, method.config(backbone, k), dtype)
    with torch.no_grad():
        for a, b in weights.values():
            a.copy_(0.1 * torch.randn(a.shape, generator=generator))
            b.copy_(0.1 * torch.randn(b.shape, generator=generator))
    return SegmentedEncoder(encoder, backbone.anatomy, k).eval(), weights


def run(backbone: Backbone, k: int, dtype: torch.dtype, targets: str, *, short: bool, padding: bool):
    """Returns hidden states of real tokens, gradients of the LoRA, and the gradient of the given states."""
    encoder, weights = built(backbone, k, dtype, targets)
    assert encoder.short is not None and encoder.short.fits()
    if not short:
        encoder.short = None
    encoded = encoded_rows(backbone)
    shortest = int(encoded.lengths.min())
    ids, mask, types = padded(encoded, 32 if padding else shortest) if padding else _cut(encoded, shortest)
    states = lower_states(backbone, encoded, k)[:, : ids.shape[1]].clone().requires_grad_() if k else None
    hidden = encoder(ids, mask, types, states)
    direction = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2)) * mask[:, :, None]
    (hidden * direction).sum().backward()
    of_states = None if states is None else states.grad[mask == 1]
    return hidden.detach()[mask == 1], {n: (a.grad, b.grad) for n, (a, b) in weights.items()}, of_states


def _cut(encoded, length: int) -> tuple[Tensor, Tensor, Tensor | None]:
    ids, mask, types = padded(encoded)
    assert mask[:, :length].all()
    return ids[:, :length], mask[:, :length], None if types is None else types[:, :length]


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("attention", ["products", "torch's own"])
@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("case", SHORT)
def test_short_and_plain_way_agree(case: str, padding: bool, attention: str, backbone_of: BackboneOf, monkeypatch):
    monkeypatch.setattr(module, "MOST_BMM_TOKENS", {torch.float32: 64} if attention == "products" else {})
    for k, targets in ((0, "all"), (2, "all"), (2, "attention")):
        mine, theirs = (
            run(backbone_of(case), k, torch.float32, targets, short=short, padding=padding) for short in (True, False)
        )
        torch.testing.assert_close(mine[0], theirs[0], atol=1e-5, rtol=0)
        for name, pair in mine[1].items():
            for a, b in zip(pair, theirs[1][name], strict=True):
                assert difference(a, b) < 1e-4, name
        if k:
            assert difference(mine[2], theirs[2]) < 1e-4


@pytest.mark.parametrize("attention", ["products", "torch's own"])
@pytest.mark.parametrize("padding", [True, False])
@pytest.mark.parametrize("case", SHORT)
def test_bf16_products_lose_no_more_than_the_plain_way(case, padding, attention, backbone_of: BackboneOf, monkeypatch):
    if attention != "products":
        monkeypatch.setattr(module, "MOST_BMM_TOKENS", {})
    exact, _, _ = run(backbone_of(case), 2, torch.float32, "all", short=False, padding=padding)
    mine, gradients, _ = run(backbone_of(case), 2, torch.bfloat16, "all", short=True, padding=padding)
    theirs, plain, _ = run(backbone_of(case), 2, torch.bfloat16, "all", short=False, padding=padding)
    assert 0 < (mine - exact).norm() < 1.2 * (theirs - exact).norm()
    for name, pair in gradients.items():
        for a, b in zip(pair, plain[name], strict=True):
            assert torch.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.99, name


@pytest.mark.parametrize("length", [100, 300])
def test_attention_of_long_texts_in_bf16_is_near_the_exact_one(length: int):
    torch.manual_seed(0)
    exact = [torch.randn(2, 3, length, 8).requires_grad_() for _ in range(3)]
    halves = [one.detach().bfloat16().requires_grad_() for one in exact]
    mask = torch.zeros(2, 1, 1, length)
    mask[1, ..., length // 2 :] = -1e30
    mine, theirs = module.attend(*halves, mask), F.scaled_dot_product_attention(*exact, attn_mask=mask)
    assert mine.dtype == torch.bfloat16 and difference(mine.float(), theirs) < 1e-2
    for out in (mine, theirs):
        (out.float() ** 2).sum().backward()
    for half, one in zip(halves, exact, strict=True):
        assert difference(half.grad.float(), one.grad) < 2e-2
    assert not halves[1].grad[1, :, length // 2 :].any()  # what is hidden takes no gradient


def test_scales_of_sources_get_their_gradient(backbone_of: BackboneOf):
    """ScaLearn's vectors hang on B outside the layer: both ways must pass them the same gradient."""
    found = {}
    for short in (True, False):
        encoder, weights = built(backbone_of("bert"), 2, torch.float32, "all")
        scales = {}
        for name, (a, b) in weights.items():
            layer = encoder.model.get_submodule(name.replace("layer.2", "layer.0").replace("layer.3", "layer.1"))
            scales[name] = layer.output_scales = nn.Parameter(torch.full((2, b.shape[0]), 0.7))
            layer.rank_source = torch.tensor([0, 0, 1])
            a.requires_grad_(False)
            b.requires_grad_(False)
        encoder.short = encoder.short if short else None
        encoded = encoded_rows(backbone_of("bert"))
        ids, mask, types = padded(encoded)
        hidden = encoder(ids, mask, types, lower_states(backbone_of("bert"), encoded, 2))
        (hidden[mask == 1] ** 3).sum().backward()
        found[short] = {name: scale.grad for name, scale in scales.items()}
        assert all(a.grad is None and b.grad is None for a, b in weights.values())
    for name, grad in found[True].items():
        assert difference(grad, found[False][name]) < 1e-4


def test_it_steps_aside(backbone_of: BackboneOf):
    encoder, _ = built(backbone_of("bert"), 1, torch.float32, "all")
    assert encoder.short.fits()
    hook = encoder.model.encoder.layer[0].output.dense.register_forward_hook(lambda *_: None)
    assert not encoder.short.fits()
    hook.remove()
    assert encoder.short.fits()
    assert not encoder.train().short.fits()  # dropout
    trained = backbone_of("bert").load_encoder()
    replace_linears(trained, torch.float32, trainable=True)
    assert not SegmentedEncoder(trained, backbone_of("bert").anatomy, 0).eval().short.fits()
    other = backbone_of("bert").load_encoder()
    other.config.hidden_act = "relu"
    assert SegmentedEncoder(other, backbone_of("bert").anatomy, 0).short is None
    assert SHORT and {CASES[case][0] for case in SHORT} == {"bert", "roberta", "xlm-roberta", "electra", "distilbert"}


def test_nothing_below_the_lowest_update_is_computed(backbone_of: BackboneOf):
    """Without a gradient to pass down, attention of the lowest layer is only run back where it trains something."""
    backbone = backbone_of("bert")
    hidden, gradients, _ = run(backbone, 0, torch.float32, "all", short=True, padding=True)
    assert hidden.isfinite().all() and all(g is not None for pair in gradients.values() for g in pair)
    encoder, _ = built(backbone, 2, torch.float32, "all")
    ids, mask, types = padded(encoded_rows(backbone))
    states = lower_states(backbone, encoded_rows(backbone), 2)
    with torch.inference_mode():
        assert encoder(ids, mask, types, states).grad_fn is None
