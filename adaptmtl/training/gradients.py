"""Gradients of single rows at the plain backbone: what a task asks of the weights before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from adaptmtl.adapters.heads import Batch, Head, make_head, mean_over_tokens
from adaptmtl.backbone.precision import LowRankLinear, default_dtype
from adaptmtl.backbone.states import States
from adaptmtl.errors import SelectionError
from adaptmtl.tasks.encoded import EncodedRows
from adaptmtl.training.batches import labelled, make_batch, training_units
from adaptmtl.training.data import PreparedSplit
from adaptmtl.training.loop import accelerator
from adaptmtl.training.model import TaskModel, lora_model, to_device
from adaptmtl.training.setup import Setup

#: Ridge penalty of the fitted head, summed over rows whose inputs have unit variance in all.
PENALTY = 10.0
ITERATIONS = 50
UNITS_PER_BATCH = 32

Update = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class RowGradients:
    """What the rows' gradients say.

    Attributes:
        fisher: module -> (out,) diagonal of the empirical Fisher information of a fresh adapter's B, mean over rank.
        slopes: (rows, updates) change of each row's loss per unit step along each update; rows of which no unit was
            read are absent.
    """

    fisher: dict[str, np.ndarray]
    slopes: np.ndarray


def row_gradients(setup: Setup, split: PreparedSplit, updates: Sequence[Update] = (), seed: int = 0) -> RowGradients:
    """Fits a head on the plain backbone, then takes every row's gradient on the adapter's modules.

    At a fresh adapter (B = 0) the gradient of B is the modules' output gradient times A of its input, and the slope
    along an update B' A' is the inner product of the same two with its factors: one backward pass serves any number of
    updates, exactly.

    Args:
        setup: backbone, recipe.
        split: labelled rows; all of them are read.
        updates: module -> (A (r, in), B (out, r)), the scale folded in; modules that the recipe does not adapt count
            as not moved.
        seed: of the head's first weights.
    """
    k, device = setup.recipe.layers_below(setup.backbone), accelerator().device
    head = make_head(split.spec, setup.backbone.hidden_size, split.encoded, seed)
    built = lora_model(setup.backbone, setup.recipe.method, k, head, default_dtype())
    model, encoded = built.model.to(device).eval(), split.encoded
    states, units = split.states(setup.workspace, k, default_dtype(), device), training_units(encoded)
    _fit_head(model, encoded, states, units, device)
    head.requires_grad_(False)
    names = {id(a): name for name, (a, _) in built.weights.items()}
    layers = {names[id(one.a)]: one for one in model.modules() if isinstance(one, LowRankLinear)}
    taps = {name: _Tap(layer, [update.get(name) for update in updates]) for name, layer in layers.items()}
    rows, slopes = [], []
    for batch, chosen in _batches(encoded, states, units, device):
        owner = torch.repeat_interleave(torch.arange(len(chosen), device=device), torch.tensor(batch.sizes).to(device))
        for tap in taps.values():
            tap.begin(owner, len(chosen))
        unit_losses(head, model(batch), batch).sum().backward()
        rows.append(encoded.feature_row[encoded.unit_offsets[chosen]])
        slopes.append(sum(tap.slopes for tap in taps.values()).cpu().numpy())  # type: ignore[union-attr]
    for tap in taps.values():
        tap.remove()
    row_of = np.unique(np.concatenate(rows), return_inverse=True)[1]
    by_row = np.zeros((int(row_of.max()) + 1, len(updates)))
    np.add.at(by_row, row_of, np.concatenate(slopes).astype(np.float64))
    fisher = {name: (tap.fisher / len(units)).cpu().numpy() for name, tap in taps.items()}
    return RowGradients(fisher, by_row / np.bincount(row_of)[:, None])


def unit_losses(head: Head, outputs: Tensor, batch: Batch) -> Tensor:
    """Returns the loss of every unit of a batch by itself, (units,).

    Args:
        head: whose loss.
        outputs: (features, outputs) or (features, tokens, outputs) on the batch.
        batch: labelled.
    """
    assert batch.labels is not None
    losses, start = [], 0
    for unit, size in enumerate(batch.sizes):
        part = slice(start, start + size)
        labels = batch.labels[part] if len(batch.labels) == len(batch.features) else batch.labels[unit : unit + 1]
        single = replace(batch, features=batch.features[part], attention_mask=batch.attention_mask[part],
                         labels=labels, sizes=(size,))  # fmt: skip
        losses.append(head.loss(outputs[part], single))
        start += size
    return torch.stack(losses)


def split_losses(setup: Setup, model: TaskModel, split: PreparedSplit, k: int) -> np.ndarray:
    """Returns the loss of every unit of a split, (units,), in the unit of the head's loss.

    Args:
        setup: workspace of the states.
        model: reads the states above layer ``k``.
        split: labelled.
        k: layers below.
    """
    device = accelerator().device
    states = split.states(setup.workspace, k, default_dtype(), device)
    model.eval()
    found = []
    with torch.inference_mode():
        for batch, _ in _batches(split.encoded, states, np.arange(split.encoded.n_units), device):
            found.append(unit_losses(model.head, model(batch), batch).float().cpu().numpy())
    return np.concatenate(found)


class _Tap:
    """Reads a layer's inputs and output gradients as they pass, and keeps only sums of them."""

    def __init__(self, layer: LowRankLinear, updates: Sequence[tuple[np.ndarray, np.ndarray] | None]):
        device = layer.a.device
        self.layer = layer
        self.fisher = torch.zeros(layer.b.shape[0], device=device)
        parts = [(a, b, i) for i, one in enumerate(updates) if one is not None for a, b in [one]]
        self.a = self.b = None
        if parts:
            self.a = torch.from_numpy(np.concatenate([a for a, _, _ in parts])).float().to(device)  # (ranks, in)
            self.b = torch.from_numpy(np.concatenate([b for _, b, _ in parts], axis=1)).float().to(device)
        ranks = [i for a, _, i in parts for _ in range(len(a))]
        self.sums = torch.zeros(len(ranks), len(updates), device=device)  # (ranks, updates)
        self.sums[torch.arange(len(ranks)), torch.tensor(ranks, dtype=torch.long)] = 1.0
        self._handle = layer.register_forward_hook(self._forward)

    def begin(self, owner: Tensor, units: int) -> None:
        """Readies for a batch; ``owner`` (features,) says which unit a feature belongs to."""
        self.owner, self.units = owner, units
        self.slopes = torch.zeros(units, self.sums.shape[1], device=owner.device)

    def remove(self) -> None:
        self._handle.remove()

    def _forward(self, layer: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].detach()
        if len(x) != len(self.owner):
            raise SelectionError(
                "this backbone runs a layer with an adapter on something else than rows too (share_att_key of "
                "DeBERTa): gradients of single rows cannot be had"
            )
        output.register_hook(lambda gradient: self._backward(x, gradient.detach()))

    def _backward(self, x: Tensor, gradient: Tensor) -> None:
        low = x @ self.layer.a.detach().T * self.layer.scale  # (features, tokens, rank)
        of_b = torch.einsum("nto,ntr->nor", gradient, low)
        unit = torch.zeros(self.units, *of_b.shape[1:], device=of_b.device).index_add_(0, self.owner, of_b)
        self.fisher += (unit**2).sum(0).mean(1)
        if self.a is not None and self.b is not None:
            along = ((x @ self.a.T) * (gradient @ self.b)).sum(1) @ self.sums  # (features, updates)
            self.slopes.index_add_(0, self.owner, along)


