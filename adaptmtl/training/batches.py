"""Which units go together in a step, and how they become tensors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from adaptmtl.adapters.heads import Batch
from adaptmtl.backbone.states import States, pad_tokens, padded_length
from adaptmtl.tasks.encoded import EncodedRows
from adaptmtl.tasks.kind import IGNORED

#: Batches that are sorted by length together.
BATCHES_PER_BUCKET = 32
#: Padded tokens that go through forwards and backwards at once, at most, by device. On a CPU what they leave behind in
#: a layer stays in the cache (docs/performance.md); elsewhere a step of long texts still fits into the memory.
_TOKENS_AT_ONCE = {"cpu": 1024}
_TOKENS_ELSEWHERE = 16_384


def epochs_of_units(encoded: EncodedRows, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Yields unit indices batch by batch, without end, each epoch in a new order of length-bucketed batches.

    Units are shuffled, cut into buckets of 32 batches, sorted by length inside a bucket and batched, so that little
    is padded and still every epoch has other batches. A last, smaller batch is kept. Which units are in a batch is
    drawn by ``seed``; whether short or long batches come first is drawn alike for all seeds, so that adapters trained
    side by side see similar lengths at the same step.
    """
    generator, lengths_first = np.random.default_rng(seed), np.random.default_rng(0)
    unit_length = np.maximum.reduceat(encoded.lengths, encoded.unit_offsets[:-1])
    bucket = batch_size * BATCHES_PER_BUCKET
    units = training_units(encoded)
    while True:
        order = generator.permutation(units)
        batches: list[np.ndarray] = []
        for start in range(0, len(order), bucket):
            part = order[start : start + bucket]
            part = part[np.argsort(unit_length[part], kind="stable")]
            batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        for index in lengths_first.permutation(len(batches)):
            yield batches[index]


def training_units(encoded: EncodedRows) -> np.ndarray:
    """Returns the units to train on, as the kind of task chooses them: mostly all."""
    return encoded.kind.training_units(encoded)


def pieces(encoded: EncodedRows, units: np.ndarray, device: torch.device) -> list[np.ndarray]:
    """Cuts the units of a step into pieces of no more padded tokens than go through the model at once on a device.

    Gradients of a step are accumulated over its pieces. They are as few as can be, of similar length inside, and about
    equal, since a small rest would be slow. A single unit that is too long is a piece of its own.
    """
    limit = _TOKENS_AT_ONCE.get(device.type, _TOKENS_ELSEWHERE)
    bounds = zip(encoded.unit_offsets[units], encoded.unit_offsets[units + 1], strict=True)
    sizes = np.array([(end - start, encoded.lengths[start:end].max()) for start, end in bounds])
    order = np.argsort(sizes[:, 1], kind="stable")
    cuts = _cuts(sizes[order], limit)
    low, high = limit // (len(cuts) + 1), limit
    while cuts and high - low > max(1, limit // 16):  # the least limit that makes no more pieces makes them most alike
        middle = (low + high) // 2
        tried = _cuts(sizes[order], middle)
        low, high, cuts = (low, middle, tried) if len(tried) <= len(cuts) else (middle, high, cuts)
    return np.split(units[order], cuts)


def _cuts(sizes: np.ndarray, limit: int) -> list[int]:
    """Returns where new pieces begin, for units of (features, longest), ascending: each as full as the limit allows."""
    cuts, features = [], 0
    for place, (count, longest) in enumerate(sizes.tolist()):
        if features and (features + count) * longest > limit:
            cuts.append(place)
            features = 0
        features += count
    return cuts


def features_of(encoded: EncodedRows, units: np.ndarray) -> np.ndarray:
    """Returns the features of the given units, unit by unit."""
    return np.concatenate([np.arange(encoded.unit_offsets[u], encoded.unit_offsets[u + 1]) for u in units])


def make_batch(encoded: EncodedRows, states: States | None, units: np.ndarray, length: int | None = None) -> Batch:
    """Pads chosen units into one batch with their labels.

    Args:
        encoded: the split.
        states: of the lower layers, or None when the whole encoder runs.
        units: indices of units.
        length: padded length in tokens; None for the longest feature, rounded up.
    """
    features = features_of(encoded, units)
    length = length or padded_length(int(encoded.lengths[features].max()))
    ids, mask, types = pad_tokens(encoded, features, length)
    sizes = tuple(int(n) for n in encoded.unit_offsets[units + 1] - encoded.unit_offsets[units])
    return Batch(
        features=features,
        input_ids=ids,
        attention_mask=mask,
        token_type_ids=types,
        states=None if states is None else states.batch(features, length),
        labels=_labels(encoded, units, features, length),
        sizes=sizes,
    )


def labelled(encoded: EncodedRows, units: np.ndarray) -> int:
    """Returns what a head's loss on units is a mean over: labelled tokens where the kind labels those, else the units.

    With it, losses on several batches add up to the loss on all of their units.
    """
    if encoded.kind.labels_per != "token" or encoded.labels is None:
        return len(units)
    tokens = [encoded.labels[encoded.offsets[f] : encoded.offsets[f + 1]] for f in features_of(encoded, units)]
    return int((np.concatenate(tokens) != IGNORED).sum())


def _labels(encoded: EncodedRows, units: np.ndarray, features: np.ndarray, length: int) -> torch.Tensor | None:
    if encoded.labels is None:
        return None
    per = encoded.kind.labels_per
    if per != "token":
        return torch.from_numpy(np.ascontiguousarray(encoded.labels[units if per == "unit" else features]))
    padded = np.full((len(features), length), IGNORED, dtype=np.int64)
    for row, feature in enumerate(features):
        start, end = encoded.offsets[feature], encoded.offsets[feature + 1]
        padded[row, : end - start] = encoded.labels[start:end]
    return torch.from_numpy(padded)
