"""A step taken in pieces has the loss and the gradients of the whole step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import QUICK, toy_data

from adaptmtl.adapters.heads import make_head
from adaptmtl.backbone.load import Backbone
from adaptmtl.tasks.kind import kinds
from adaptmtl.training import batches
from adaptmtl.training.adapter import accumulated, train_adapter
from adaptmtl.training.batches import make_batch, pieces, training_units
from adaptmtl.training.model import lora_model
from adaptmtl.workspace import Workspace

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", list(kinds))
def test_pieces_add_up_to_the_step(kind: str, backbone: Backbone, monkeypatch: pytest.MonkeyPatch):
    data = toy_data(kind, backbone, rows=40)
    encoded = data.train.encoded
    head = make_head(data.spec, backbone.hidden_size, encoded, 0, dropout=0.0)
    model = lora_model(backbone, QUICK.method, 0, head, torch.float32).model
    with torch.no_grad():
        for parameter in model.parameters():  # B begins at 0, where A has no gradient
            if parameter.requires_grad:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    units = training_units(encoded)[:12]

    def gradients(pieces_):
        model.zero_grad()
        for loss in pieces_:
            loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.requires_grad]

    batch = make_batch(encoded, None, units)
    whole = head.loss(model(batch), batch)
    expected = gradients([whole])
    monkeypatch.setitem(batches._TOKENS_AT_ONCE, "cpu", 24)
    made = list(accumulated(model, head, encoded, None, units, CPU))
    assert len(made) >= 3 and sum(one.rows for one in made) == len(units)
    assert sum(one.tokens for one in made) == batch.n_tokens
    assert float(sum(one.loss.detach() for one in made)) == pytest.approx(float(whole.detach()), rel=1e-5)
    for one, other in zip(gradients([one.loss for one in made]), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_pieces_are_about_equal_and_hold_every_unit_once(backbone: Backbone, monkeypatch: pytest.MonkeyPatch):
    encoded = toy_data("multiple_choice", backbone, rows=64).train.encoded
    units = np.random.default_rng(0).permutation(encoded.n_units)[:32]
    lengths = np.add.reduceat(encoded.lengths, encoded.unit_offsets[:-1])
    assert len(pieces(encoded, units, CPU)) == 1
    for limit in (1, 60, 200):
        monkeypatch.setitem(batches._TOKENS_AT_ONCE, "cpu", limit)
        made = pieces(encoded, units, CPU)
        assert np.concatenate(made).tolist() == units.tolist() and all(len(part) for part in made)
        sizes = [lengths[part].sum() for part in made]
        assert max(sizes) <= 1.5 * limit + lengths.max()
        assert len(made) == min(len(units), max(1, round(sum(sizes) / limit))) or limit == 1


def test_a_training_in_pieces_ends_near_the_same_weights(
    backbone: Backbone, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    data = toy_data("token_classification", backbone, rows=40)
    recipe = replace(QUICK, head_dropout=0.0, learning_rate=1e-3)
    whole = train_adapter(workspace, backbone, data, recipe, 0)
    monkeypatch.setitem(batches._TOKENS_AT_ONCE, "cpu", 30)
    cut = train_adapter(workspace, backbone, data, recipe, 0)
    assert (cut.log.steps, cut.log.rows, cut.log.tokens) == (whole.log.steps, whole.log.rows, whole.log.tokens)
    assert cut.log.losses == pytest.approx(whole.log.losses, rel=1e-4)
    for name, (a, b) in whole.weights.items():
        torch.testing.assert_close(cut.weights[name][0], a, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(cut.weights[name][1], b, rtol=1e-3, atol=1e-5)
