"""Every supported architecture computes, cut in parts and with our LoRA, what transformers and peft compute."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model
from tiny_architectures import CASES, SPEC, encoded_rows, lower_states, padded, plain_inputs
from torch import Tensor
from transformers import AutoModel

from adaptmtl.adapters.heads import make_head
from adaptmtl.adapters.methods import LoraMethod, LoraWeights, inject_lora
from adaptmtl.backbone.anatomy import ANATOMY
from adaptmtl.backbone.load import Backbone
from adaptmtl.backbone.segments import SegmentedEncoder, attention_dropout_off
from adaptmtl.backbone.states import states_of
from adaptmtl.training.model import lora_model, outputs_of
from adaptmtl.workspace import Workspace

CPU = torch.device("cpu")
BackboneOf = Callable[[str], Backbone]


def random_weights(shapes: dict[str, tuple[torch.Size, torch.Size]]) -> LoraWeights:
    generator = torch.Generator().manual_seed(1)
    return {
        name: (0.1 * torch.randn(a, generator=generator), 0.1 * torch.randn(b, generator=generator))
        for name, (a, b) in shapes.items()
    }


def test_every_supported_architecture_has_a_case() -> None:
    assert {model_type for model_type, _ in CASES.values()} == set(ANATOMY)


@pytest.mark.parametrize("case", CASES)
def test_no_attention_probability_is_dropped(
    case: str, backbone_of: BackboneOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids, seen = backbone_of(case).load_encoder().train(), torch.arange(5, 45).reshape(2, 20), []
    drop, attend = F.dropout, F.scaled_dot_product_attention

    def dropped(x, p=0.5, training=True, inplace=False):
        seen.append((tuple(x.shape[-2:]) == (20, 20), p if training else 0.0))
        return drop(x, p, training, inplace)

    def attended(*parts, dropout_p=0.0, **more):
        seen.append((True, dropout_p))
        return attend(*parts, dropout_p=dropout_p, **more)

    monkeypatch.setattr(F, "dropout", dropped)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attended)
    model(input_ids=ids)
    before = [p for attention, p in seen if attention]
    seen.clear()
    attention_dropout_off(model)
    model(input_ids=ids)
    assert len([1 for attention, _ in seen if attention]) == len(before) >= model.config.num_hidden_layers
    assert not any(p for attention, p in seen if attention)
    assert case == "modernbert" or (any(before) and any(p for attention, p in seen if not attention))


@pytest.mark.parametrize("case", CASES)
def test_parts_compute_what_the_whole_does(case: str, backbone_of: BackboneOf) -> None:
    backbone = backbone_of(case)
    assert (backbone.hidden_size, backbone.n_layers, backbone.max_length) == (32, 4, 128)
    encoded = encoded_rows(backbone)
    plain = AutoModel.from_pretrained(backbone.path).eval()
    with torch.no_grad():
        expected = plain(**plain_inputs(backbone, encoded)).last_hidden_state
    ids, mask, types = padded(encoded)
    assert (mask == 0).any() and (mask.sum(1) > 20).any()
    for k in range(4):
        states = lower_states(backbone, encoded, k) if k else None
        upper = SegmentedEncoder(backbone.load_encoder(), backbone.anatomy, k)
        with torch.no_grad():
            seen = upper(ids, mask, types, states)
        torch.testing.assert_close(seen[mask == 1], expected[mask == 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_lora_is_that_of_peft(case: str, backbone_of: BackboneOf) -> None:
    backbone, method, k = backbone_of(case), LoraMethod(rank=3, alpha=6.0), 1
    encoded = encoded_rows(backbone)
    ids, mask, types = padded(encoded)
    peft_model = get_peft_model(AutoModel.from_pretrained(backbone.path), method.config(backbone, k)).eval()
    theirs = {
        name.removeprefix("base_model.model."): (module.lora_A["default"].weight, module.lora_B["default"].weight)
        for name, module in peft_model.named_modules()
        if hasattr(module, "lora_A")
    }
    assert set(theirs) == set(method.modules(backbone, k))
    start = random_weights({name: (a.shape, b.shape) for name, (a, b) in theirs.items()})
    with torch.no_grad():
        for name, (a, b) in theirs.items():
            a.copy_(start[name][0])
            b.copy_(start[name][1])

    encoder = backbone.load_encoder()
    ours = inject_lora(encoder, method.config(backbone, k), torch.float32, start)
    seen = SegmentedEncoder(encoder, backbone.anatomy, k)(ids, mask, types, lower_states(backbone, encoded, k))
    expected = peft_model(**plain_inputs(backbone, encoded)).last_hidden_state
    torch.testing.assert_close(seen[mask == 1], expected[mask == 1], atol=1e-5, rtol=1e-5)

    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)) * mask[:, :, None]
    (seen * direction).sum().backward()
    (expected * direction).sum().backward()
    for name, pair in ours.items():
        for mine, peers in zip(pair, theirs[name], strict=True):
            assert mine.grad is not None and peers.grad is not None
            assert relative_difference(mine.grad, peers.grad) < 1e-4, name


@pytest.mark.parametrize("case", CASES)
def test_bf16_products_stay_near_fp32(case: str, backbone_of: BackboneOf, workspace: Workspace) -> None:
    backbone, method = backbone_of(case), LoraMethod(rank=2)
    encoded = encoded_rows(backbone)
    outputs = {}
    for dtype in (torch.float32, torch.bfloat16):
        head = make_head(SPEC, backbone.hidden_size, None, 0)
        torch.nn.init.normal_(head.output.weight, std=0.1, generator=torch.Generator().manual_seed(3))
        model = lora_model(backbone, method, 2, head, dtype).model
        outputs[dtype] = outputs_of(model, encoded, states_of(workspace, backbone, encoded, 2, dtype, CPU), CPU)
    difference = np.abs(outputs[torch.bfloat16] - outputs[torch.float32]).max()
    assert 0 < difference < 5e-2


def relative_difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())
