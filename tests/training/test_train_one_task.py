from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toys import CPU, QUICK, toy_data

from adaptmtl.adapters.heads import heads
from adaptmtl.adapters.methods import peft_state
from adaptmtl.backbone.load import Backbone
from adaptmtl.backbone.precision import default_dtype
from adaptmtl.errors import AdaptMTLError
from adaptmtl.tasks.kind import kinds
from adaptmtl.training import adapter as module
from adaptmtl.training.adapter import count_trainable, fine_tune, head_rates, train_adapter
from adaptmtl.training.features import mean_features, token_features
from adaptmtl.training.loop import accelerator
from adaptmtl.training.model import outputs_of
from adaptmtl.training.recipe import Encoding, Recipe
from adaptmtl.training.restore import whole_model
from adaptmtl.workspace import Workspace


def saved_bytes(trained) -> dict[str, bytes]:
    tensors = {**peft_state(trained.weights), **trained.model.head.state_dict()}
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.mark.parametrize("kind", list(kinds))
def test_the_loss_of_every_kind_goes_down(kind: str, backbone: Backbone, workspace: Workspace):
    data = toy_data(kind, backbone)
    recipe = replace(QUICK, steps=40, batch_size=16, learning_rate=2e-2)
    trained = train_adapter(workspace, backbone, data, recipe, seed=0)
    losses = trained.log.losses
    assert trained.log.steps == len(losses) == 40 and trained.log.tokens > trained.log.rows > 0
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    outputs = trained.outputs(workspace, data.validation)
    assert outputs.dtype == np.float32 and np.isfinite(outputs).all()
    if kind == "regression":  # back in label units
        assert 90 < outputs.mean() < 150
    if kind == "question_answering":
        assert data.train.encoded.n_features > len(data.train.rows)  # windows


def test_the_seed_decides_every_byte(backbone: Backbone, workspace: Workspace):
    data = toy_data("sequence_classification", backbone)
    first = saved_bytes(train_adapter(workspace, backbone, data, QUICK, seed=0))
    torch.manual_seed(99)  # whatever was drawn before
    assert saved_bytes(train_adapter(workspace, backbone, data, QUICK, seed=0)) == first
    other = saved_bytes(train_adapter(workspace, backbone, data, QUICK, seed=1))
    assert all(other[name] != first[name] for name in first)


