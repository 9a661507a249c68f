"""What a fresh head begins with: a linear probe on what the encoder says before anything is trained.

A head that begins at random spends a short training's first steps on learning what a linear model knows at once, and
bends the features meanwhile. So it can be fitted first, then everything is trained (linear probing, then fine-tuning:
Kumar et al. 2022). The ridge penalty is chosen on held-out training units. Where the features say little yet, as for
many tasks on pairs of texts, a fitted head would only know its training rows by heart: there it begins at random.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from adaptmtl.adapters.heads import Batch, Head, mean_over_tokens
from adaptmtl.backbone.states import States
from adaptmtl.tasks.encoded import EncodedRows
from adaptmtl.training.batches import labelled, make_batch, pieces, training_units
from adaptmtl.training.model import TaskModel, to_device

#: Training units that are read at most, and of heads that read every token at most so many tokens: about what a probe
#: of this width needs.
MOST_UNITS, MOST_TOKENS = 1_000, 40_000
#: On squared weights, the features' total variance being 1, in rows; tried from the strongest on.
PENALTIES = (100.0, 10.0, 1.0, 0.1)
#: Share of the labels' uncertainty in held-out units that a fitted head must explain, or it begins at random.
LEAST_EXPLAINED = 0.1
#: Every so many-th piece is held out to choose the penalty.
_HELD_OUT = 4
_LEAST_PARTS = 2 * _HELD_OUT
_ITERATIONS = 30
_ALL = 1e6  # a penalty that leaves nothing but the labels' frequencies

#: What a head's output layer reads, (features, hidden) or (features, tokens, hidden), and the labelled batch.
Read = tuple[Tensor, Batch]


def start_head(
    model: TaskModel, encoded: EncodedRows, states: States | None, device: torch.device,
    least: float = LEAST_EXPLAINED,
) -> None:  # fmt: skip
    """Fits a model's head on its encoder's hidden states, in place.

    Args:
        model: on the device; its encoder is only read.
        encoded: labelled training rows.
        states: of the lower layers, or None when the whole encoder runs.
        device: where to.
        least: as in :func:`fit_head`.
    """
    if not can_start(model.head):
        return
    training = model.training
    model.eval()
    read = []
    with torch.no_grad():
        for part in parts_to_read(model.head, encoded, device):
            batch = to_device(make_batch(encoded, states, part), device)
            read.append(as_read(model.head, model.hidden(batch), batch))
    model.train(training)
    fit_head(model.head, read, encoded, least)


def can_start(head: Head) -> bool:
    """Returns whether a head is one linear layer on hidden states or their mean; a head of another kind may be more."""
    return type(head).forward is Head.forward


def units_to_read(head: Head, encoded: EncodedRows) -> np.ndarray:
    """Returns the training units that a head is fitted on: always the same ones of the same rows."""
    units = np.random.default_rng(0).permutation(training_units(encoded))[:MOST_UNITS]
    if head.per_token:
        ends = encoded.offsets[encoded.unit_offsets[units + 1]]
        tokens = np.cumsum(ends - encoded.offsets[encoded.unit_offsets[units]])
        units = units[: max(1, int(np.searchsorted(tokens, MOST_TOKENS)))]
    return units


def parts_to_read(head: Head, encoded: EncodedRows, device: torch.device) -> list[np.ndarray]:
    """Returns those units in pieces that go through a model at once, enough of them to hold some out."""
    units = units_to_read(head, encoded)
    parts = pieces(encoded, units, device)
    return parts if len(parts) >= _LEAST_PARTS else np.array_split(units, min(_LEAST_PARTS, len(units)))


def as_read(head: Head, hidden: Tensor, batch: Batch) -> Read:
    """Returns what the head's output layer reads of hidden states, (features, tokens, hidden)."""
    return (hidden if head.per_token else mean_over_tokens(hidden, batch.attention_mask)).float(), batch


def fit_head(head: Head, read: Sequence[Read], encoded: EncodedRows, least: float = LEAST_EXPLAINED) -> None:
    """Fits a head's output layer by L-BFGS, with the ridge penalty that is best on held-out pieces; in place.

    Args:
        head: whose output layer.
        read: training units, piece by piece.
        encoded: the split that they are of.
        least: share of the labels' uncertainty in held-out units that must be explained beyond their frequencies;
            else the head stays as it is.
    """
    weights = [float(labelled(encoded, batch)) for _, batch in read]
    kept = [(x, batch, weight) for (x, batch), weight in zip(read, weights, strict=True) if weight > 0]
    held_out = kept[_HELD_OUT - 1 :: _HELD_OUT]
    rest = [one for place, one in enumerate(kept) if place % _HELD_OUT != _HELD_OUT - 1]
    if not held_out:
        return
    before = {name: value.clone() for name, value in head.output.state_dict().items()}
    flat = torch.cat([x.flatten(0, -2) for x, _, _ in kept])
    scale = float(flat.var(dim=0, correction=0).sum().clamp(min=1e-12))
    with torch.no_grad():
        head.output.weight.zero_()
        head.output.bias.zero_()
    losses: list[float] = []
    for penalty in (_ALL, *PENALTIES):  # each fit starts from the last
        _fit(head, rest, penalty * scale)
        with torch.no_grad():
            losses.append(float(_loss(head, held_out)))
        if losses[-1] > min(losses):
            break
    best = int(np.nanargmin(losses))
    if best == 0 or losses[best] > (1 - least) * losses[0]:
        head.output.load_state_dict(before)
        return
    _fit(head, kept, PENALTIES[best - 1] * scale)


def _loss(head: Head, read: Sequence[tuple[Tensor, Batch, float]]) -> Tensor:
    """Mean loss over what is labelled."""
    total = sum(weight for _, _, weight in read)
    return torch.stack([head.loss(head.output(x), batch) * (weight / total) for x, batch, weight in read]).sum()


def _fit(head: Head, read: Sequence[tuple[Tensor, Batch, float]], penalty: float) -> None:
    optimizer = torch.optim.LBFGS(head.output.parameters(), max_iter=_ITERATIONS, line_search_fn="strong_wolfe")
    ridge = 0.5 * penalty / sum(weight for _, _, weight in read)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _loss(head, read) + ridge * head.output.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    optimizer.zero_grad()
