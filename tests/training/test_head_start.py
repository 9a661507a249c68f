"""A fresh head can begin as a linear probe: it is one, where the features say something, and else stays at random."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import CPU, QUICK, toy_data

from adaptmtl.adapters.heads import ClassificationHead, Head, make_head
from adaptmtl.backbone.load import Backbone
from adaptmtl.errors import AdaptMTLError
from adaptmtl.tasks.kind import kinds
from adaptmtl.training import group as group_module
from adaptmtl.training import head_start
from adaptmtl.training.adapter import train_adapter
from adaptmtl.training.batches import make_batch, pieces
from adaptmtl.training.group import Member, train_group
from adaptmtl.training.head_start import fit_head, start_head, units_to_read
from adaptmtl.training.model import lora_model
from adaptmtl.workspace import Workspace


def read_of(data, signal: float, seed: int = 0):
    """Made-up states of the training units, whose first dimension says the label as far as ``signal``."""
    encoded, rng = data.train.encoded, np.random.default_rng(seed)
    head = make_head(data.spec, 16, encoded, 0)
    found = []
    for part in np.array_split(units_to_read(head, encoded), 8):
        batch = make_batch(encoded, None, part)
        states = torch.from_numpy(rng.normal(size=(len(batch.features), 16)).astype(np.float32))
        states[:, 0] += signal * (batch.labels.float() - 0.5)
        found.append((states, batch))
    return head, found, encoded


def test_a_head_on_telling_features_is_fitted(backbone: Backbone):
    head, read, encoded = read_of(toy_data("sequence_classification", backbone), signal=8.0)
    fit_head(head, read, encoded)
    right = [(head.output(x).argmax(1) == batch.labels).float().mean() for x, batch in read]
    assert np.mean(right) > 0.95 and all(p.grad is None for p in head.parameters())


def test_a_head_on_features_that_say_nothing_stays_as_it_was(backbone: Backbone):
    head, read, encoded = read_of(toy_data("sequence_classification", backbone), signal=0.0)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    fit_head(head, read, encoded)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


@pytest.mark.parametrize("kind", list(kinds))
def test_every_kind_begins_with_less_loss(kind: str, backbone: Backbone, workspace: Workspace):
    data = toy_data(kind, backbone)
    encoded = data.train.encoded
    head = make_head(data.spec, backbone.hidden_size, encoded, 0, 0.0)
    built = lora_model(backbone, QUICK.method, 0, head, torch.float32)
    parts = pieces(encoded, units_to_read(head, encoded), CPU)

    def loss() -> float:
        with torch.no_grad():
            batches = [make_batch(encoded, None, part) for part in parts]
            return float(np.mean([float(head.loss(built.model(batch), batch)) for batch in batches]))

    before, training = loss(), built.model.training
    start_head(built.model, encoded, None, CPU, least=-np.inf)
    assert loss() <= before + 1e-4 and built.model.training == training


@pytest.mark.parametrize("kind", ["sequence_classification", "token_classification"])
def test_a_group_begins_as_each_member_would_alone(
    kind: str, backbone: Backbone, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    for module in (head_start, group_module):  # toy features say little
        monkeypatch.setattr(module, "fit_head", lambda head, read, encoded, *_: fit_head(head, read, encoded, -np.inf))
    data, recipe = toy_data(kind, backbone), replace(QUICK, steps=1, head_start="probe", learning_rate=1e-9)
    other = train_adapter(workspace, backbone, data, replace(QUICK, steps=3), seed=5).weights
    (group,) = train_group(workspace, backbone, data, recipe, [Member(0), Member(1, other)])
    for index, start in enumerate((None, other)):
        alone = train_adapter(workspace, backbone, data, recipe, index, start=start).model.head
        together = group.heads[index]
        assert torch.allclose(together.output.weight, alone.output.weight, atol=1e-2)
        plain = make_head(data.spec, backbone.hidden_size, data.train.encoded, index)
        assert not torch.allclose(plain.output.weight, alone.output.weight, atol=0.1)


def test_a_head_that_is_more_than_a_linear_layer_is_left_alone(backbone: Backbone):
    class Deep(ClassificationHead):
        def forward(self, hidden, attention_mask):
            return super().forward(hidden.tanh(), attention_mask)

    data = toy_data("sequence_classification", backbone)
    head: Head = Deep(backbone.hidden_size, 2)
    before = head.output.weight.detach().clone()
    start_head(lora_model(backbone, QUICK.method, 0, head, torch.float32).model, data.train.encoded, None, CPU)
    assert torch.equal(head.output.weight, before)


def test_long_token_tasks_are_read_in_part(backbone: Backbone, monkeypatch: pytest.MonkeyPatch):
    data = toy_data("token_classification", backbone)
    encoded = data.train.encoded
    head = make_head(data.spec, backbone.hidden_size, encoded, 0)
    everything = units_to_read(head, encoded)
    monkeypatch.setattr(head_start, "MOST_TOKENS", encoded.n_tokens // 2)
    assert 0 < len(units_to_read(head, encoded)) < len(everything)
    monkeypatch.setattr(head_start, "MOST_UNITS", 3)
    assert units_to_read(head, encoded).tolist() == everything[:3].tolist()


def test_an_unknown_start_is_refused():
    with pytest.raises(AdaptMTLError, match=r"head_start is 'zeros'; give random or probe"):
        replace(QUICK, head_start="zeros")
