"""The weighted sum of updates: exact at the sum of ranks, or brought to a rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adaptmtl.fusion.contract import Merged, merges, weighted
from adaptmtl.fusion.delta import Delta, add, compress

TASK_ARITHMETIC = "Ilharco et al. 2023, Editing models with task arithmetic, arXiv:2212.04089"


@dataclass(frozen=True)
class Cat:
    """Weighted sum by concatenation, without any loss: the result's rank is the sum of ranks, ``rank`` is not used."""

    name: str = "cat"
    paper: str = TASK_ARITHMETIC

    def __call__(self, deltas: Sequence[Delta], weights: Sequence[float], rank: int, seed: int) -> Merged:
        """See ``contract.Merge``; weights may be negative and are used as they are."""
        sources = weighted(deltas, weights)
        delta = add([s.delta for s in sources], [s.weight for s in sources])
        return Merged(delta, dict.fromkeys(delta, 1.0), f"exact sum of {len(sources)} sources")


@dataclass(frozen=True)
class Svd:
    """Weighted sum, then the closest update of ``rank``."""

    name: str = "svd"
    paper: str = TASK_ARITHMETIC

    def __call__(self, deltas: Sequence[Delta], weights: Sequence[float], rank: int, seed: int) -> Merged:
        """See ``contract.Merge``; weights may be negative and are used as they are."""
        sources = weighted(deltas, weights)
        delta, kept = compress(add([s.delta for s in sources], [s.weight for s in sources]), rank)
        return Merged(delta, kept, f"sum of {len(sources)} sources, at most rank {rank}")


merges.register("cat")(Cat())
merges.register("svd")(Svd())
