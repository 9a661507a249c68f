"""TIES: trim small entries, elect one sign per entry, average those that agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptmtl.errors import AdapterError
from adaptmtl.fusion.contract import Merged, alone, averaged, merge_dense, merges
from adaptmtl.fusion.delta import Delta, dense


@dataclass(frozen=True)
class Ties:
    """TIES on ``B @ A``, module by module (the paper trims over all of a model's weights at once).

    Attributes:
        density: share of each source's entries that trimming keeps, above 0, at most 1.
    """

    density: float = 0.2
    name: str = "ties"
    paper: str = "Yadav et al. 2023, TIES-Merging, arXiv:2306.01708"

    def __post_init__(self) -> None:
        check_density(self.density)

    def __call__(self, deltas: Sequence[Delta], weights: Sequence[float], rank: int, seed: int) -> Merged:
        """See ``contract.Merge``; weights are divided by their sum, and one source alone is not trimmed."""
        sources = averaged(deltas, weights)
        if len(sources) == 1:
            return alone(sources[0], rank)

        def combine(module: str, shape: tuple[int, int]) -> Tensor:
            present = [s for s in sources if module in s.delta]
            return trimmed_mean((dense(s.delta[module]) for s in present), [s.weight for s in present], self.density)

        note = f"ties of {len(sources)} sources, density {self.density:g}, at most rank {rank}"
        return merge_dense(sources, rank, note, combine)


def trimmed_mean(matrices: Iterable[Tensor], weights: Sequence[float], density: float) -> Tensor:
    """Trims each matrix, elects a sign per entry by weighted mass, and takes the weighted mean of entries of that sign.

    One pass with four accumulators, so that memory does not grow with the number of matrices.

    Args:
        matrices: at least one, all of one shape.
        weights: positive, one per matrix.
        density: share of entries that are kept.

    Returns:
        Merged matrix, same shape and dtype; where masses are equal the positive sign wins.
    """
    mass: list[Tensor] = []  # weighted sum of positive and of negative parts
    votes: list[Tensor] = []  # weights behind each sign
    dtype = torch.float64
    for matrix, weight in zip(matrices, weights, strict=True):
        dtype = matrix.dtype
        kept = trim(matrix, density).double()
        parts = (kept.clamp(min=0), (-kept).clamp(min=0))
        if not mass:
            mass, votes = ([torch.zeros_like(kept) for _ in parts] for _ in range(2))
        for i, part in enumerate(parts):
            mass[i].add_(part, alpha=weight)
            votes[i].add_((part > 0).double(), alpha=weight)
    means = [total / count.where(count > 0, 1.0) for total, count in zip(mass, votes, strict=True)]
    return means[0].where(mass[0] >= mass[1], -means[1]).to(dtype)


def trim(matrix: Tensor, density: float) -> Tensor:
    """Sets all but the largest ``density`` of entries to zero (at least one stays; equal ones stay together)."""
    size = matrix.abs().flatten()
    kept = max(1, round(density * size.numel()))
    threshold = size.kthvalue(size.numel() - kept + 1).values
    return matrix.where(matrix.abs() >= threshold, 0.0)


def check_density(density: float) -> None:
    """Raises AdapterError unless ``0 < density <= 1``."""
    if not 0 < density <= 1:
        raise AdapterError(f"density must be above 0 and at most 1, not {density}")


merges.register("ties")(Ties())
