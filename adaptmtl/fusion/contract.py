"""What a merge is: a training-free way from several deltas and weights to one delta of a given rank."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from adaptmtl.errors import SelectionError
from adaptmtl.fusion.delta import Delta, LowRank, compress, factorise, scale, shapes
from adaptmtl.registry import Registry


@dataclass(frozen=True)
class Merged:
    """One delta out of several.

    Attributes:
        delta: the merged update.
        kept_energy: per module, the share of squared norm that the reduction to ``rank`` kept, 0 to 1.
        note: what was done, in one line, for reports and cards.
    """

    delta: Delta
    kept_energy: dict[str, float]
    note: str


class Merge(Protocol):
    """A merge method; every registered one passes ``tests/contracts/test_merges.py``."""

    @property
    def name(self) -> str:
        """Name in the registry."""

    @property
    def paper(self) -> str:
        """Where the method was published."""

    def __call__(self, deltas: Sequence[Delta], weights: Sequence[float], rank: int, seed: int) -> Merged:
        """Merges sources whose order does not matter; a source of weight 0 counts as left out.

        Args:
            deltas: one per source, on the same backbone; ranks and modules may differ.
            weights: one per source.
            rank: highest rank of a module in the result, at least 1 (``cat`` alone ignores it).
            seed: seeds methods that draw at random.

        Raises:
            SelectionError: no sources, or weights that the method cannot use.
            AdapterError: shapes differ between sources, or the rank is below 1.
        """


merges: Registry[Merge] = Registry("merge method", "adaptmtl.merges")


@dataclass(frozen=True, eq=False)
class Source:
    """A delta with its weight and the hash of its content."""

    delta: Delta
    weight: float
    digest: str


def weighted(deltas: Sequence[Delta], weights: Sequence[float]) -> list[Source]:
    """Returns the distinct sources, sorted by content, so that sums do not depend on the order given.

    A source given twice becomes one with the sum of weights; sources of weight 0 are left out.

    Raises:
        SelectionError: no source is left, or counts differ, or a weight is not finite.
        AdapterError: shapes differ between sources.
    """
    if len(deltas) != len(weights):
        raise SelectionError(f"{len(deltas)} sources but {len(weights)} weights: give one weight per source")
    if bad := [weight for weight in weights if not math.isfinite(weight)]:
        raise SelectionError(f"weight {bad[0]} is not a finite number: give finite weights")
    shapes(deltas)
    by_digest: dict[str, list[tuple[Delta, float]]] = {}
    for delta, weight in zip(deltas, weights, strict=True):
        by_digest.setdefault(_digest(delta), []).append((delta, float(weight)))
    sources = [
        Source(same[0][0], math.fsum(weight for _, weight in same), digest)
        for digest, same in sorted(by_digest.items())
    ]
    if not (sources := [source for source in sources if source.weight]):
        raise SelectionError(f"nothing to merge: {len(deltas)} sources, none with a weight other than 0")
    return sources


def averaged(deltas: Sequence[Delta], weights: Sequence[float]) -> list[Source]:
    """Like ``weighted``, with weights divided by their sum.

    Raises:
        SelectionError: as in ``weighted``, or a weight is negative (a mean has no subtraction).
    """
    if negative := [weight for weight in weights if weight < 0]:
        raise SelectionError(
            f"weight {negative[0]} is negative, and this merge is a mean: use 'svd' or 'cat' to subtract"
        )
    sources = weighted(deltas, weights)
    total = math.fsum(source.weight for source in sources)
    return [Source(source.delta, source.weight / total, source.digest) for source in sources]


def alone(source: Source, rank: int) -> Merged:
    """The result of merging one source: itself, brought to ``rank``. There is no interference to trim or drop for."""
    delta, kept = compress(scale(source.delta, source.weight), rank)
    return Merged(delta, kept, f"one source, at most rank {rank}")


def merge_dense(
    sources: Sequence[Source], rank: int, note: str, combine: Callable[[str, tuple[int, int]], Tensor]
) -> Merged:
    """Merges module by module through dense (out, in) matrices, of which only one module's exist at a time.

    Args:
        sources: what is merged.
        rank: highest rank of a module in the result.
        note: the note of the result.
        combine: gives the merged dense matrix for (module, its (out, in)).
    """
    delta: dict[str, LowRank] = {}
    kept: dict[str, float] = {}
    for module, shape in shapes([source.delta for source in sources]).items():
        delta[module], kept[module] = factorise(combine(module, shape), rank)
    return Merged(delta, kept, note)


def _digest(delta: Delta) -> str:
    digest = hashlib.sha256()
    for module, update in sorted(delta.items()):
        digest.update(f"{module}:{update.a.dtype}:{update.shape}:{update.rank}".encode())
        for factor in (update.a, update.b):
            digest.update(factor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
