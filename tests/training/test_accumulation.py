"""A step taken in pieces has the loss and the gradients of the whole step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import QUICK, toy_data

from adaptmtl.adapters.heads import IGNORED, TokenHead, make_head
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


@pytest.mark.parametrize("limit", [1, 30, 60, 200, 10_000])
def test_pieces_keep_within_the_limit_and_hold_every_unit_once(limit, backbone, monkeypatch):
    encoded = toy_data("multiple_choice", backbone, rows=64).train.encoded
    units = np.random.default_rng(0).permutation(encoded.n_units)[:32]
    monkeypatch.setitem(batches._TOKENS_AT_ONCE, "cpu", limit)
    made = pieces(encoded, units, CPU)
    assert sorted(np.concatenate(made).tolist()) == sorted(units.tolist())
    sizes = [make_batch(encoded, None, part).attention_mask.numel() for part in made]
    assert all(size <= limit for size, part in zip(sizes, made, strict=True) if len(part) > 1)
    if len(made) > 1:
        assert sum(sizes) > limit and (limit < 60 or min(sizes) > limit / 3)


def test_a_long_unit_does_not_pad_the_short_ones(backbone: Backbone, monkeypatch: pytest.MonkeyPatch):
    encoded = toy_data("sequence_classification", backbone, rows=32).train.encoded
    lengths = np.full(32, 20)
    lengths[5] = 512
    long = replace(
        encoded, input_ids=np.ones(lengths.sum(), np.int32), token_type_ids=None,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
    )  # fmt: skip
    made = pieces(long, np.arange(32), CPU)
    assert [len(part) for part in made] == [31, 1] and made[1].tolist() == [5]


class WordHead(TokenHead):
    """A head of another package: a plain mean over words, which is no number where there is none."""

    def loss(self, outputs, batch):
        return torch.nn.functional.cross_entropy(outputs.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)


def test_a_foreign_head_counts_words_and_pieces_without_any_are_left_out(backbone, monkeypatch):
    data = toy_data("token_classification", backbone, rows=40)
    encoded = data.train.encoded
    labels = encoded.labels.copy()
    for unit in range(0, 20):  # rows without a labelled word
        labels[encoded.offsets[unit] : encoded.offsets[unit + 1]] = IGNORED
    encoded = replace(encoded, labels=labels)
    head = WordHead(backbone.hidden_size, 3, dropout=0.0)
    head.per_token = True
    model = lora_model(backbone, QUICK.method, 0, head, torch.float32).model
    units = np.arange(12, 24)
    batch = make_batch(encoded, None, units)
    whole = head.loss(model(batch), batch)
    monkeypatch.setitem(batches._TOKENS_AT_ONCE, "cpu", 12)
    made = list(accumulated(model, head, encoded, None, units, CPU))
    assert len(made) >= 2
    assert float(sum(one.loss.detach() for one in made)) == pytest.approx(float(whole.detach()), rel=1e-5)


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
