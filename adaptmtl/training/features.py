"""Hidden states as vectors: what estimators read of a task through a backbone, with or without an adapter."""

from __future__ import annotations

import numpy as np
import torch

from adaptmtl.adapters.heads import mean_over_tokens
from adaptmtl.backbone.precision import merged_once
from adaptmtl.backbone.states import States
from adaptmtl.tasks.encoded import EncodedRows
from adaptmtl.training.model import TaskModel, feature_batches, to_device


def mean_features(model: TaskModel, encoded: EncodedRows, states: States | None, device: torch.device) -> np.ndarray:
    """Returns the mean hidden state of every feature, (features, hidden) fp32."""
    out = np.zeros((encoded.n_features, model.head.output.in_features), dtype=np.float32)
    model.eval()
    with torch.inference_mode(), merged_once(model):
        for batch in feature_batches(encoded, states):
            moved = to_device(batch, device)
            out[batch.features] = mean_over_tokens(model.hidden(moved), moved.attention_mask).float().cpu().numpy()
    return out


def token_features(
    model: TaskModel, encoded: EncodedRows, states: States | None, tokens: np.ndarray, device: torch.device
) -> np.ndarray:
    """Returns the hidden states of chosen tokens.

    Args:
        model: encoder to read.
        encoded: the split.
        states: of the lower layers.
        tokens: (chosen,) positions in the flat token axis, ascending.
        device: where to run.

    Returns:
        (chosen, hidden) fp32, in the order of ``tokens``.
    """
    out = np.zeros((len(tokens), model.head.output.in_features), dtype=np.float32)
    model.eval()
    with torch.inference_mode(), merged_once(model):
        for batch in feature_batches(encoded, states):
            hidden = model.hidden(to_device(batch, device)).float().cpu().numpy()
            for row, feature in enumerate(batch.features):
                start, end = int(encoded.offsets[feature]), int(encoded.offsets[feature + 1])
                first, last = np.searchsorted(tokens, (start, end))
                out[first:last] = hidden[row, tokens[first:last] - start]
    return out
