from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from adaptmtl.adapters.methods import LoraMethod, inject_lora, peft_state, weights_from_peft
from adaptmtl.backbone.load import Backbone, resolve
from adaptmtl.backbone.precision import FrozenLinear, LowRankLinear, TrainableLinear, replace_linears
from adaptmtl.errors import AdapterError
from adaptmtl.workspace import Workspace


@pytest.fixture
def backbone(tiny_backbone: str, workspace: Workspace) -> Backbone:
    return resolve(tiny_backbone, workspace)


@pytest.mark.parametrize(("wrong", "seen"), [
    ({"targets": "attentoin"}, "did you mean attention"), ({"rank": 0}, "rank 0"), ({"alpha": -1.0}, "alpha -1"),
])  # fmt: skip
def test_a_method_that_makes_no_sense_is_an_error(wrong: dict, seen: str):
    with pytest.raises(AdapterError, match=seen):
        LoraMethod(**wrong)


def test_targets_lie_above_the_lower_layers(backbone: Backbone):
    assert len(LoraMethod().modules(backbone, 1)) == 12
    attention = LoraMethod(targets="attention").modules(backbone, 3)
    assert attention == ["encoder.layer.3.attention.self.query", "encoder.layer.3.attention.self.value"]


def test_only_the_lora_takes_gradients_and_starts_at_nothing(backbone: Backbone):
    plain, model = backbone.load_encoder(), backbone.load_encoder()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    weights = inject_lora(model, LoraMethod(rank=2).config(backbone, 2), torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(p) for pair in weights.values() for p in pair} and len(trainable) == 16
    assert all(float(b.abs().sum()) == 0 and float(a.abs().sum()) > 0 for a, b in weights.values())
    again = inject_lora(backbone.load_encoder(), LoraMethod(rank=2).config(backbone, 2), torch.float32)
    assert all(torch.equal(weights[name][0], again[name][0]) for name in weights)
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).last_hidden_state, plain(ids).last_hidden_state, atol=1e-6, rtol=0)


def test_weights_survive_pefts_names(backbone: Backbone):
    weights = inject_lora(backbone.load_encoder(), LoraMethod(rank=2).config(backbone, 3), torch.float32)
    state = peft_state(weights)
    assert "base_model.model.encoder.layer.3.output.dense.lora_A.weight" in state
    back = weights_from_peft(state)
    assert all(torch.equal(back[name][i], weights[name][i]) for name in weights for i in (0, 1))
    with pytest.raises(AdapterError, match="not a LoRA matrix"):
        weights_from_peft({**state, "base_model.model.encoder.bias": torch.zeros(1)})
    state.pop("base_model.model.encoder.layer.3.output.dense.lora_A.weight")
    with pytest.raises(AdapterError, match=r"encoder\.layer\.3\.output\.dense"):
        weights_from_peft(state)


def test_starting_weights_must_fit(backbone: Backbone):
    def inject(rank: int, k: int, start=None):
        return inject_lora(backbone.load_encoder(), LoraMethod(rank=rank).config(backbone, k), torch.float32, start)

    start = inject(2, 2)
    assert all(torch.equal(a, start[name][0]) for name, (a, _) in inject(2, 2, start).items())
    with pytest.raises(AdapterError, match="shapes"):
        inject(3, 2, start)
    with pytest.raises(AdapterError, match="lack module"):
        inject(2, 1, start)
    with pytest.raises(AdapterError, match="the backbone lacks"):
        inject(2, 3, start)


@pytest.mark.parametrize("sources", [0, 2])
def test_a_low_rank_layer_equals_its_folded_weights(sources: int):
    torch.manual_seed(0)
    linear, a, b, x = nn.Linear(6, 5), torch.randn(4, 6), torch.randn(5, 4), torch.randn(3, 2, 6)
    scales = nn.Parameter(torch.rand(sources, 5)) if sources else None
    rank_source = torch.tensor([0, 0, 1, 1]) if sources else None
    a, b = nn.Parameter(a), nn.Parameter(b)
    layer = LowRankLinear(linear, a, b, 0.5, torch.float32, scales, rank_source)
    # the sum over sources of diag(scale) B_s A_s, as ScaLearn writes it
    update = b @ a if scales is None else sum(
        torch.diag(scales[s]) @ b[:, 2 * s : 2 * s + 2] @ a[2 * s : 2 * s + 2] for s in range(2)
    )  # fmt: skip
    expected = nn.functional.linear(x, linear.weight + 0.5 * update, linear.bias)
    torch.testing.assert_close(layer(x), expected)

    trained = [a, b] if scales is None else [a, b, scales]
    direction = torch.randn(3, 2, 5)
    ours = torch.autograd.grad((layer(x) * direction).sum(), trained)
    theirs = torch.autograd.grad((expected * direction).sum(), trained)
    for mine, peers in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, peers, atol=1e-5, rtol=1e-4)


def test_the_gradient_reaches_the_input_too():
    torch.manual_seed(0)
    linear, x = nn.Linear(6, 5, bias=False), torch.randn(2, 6, requires_grad=True)
    layer = LowRankLinear(linear, nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(5, 2)), 2.0, torch.float32)
    (grad,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(grad, (linear.weight + 2.0 * layer.b @ layer.a).sum(0).expand(2, 6).detach())


def test_every_linear_is_exchanged_and_computes_the_same():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"a": nn.Linear(4, 2, bias=False)})["a"])
    frozen, full, x = copy.deepcopy(model), copy.deepcopy(model), torch.randn(3, 4)
    replace_linears(frozen, torch.float32)
    replace_linears(full, torch.float32, trainable=True)
    assert all(isinstance(part, FrozenLinear) for part in frozen)
    assert all(isinstance(part, TrainableLinear) for part in full)
    assert torch.equal(frozen(x), model(x)) and torch.equal(full(x), model(x))
    assert not list(frozen.parameters()) and full.state_dict().keys() == model.state_dict().keys()
    replace_linears(frozen := copy.deepcopy(model), torch.bfloat16)
    assert frozen[0].weight.dtype == torch.bfloat16 and frozen(x).dtype == torch.float32
