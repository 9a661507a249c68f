"""Gradients of single rows agree with what autograd and finite differences say, for every kind of task."""

import numpy as np
import pytest
import torch
from tiny_architectures import write_architecture
from toy_tasks import FIVE_KINDS, toy_setup

import adaptmtl.training.gradients as module
from adaptmtl.adapters.heads import make_head
from adaptmtl.errors import SelectionError
from adaptmtl.training.batches import make_batch, training_units
from adaptmtl.training.gradients import row_gradients, split_losses, unit_losses
from adaptmtl.training.model import lora_model


@pytest.fixture(scope="module")
def setup(tmp_path_factory, tiny_backbone):
    folder = tmp_path_factory.mktemp("gradients")
    return toy_setup(folder / "tasks", tiny_backbone, folder / "home", FIVE_KINDS)


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    """fp32 products, so that differences of losses are not rounded away."""
    for place in ("adaptmtl.training.gradients", "adaptmtl.training.setup"):
        monkeypatch.setattr(f"{place}.default_dtype", lambda: torch.float32)


def updates_for(setup, number, seed=0):
    rng, method = np.random.default_rng(seed), setup.recipe.method
    k = setup.recipe.layers_below(setup.backbone)
    start = lora_model(setup.backbone, method, k, make_head(setup.data("opinion").spec, 32, None, 0), torch.float32)
    shapes = {name: (a.shape[1], b.shape[0]) for name, (a, b) in start.weights.items()}
    return [
        {name: (rng.normal(size=(3, i)) / i**0.5, rng.normal(size=(o, 3))) for name, (i, o) in shapes.items()}
        for _ in range(number)
    ]


@pytest.fixture
def kept(monkeypatch):
    """The model whose gradients were taken, under "model"."""
    found = {}
    fit = module._fit_head

    def remember(model, *rest):
        fit(model, *rest)
        found["model"] = model

    monkeypatch.setattr(module, "_fit_head", remember)
    return found


@pytest.mark.parametrize("task", FIVE_KINDS)
def test_slopes_are_finite_differences_of_each_rows_loss(setup, task, kept):
    split, updates = setup.data(task).train, updates_for(setup, 2)
    found = row_gradients(setup, split, updates)
    model, k = kept["model"], setup.recipe.layers_below(setup.backbone)
    units = training_units(split.encoded)
    weights = {name: layer for name, layer in model.named_modules() if hasattr(layer, "effective_b")}
    step, losses = 1e-3, {}
    for sign in (-1, 1):
        for name, layer in weights.items():
            full = next(n for n in updates[0] if _same_place(n, name, k))
            a, b = updates[1][full]
            kept.setdefault(name, layer.weight.clone())
            layer.weight.copy_(kept[name] + sign * step * torch.from_numpy(b @ a).float())
        losses[sign] = split_losses(setup, model, split, k)[units].astype(np.float64)
    rows = split.encoded.feature_row[split.encoded.unit_offsets[units]]
    expected = (losses[1] - losses[-1]) / (2 * step)
    row_of = np.unique(rows, return_inverse=True)[1]
    expected = np.bincount(row_of, weights=expected) / np.bincount(row_of)
    assert found.slopes.shape == (len(expected), 2)
    np.testing.assert_allclose(found.slopes[:, 1], expected, atol=2e-2 * np.abs(expected).max() + 1e-6)


def _same_place(full, cut, k):
    """``encoder.layer.3.x`` of the whole encoder is ``encoder.model.encoder.layer.<3 - k>.x`` of the upper part."""
    parts = full.split(".")
    number = next(i for i, part in enumerate(parts) if part.isdigit())
    parts[number] = str(int(parts[number]) - k)
    return cut.endswith("." + ".".join(parts))


@pytest.mark.parametrize("task", FIVE_KINDS)
def test_fisher_is_the_mean_squared_gradient_of_single_units(setup, task, kept):
    split = setup.data(task).train
    found = row_gradients(setup, split)
    model, k, encoded = kept["model"], setup.recipe.layers_below(setup.backbone), split.encoded
    states = split.states(setup.workspace, k, torch.float32, torch.device("cpu"))
    layers = [layer for layer in model.modules() if hasattr(layer, "effective_b")]
    total = [torch.zeros_like(layer.b) for layer in layers]
    units = training_units(encoded)
    for unit in units:
        model.zero_grad()
        batch = make_batch(encoded, states, np.array([unit]))
        model.head.loss(model(batch), batch).backward()
        for sums, layer in zip(total, layers, strict=True):
            if layer.b.grad is not None:
                sums += layer.b.grad**2
    expected = sorted(float((sums / len(units)).mean(1).sum()) for sums in total)
    assert sorted(float(values.sum()) for values in found.fisher.values()) == pytest.approx(expected, rel=1e-3)
    assert min(expected) > 0


@pytest.mark.parametrize("task", FIVE_KINDS)
def test_losses_of_units_make_up_the_batch_loss(setup, task):
    data = setup.data(task)
    encoded = data.train.encoded
    batch = make_batch(encoded, None, np.arange(6))
    head = make_head(data.spec, 32, encoded, 0).eval()
    length = batch.input_ids.shape[1]
    hidden = torch.randn(len(batch.features), length, 32, generator=torch.Generator().manual_seed(0))
    outputs = head(hidden, batch.attention_mask).detach()
    losses = unit_losses(head, outputs, batch)
    assert losses.shape == (6,)
    weight = torch.ones(6)
    if head.per_token and task == "nouns":  # a batch's loss is a mean over words, not rows
        weight = (batch.labels >= 0).sum(1).float()
    assert float((losses * weight).sum() / weight.sum()) == pytest.approx(float(head.loss(outputs, batch)), rel=1e-5)


def test_the_same_call_gives_the_same_numbers(setup):
    split, updates = setup.data("opinion").train, updates_for(setup, 1)
    first, second = row_gradients(setup, split, updates), row_gradients(setup, split, updates)
    assert first.slopes.tolist() == second.slopes.tolist()
    assert all(first.fisher[name].tolist() == second.fisher[name].tolist() for name in first.fisher)


def test_a_backbone_that_runs_a_layer_on_positions_too_is_refused_in_one_line(tmp_path):
    folder = str(write_architecture("deberta-v2", tmp_path / "deberta"))
    setup = toy_setup(tmp_path / "tasks", folder, tmp_path / "home", ["opinion"])
    with pytest.raises(SelectionError, match=r"share_att_key of DeBERTa\): gradients of single rows cannot be had"):
        row_gradients(setup, setup.data("opinion").train)
