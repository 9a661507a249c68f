"""Reads what estimators need: the target's training rows through each source's adapter, texts, weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from adaptmtl.adapters.bundle import Bundle
from adaptmtl.adapters.heads import make_head
from adaptmtl.adapters.methods import LoraMethod, weights_from_peft
from adaptmtl.backbone.precision import default_dtype
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
    tokens against as many other tokens of the context, drawn by seed 0.

    Args:
        setup: backbone and recipe.
        split: training rows of the target.
        source: the source's adapter, of whatever rank and scale; None for the plain backbone.
    """
    method, weights = setup.recipe.method, None
    if source is not None:
        method, weights = _method_of(source, setup), weights_from_peft(source.adapter)
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
    if kind is Kind.REGRESSION:
        return Features(x, encoded.labels.astype(np.float32), None, "values")
    return Features(x, encoded.labels.astype(np.int64), None, "classes")


def delta_of(bundle: Bundle) -> Delta:
    """Returns an adapter's low-rank updates with the scale folded into B, as arrays."""
    scale = float(bundle.lora_config["lora_alpha"]) / float(bundle.lora_config["r"])
    return {name: (_array(a), scale * _array(b)) for name, (a, b) in weights_from_peft(bundle.adapter).items()}


def _method_of(bundle: Bundle, setup: Setup) -> LoraMethod:
    config = bundle.lora_config
    return LoraMethod(int(config["r"]), float(config["lora_alpha"]), setup.recipe.method.targets)


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
