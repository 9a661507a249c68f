"""Reads what estimators need: the target's training rows through each source's adapter, texts, weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from adaptmtl.adapters.bundle import Bundle
from adaptmtl.adapters.heads import make_head
from adaptmtl.adapters.methods import LoraMethod, LoraWeights, one_scale, weights_from_peft
from adaptmtl.backbone.precision import default_dtype
from adaptmtl.errors import SelectionError
from adaptmtl.tasks.kind import Kind, kinds
from adaptmtl.training.data import PreparedSplit
from adaptmtl.training.features import mean_features, token_features
from adaptmtl.training.loop import accelerator
from adaptmtl.training.model import lora_model
from adaptmtl.training.setup import Setup
from adaptmtl.transfer.contract import Delta, Features


def target_features(setup: Setup, split: PreparedSplit, source: Bundle | LoraWeights | None) -> Features:
    """Returns the rows of a split as vectors through the backbone with a source's adapter.

    The target's kind says which vectors (:meth:`adaptmtl.tasks.kind.Kind.points`): texts are read as the mean over
    tokens, tagging as the first token of each word, question answering as answer tokens against as many other tokens.

    Args:
        setup: backbone and recipe.
        split: training rows of the target.
        source: the source's adapter, of whatever rank and scale, or weights of the recipe's shape; None for the plain
            backbone.
    """
    method = setup.recipe.method
    weights = source if isinstance(source, dict) else None
    if isinstance(source, Bundle):
        method, weights = method_of(source, setup), weights_from_peft(source.adapter)
    k = setup.recipe.layers_below(setup.backbone)
    device = accelerator().device
    head = make_head(split.spec, setup.backbone.hidden_size, None, 0)
    model = lora_model(setup.backbone, method, k, head, default_dtype(), weights).model.to(device)
    states = split.states(setup.workspace, k, default_dtype(), device)
    points = split.spec.kind.points(split.encoded)
    if split.spec.kind.per_token:
        x = token_features(model, split.encoded, states, points.at, device)
    else:
        x = mean_features(model, split.encoded, states, device)[points.at]
    return Features(x, points.labels, points.rows, points.target)


def delta_of(bundle: Bundle) -> Delta:
    """Returns an adapter's low-rank updates with the scale folded into B, as arrays."""
    rank, alpha = _shape(bundle)
    scale = alpha / rank
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
    facts = bundle.manifest.task
    if facts.kind not in kinds or not (own := kinds[facts.kind]).one_label:
        raise SelectionError(f"source {facts.name!r} is of kind {facts.kind}: its head chooses no class")
    if own.per_token != kind.per_token:
        reads = "single tokens" if own.per_token else "whole texts"
        raise SelectionError(f"the head of source {facts.name!r} reads {reads}, unlike a {kind} target")


def method_of(bundle: Bundle, setup: Setup) -> LoraMethod:
    """Returns the rank and scale of an adapter, on the recipe's modules.

    Raises:
        SelectionError: not all its layers have the same.
    """
    return LoraMethod(*_shape(bundle), setup.recipe.method.targets)


def _shape(bundle: Bundle) -> tuple[int, float]:
    """Returns the rank and alpha that all layers of an adapter have."""
    config = bundle.lora_config
    if not one_scale(config):
        raise SelectionError(
            f"{bundle.manifest.name} has rsLoRA or other ranks and scales in some layers, which estimates do not read; "
            "name it in --sources to use it all the same"
        )
    return int(config["r"]), float(config["lora_alpha"])


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float32).cpu().numpy()
