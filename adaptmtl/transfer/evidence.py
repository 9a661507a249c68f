"""Reads what estimators need: the target's training rows through each source's adapter, texts, weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from adaptmtl.adapters.bundle import Bundle
from adaptmtl.adapters.heads import make_head
from adaptmtl.adapters.methods import LoraMethod, weights_from_peft
from adaptmtl.backbone.precision import default_dtype
from adaptmtl.errors import SelectionError
from adaptmtl.tasks.encoded import EncodedRows
from adaptmtl.tasks.spec import Kind
from adaptmtl.training.data import PreparedSplit
from adaptmtl.training.features import mean_features, token_features
from adaptmtl.training.loop import accelerator
from adaptmtl.training.model import lora_model
from adaptmtl.training.setup import Setup
from adaptmtl.transfer.contract import Delta, Features

#: Token vectors read of a tagging or question-answering target.
MOST_TOKENS = 4000


def target_features(setup: Setup, split: PreparedSplit, source: Bundle | None) -> Features:
    """Returns the rows of a split as vectors through the backbone with a source's adapter.

    Sequences are read as the mean over tokens, tagging as the first token of each word, question answering as answer
    tokens against as many other tokens of the context, drawn by seed 0. A row of several labels counts once per label,
    all of them in the row's group.

    Args:
        setup: backbone and recipe.
        split: training rows of the target.
        source: the source's adapter, of whatever rank and scale; None for the plain backbone.
    """
    method, weights = setup.recipe.method, None
    if source is not None:
        method, weights = method_of(source, setup), weights_from_peft(source.adapter)
    k = setup.recipe.layers_below(setup.backbone)
    device = accelerator().device
    head = make_head(split.spec, setup.backbone.hidden_size, None, 0)
    model = lora_model(setup.backbone, method, k, head, default_dtype(), weights).model.to(device)
    states = split.states(setup.workspace, k, default_dtype(), device)
    encoded, kind = split.encoded, split.spec.kind
    assert encoded.labels is not None
    if kind in (Kind.TOKEN_CLASSIFICATION, Kind.QUESTION_ANSWERING):
        tokens, labels = _tagged_tokens(encoded) if kind is Kind.TOKEN_CLASSIFICATION else _answer_tokens(encoded)
        feature = np.searchsorted(encoded.offsets, tokens, side="right") - 1
        x = token_features(model, encoded, states, tokens, device)
        return Features(x, labels, encoded.feature_row[feature].astype(np.int64), "classes")
    x = mean_features(model, encoded, states, device)
    if kind is Kind.MULTIPLE_CHOICE:
        unit = np.repeat(np.arange(encoded.n_units), np.diff(encoded.unit_offsets))
        place = np.arange(encoded.n_features) - encoded.unit_offsets[unit]
        return Features(x, (place == encoded.labels[unit]).astype(np.int64), unit, "choices")
    if kind is Kind.MULTI_LABEL_CLASSIFICATION:
        row, label = _row_and_label(encoded.labels)
        return Features(x[row], label, row, "classes")
    if kind is Kind.REGRESSION:
        return Features(x, encoded.labels.astype(np.float32), None, "values")
    return Features(x, encoded.labels.astype(np.int64), None, "classes")


def delta_of(bundle: Bundle) -> Delta:
    """Returns an adapter's low-rank updates with the scale folded into B, as arrays."""
    scale = float(bundle.lora_config["lora_alpha"]) / float(bundle.lora_config["r"])
    return {name: (_array(a), scale * _array(b)) for name, (a, b) in weights_from_peft(bundle.adapter).items()}


def class_probabilities(bundle: Bundle, features: Features, kind: Kind) -> np.ndarray:
    """Returns the probabilities that a source's own head gives to its labels, per vector of the target.

    Args:
        bundle: the source's adapter.
        features: the target's vectors through it.
        kind: of the target.

    Returns:
        (n, source labels).

    Raises:
        SelectionError: see :func:`check_class_head`.
    """
    check_class_head(bundle, kind)
    logits = features.x.astype(np.float64) @ _array(bundle.head["output.weight"]).T + _array(bundle.head["output.bias"])
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def check_class_head(bundle: Bundle, kind: Kind) -> None:
    """Raises a SelectionError unless a source's head chooses one of several labels for vectors of the target's kind."""
    own = bundle.manifest.task.kind
    if own not in (Kind.SEQUENCE_CLASSIFICATION, Kind.TOKEN_CLASSIFICATION):
        raise SelectionError(f"source {bundle.manifest.task.name!r} is of kind {own}: its head chooses no class")
    if (own is Kind.TOKEN_CLASSIFICATION) != (kind in (Kind.TOKEN_CLASSIFICATION, Kind.QUESTION_ANSWERING)):
        reads = "single tokens" if own is Kind.TOKEN_CLASSIFICATION else "whole texts"
        raise SelectionError(f"the head of source {bundle.manifest.task.name!r} reads {reads}, unlike a {kind} target")


def method_of(bundle: Bundle, setup: Setup) -> LoraMethod:
    """Returns the rank and scale of an adapter, on the recipe's modules."""
    config = bundle.lora_config
    return LoraMethod(int(config["r"]), float(config["lora_alpha"]), setup.recipe.method.targets)


def _row_and_label(marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and label of every mark in (rows, labels); a row without any has the class after the last label."""
    none = marks.sum(axis=1, keepdims=True) == 0
    row, label = np.nonzero(np.concatenate([marks, none], axis=1))
    return row.astype(np.int64), label.astype(np.int64)


def _tagged_tokens(encoded: EncodedRows) -> tuple[np.ndarray, np.ndarray]:
    assert encoded.labels is not None
    tokens = np.flatnonzero(encoded.labels >= 0)[:MOST_TOKENS]
    return tokens, encoded.labels[tokens].astype(np.int64)


def _answer_tokens(encoded: EncodedRows) -> tuple[np.ndarray, np.ndarray]:
    assert encoded.labels is not None and encoded.spans is not None
    inside = np.zeros(encoded.n_tokens, dtype=bool)
    for feature, (start, end) in enumerate(encoded.labels):
        if end > 0:
            base = int(encoded.offsets[feature])
            inside[base + start : base + end + 1] = True
    answers = np.flatnonzero(inside)
    others = np.flatnonzero(~inside & (encoded.spans[:, 0] >= 0))
    generator = np.random.default_rng(0)
    answers = np.sort(generator.permutation(answers)[: MOST_TOKENS // 2])
    others = generator.permutation(others)[: len(answers)]
    tokens = np.sort(np.concatenate([answers, others]))
    return tokens, inside[tokens].astype(np.int64)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float32).cpu().numpy()