def test_training_leaves_the_callers_randomness_alone(backbone: Backbone, workspace: Workspace):
    data = toy_data("sequence_classification", backbone)
    before = torch.get_rng_state()
    train_adapter(workspace, backbone, data, QUICK, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_only_the_lora_and_the_head_change(backbone: Backbone, workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    data, snapshots = toy_data("sequence_classification", backbone), []
    run = module.run

    def spied(model, *args, **options):
        snapshots.append({name: tensor.detach().clone() for name, tensor in everything(model)})
        return run(model, *args, **options)

    def everything(model):
        return [*model.named_parameters(), *model.named_buffers()]

    monkeypatch.setattr(module, "run", spied)
    trained = train_adapter(workspace, backbone, data, QUICK, seed=0)
    (before,) = snapshots
    after = dict(everything(trained.model))
    trainable = {name for name, p in trained.model.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * len(trained.weights) + 2 and len(after) > len(trainable)
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) == (name not in trainable), name
    ranks = sum(a.numel() + b.numel() for a, b in trained.weights.values())
    assert trained.trained_parameters == ranks + 2 * 33 == count_trainable(trained.model)


@pytest.mark.parametrize("k", [0, 2, 3])
def test_what_was_trained_on_states_runs_from_tokens(k: int, backbone: Backbone, workspace: Workspace):
    data = toy_data("token_classification", backbone)
    recipe = replace(QUICK, lower_layers=k)
    trained = train_adapter(workspace, backbone, data, recipe, seed=0)
    assert trained.k == k
    outputs = trained.outputs(workspace, data.validation)
    config = recipe.method.config(backbone, k)
    whole = whole_model(backbone, config, trained.weights, trained.model.head, default_dtype())
    again = outputs_of(whole, data.validation.encoded, None, CPU)
    np.testing.assert_allclose(outputs, again, atol=1e-5 if default_dtype() == torch.float32 else 3e-2)


def test_features_of_tokens_and_texts_agree(backbone: Backbone, workspace: Workspace):
    data = toy_data("token_classification", backbone)
    trained, encoded = train_adapter(workspace, backbone, data, QUICK, seed=0), data.validation.encoded
    states = data.validation.states(workspace, 2, default_dtype(), CPU)
    means = mean_features(trained.model, encoded, states, CPU)
    tokens = token_features(trained.model, encoded, states, np.arange(encoded.n_tokens), CPU)
    expected = np.stack([part.mean(0) for part in np.split(tokens, encoded.offsets[1:-1])])
    np.testing.assert_allclose(means, expected, atol=1e-5)
    chosen = np.array([1, 4, encoded.n_tokens - 1])
    np.testing.assert_array_equal(token_features(trained.model, encoded, states, chosen, CPU), tokens[chosen])


def test_training_can_begin_from_given_weights(backbone: Backbone, workspace: Workspace):
    data = toy_data("sequence_classification", backbone)
    source = train_adapter(workspace, backbone, data, replace(QUICK, steps=10), seed=1)
    start = {name: (a.detach().clone(), b.detach().clone()) for name, (a, b) in source.weights.items()}
    still = replace(QUICK, steps=1, learning_rate=1e-12)
    warm = train_adapter(workspace, backbone, data, still, seed=0, start=start)
    for name, pair in start.items():
        for given, seen in zip(pair, warm.weights[name], strict=True):
            torch.testing.assert_close(seen, given, atol=1e-6, rtol=0)


def test_full_fine_tuning_changes_the_encoder(backbone: Backbone, workspace: Workspace):
    data = toy_data("sequence_classification", backbone)
    trained = fine_tune(workspace, backbone, data, replace(QUICK, full_learning_rate=1e-3), seed=0)
    plain = dict(backbone.load_encoder().named_parameters())
    tuned = dict(trained.model.encoder.model.named_parameters())
    assert tuned.keys() == plain.keys() and trained.weights is None
    unused = {name for name in plain if torch.equal(plain[name], tuned[name])}
    # the key's bias cancels in the softmax, up to rounding; everything else of use has moved
    assert all("key.bias" in name for name in unused), unused
    assert trained.trained_parameters == sum(p.numel() for p in plain.values()) + 2 * 33
    again = fine_tune(workspace, backbone, data, replace(QUICK, full_learning_rate=1e-3), seed=0)
    assert all(torch.equal(p, tuned[name]) for name, p in again.model.encoder.model.named_parameters())


def test_a_loss_that_is_no_number_is_one_error(backbone: Backbone, workspace: Workspace):
    data = toy_data("regression", backbone)
    with pytest.raises(AdaptMTLError, match="lower the learning rate") as caught:
        fine_tune(workspace, backbone, data, replace(QUICK, steps=20, full_learning_rate=1e30), seed=0)
    assert "\n" not in str(caught.value) and "toy-regression" in str(caught.value)


def test_only_a_regression_head_learns_as_slowly_as_the_adapter():
    recipe = Recipe(learning_rate=2e-3, head_rate=3.0)
    assert [rate for _, rate in head_rates(recipe, heads["sequence_classification"](4, 2))] == [6e-3, 6e-3]
    assert head_rates(recipe, heads["regression"](4, 1)) == []


def test_recipes_are_checked(backbone: Backbone):
    for wrong in ({"batch_size": 0}, {"learning_rate": 0.0}, {"epochs": -1.0}, {"steps": 0}):
        with pytest.raises(AdaptMTLError, match=next(iter(wrong))):
            Recipe(**wrong)
    for k in (-1, 4):
        with pytest.raises(AdaptMTLError, match="give 0 to 3"):
            Recipe(lower_layers=k).layers_below(backbone)
    depths = {4: 0, 6: 1, 12: 2, 24: 4}
    assert {n: Recipe().layers_below(SimpleNamespace(n_layers=n)) for n in depths} == depths
    assert Recipe(epochs=2, batch_size=10).steps_for(100) == 20 and Recipe(steps=7).steps_for(100) == 7
    assert [Recipe().steps_for(rows) for rows in (10, 512, 640, 3200)] == [48, 48, 60, 300]
    assert Recipe().to_dict()["least_steps"] == 48 and "least_steps" not in Recipe(epochs=3).to_dict()
    assert Encoding(999).fitted(backbone).max_length == 128


def test_a_process_of_another_precision_is_told(monkeypatch):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        Accelerator(mixed_precision="bf16", cpu=True)
        with pytest.raises(AdaptMTLError, match="uses mixed precision"):
            accelerator()
    finally:
        monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
        AcceleratorState._reset_state(reset_partial_state=True)
    assert accelerator().mixed_precision == "no"


@pytest.mark.parametrize("kind", ["sequence_classification", "token_classification"])
def test_a_training_in_bf16_ends_near_one_in_fp32(
    kind: str, backbone: Backbone, workspace: Workspace, monkeypatch, request
):
    request.addfinalizer(default_dtype.cache_clear)
    data, found = toy_data(kind, backbone), {}
    recipe = replace(QUICK, steps=6, lower_layers=1)
    for name in ("float32", "bfloat16"):
        monkeypatch.setenv("ADAPTMTL_DTYPE", name)
        default_dtype.cache_clear()
        trained = train_adapter(workspace, backbone, data, recipe, seed=0)
        again = train_adapter(workspace, backbone, data, recipe, seed=0)
        assert saved_bytes(trained) == saved_bytes(again)
        found[name] = trained.log.losses, trained.outputs(workspace, data.validation)
    (losses, outputs), (rounded_losses, rounded) = found["float32"], found["bfloat16"]
    np.testing.assert_allclose(rounded_losses, losses, rtol=0.05)
    assert 0.98 < np.corrcoef(rounded.ravel(), outputs.ravel())[0, 1] < 1