def _batches(
    encoded: EncodedRows, states: States | None, units: np.ndarray, device: torch.device
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yields labelled batches of units in their order, with the units."""
    for start in range(0, len(units), UNITS_PER_BATCH):
        chosen = units[start : start + UNITS_PER_BATCH]
        yield to_device(make_batch(encoded, states, chosen), device), chosen


def _fit_head(
    model: TaskModel, encoded: EncodedRows, states: States | None, units: np.ndarray, device: torch.device
) -> None:
    """Fits the head on the plain backbone's hidden states by L-BFGS, with a ridge penalty; in place."""
    head, read = model.head, []
    with torch.no_grad():
        for batch, part in _batches(encoded, states, units, device):
            hidden = model.hidden(batch)
            x = hidden if head.per_token else mean_over_tokens(hidden, batch.attention_mask)
            read.append((x, batch, labelled(encoded, part)))
        center = torch.stack([x.flatten(0, -2).mean(0) for x, *_ in read]).mean(0)
        scale = float(torch.stack([((x - center) ** 2).sum(-1).mean() for x, *_ in read]).mean())
        head.output.weight.zero_()
        head.output.bias.zero_()
    optimizer = torch.optim.LBFGS(head.output.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe")
    ridge, whole = 0.5 * PENALTY / len(units) * max(scale, 1e-12), sum(weight for *_, weight in read)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = ridge * (head.output.weight**2).sum()
        for x, batch, weight in read:
            if weight:
                loss = loss + head.loss(head.output(x), batch) * (weight / whole)
        loss.backward()
        return loss

    optimizer.step(closure)
