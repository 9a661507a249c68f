"""What is trained: an encoder from some layer up, with a head."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from adaptmtl.adapters.heads import Batch, Head
from adaptmtl.adapters.methods import LoraMethod, LoraWeights, inject_lora
from adaptmtl.backbone.load import Backbone
from adaptmtl.backbone.memory import keep_freed_memory
from adaptmtl.backbone.precision import merged_once, replace_linears
from adaptmtl.backbone.segments import SegmentedEncoder, attention_dropout_off
from adaptmtl.backbone.states import States, token_batches
from adaptmtl.tasks.encoded import EncodedRows
from adaptmtl.training.batches import make_batch


class TaskModel(nn.Module):
    """An encoder segment with the head of a task.

    Args:
        encoder: the layers that run.
        head: the output layer.
        frozen: keep the encoder's dropout off, since only small parts of it are trained.
    """

    def __init__(self, encoder: SegmentedEncoder, head: Head, *, frozen: bool):
        super().__init__()
        keep_freed_memory()
        self.encoder, self.head, self.frozen = encoder, head, frozen

    def train(self, mode: bool = True) -> TaskModel:
        """Sets training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def hidden(self, batch: Batch) -> Tensor:
        """Returns the last hidden states, (features, tokens, hidden)."""
        return self.encoder(batch.input_ids, batch.attention_mask, batch.token_type_ids, batch.states)

    def forward(self, batch: Batch) -> Tensor:
        """Returns the head's outputs."""
        return self.head(self.hidden(batch), batch.attention_mask)


@dataclass(frozen=True)
class LoraModel:
    """A task model whose trainable parts are a LoRA and the head."""

    model: TaskModel
    weights: LoraWeights


def lora_model(
    backbone: Backbone, method: LoraMethod, k: int, head: Head, dtype: torch.dtype, start: LoraWeights | None = None
) -> LoraModel:
    """Builds a model with a LoRA on the layers from ``k`` up.

    Args:
        backbone: the frozen encoder.
        method: the adapter.
        k: lower layers that carry no adapter and are cut off; their states are the input.
        head: the output layer, trained from its current weights.
        dtype: of the matrix products.
        start: LoRA weights to begin from.
    """
    encoder = backbone.load_encoder()
    weights = inject_lora(encoder, method.config(backbone, k), dtype, start)
    return LoraModel(TaskModel(SegmentedEncoder(encoder, backbone.anatomy, k), head, frozen=True), weights)


def full_encoder(backbone: Backbone, dtype: torch.dtype, state: dict[str, Tensor] | None = None) -> SegmentedEncoder:
    """Builds a whole encoder, all weights trainable, in mixed precision.

    Args:
        backbone: pretrained weights.
        dtype: of the matrix products; master weights are fp32.
        state: weights to begin from instead of the pretrained ones (an encoder trained on other tasks).
    """
    encoder = backbone.load_encoder()
    attention_dropout_off(encoder)
    encoder.requires_grad_(True)
    replace_linears(encoder, dtype, trainable=True)
    segmented = SegmentedEncoder(encoder, backbone.anatomy, 0)
    if state is not None:
        segmented.load_state_dict(state)
    return segmented


def outputs_of(model: TaskModel, encoded: EncodedRows, states: States | None, device: torch.device) -> np.ndarray:
    """Runs a model over all features of a split.

    Returns:
        fp32 outputs in the encoded order: (features, outputs), or (total_tokens, outputs) for heads that read tokens.
    """
    model.eval()
    head = model.head
    out = empty_outputs(head, encoded)
    with torch.inference_mode(), merged_once(model):
        for batch in feature_batches(encoded, states):
            values = head.scale_outputs(model(to_device(batch, device))).float().cpu().numpy()
            place_outputs(out, values, head, encoded, batch.features)
    return out


def empty_outputs(head: Head, encoded: EncodedRows) -> np.ndarray:
    """Returns zeros for a head's outputs on all features of a split, as :func:`outputs_of` lays them out."""
    return np.zeros(
        (encoded.n_tokens if head.per_token else encoded.n_features, head.output.out_features), dtype=np.float32
    )


def place_outputs(out: np.ndarray, values: np.ndarray, head: Head, encoded: EncodedRows, features: np.ndarray) -> None:
    """Puts a batch's outputs, (features, outputs) or (features, tokens, outputs), where they belong in ``out``."""
    if not head.per_token:
        out[features] = values
        return
    for row, feature in enumerate(features):
        start, end = encoded.offsets[feature], encoded.offsets[feature + 1]
        out[start:end] = values[row, : end - start]


def feature_batches(encoded: EncodedRows, states: States | None):  # type: ignore[no-untyped-def]
    """Yields batches of single features, unlabelled, of similar length and bounded size."""
    single = single_features(encoded)
    for features in token_batches(encoded.lengths):
        yield make_batch(single, states, features)


def single_features(encoded: EncodedRows) -> EncodedRows:
    """Returns a split whose every feature is a unit of its own, unlabelled."""
    return replace(encoded, unit_offsets=np.arange(encoded.n_features + 1), labels=None)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Returns the batch with its tensors on a device."""
    if device.type == "cpu":
        return batch
    moved = {
        name: (value.pin_memory() if device.type == "cuda" and value.device.type == "cpu" else value).to(
            device, non_blocking=True
        )
        for name in ("input_ids", "attention_mask", "token_type_ids", "states", "labels")
        if (value := getattr(batch, name)) is not None
    }
    return Batch(**{**batch.__dict__, **moved})
