"""The weighted mean of updates, brought to a rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adaptmtl.fusion.contract import Merged, averaged, merges
from adaptmtl.fusion.delta import Delta, add, compress


@dataclass(frozen=True)
class Linear:
    """Weighted mean of ``B @ A`` (not of A and B apart, which is another matrix), then the closest one of ``rank``."""

    name: str = "linear"
    paper: str = "Wortsman et al. 2022, Model soups, arXiv:2203.05482"

    def __call__(self, deltas: Sequence[Delta], weights: Sequence[float], rank: int, seed: int) -> Merged:
        """See ``contract.Merge``; weights are divided by their sum."""
        sources = averaged(deltas, weights)
        delta, kept = compress(add([s.delta for s in sources], [s.weight for s in sources]), rank)
        return Merged(delta, kept, f"mean of {len(sources)} sources, at most rank {rank}")


merges.register("linear")(Linear())
