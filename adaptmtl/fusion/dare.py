"""DARE: drop entries at random, rescale the rest, then average."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptmtl.fusion.contract import Merged, alone, averaged, merge_dense, merges
from adaptmtl.fusion.delta import Delta, dense
from adaptmtl.fusion.ties import check_density


@dataclass(frozen=True)
class Dare:
    """Drops entries of ``B @ A`` at random and divides the rest by the share kept: unbiased, before rank reduction.

    A source's mask depends on the seed and on the source's own content, not on its place among the sources: adding a
    source leaves the others' masks alone.

    Attributes:
        density: share of entries kept, above 0, at most 1. The paper goes down to 0.1 on large models; small dense
            LoRA updates bear less, and whatever is dropped is noise that a low rank must carry.
    """

    density: float = 0.5
    name: str = "dare"
    paper: str = "Yu et al. 2024, Language models are Super Mario, arXiv:2311.03099"

    def __post_init__(self) -> None:
        check_density(self.density)

    def __call__(self, deltas: Sequence[Delta], weights: Sequence[float], rank: int, seed: int) -> Merged:
        """See ``contract.Merge``; weights are divided by their sum, and one source alone is not dropped from."""
        sources = averaged(deltas, weights)
        if len(sources) == 1:
            return alone(sources[0], rank)

        def combine(module: str, shape: tuple[int, int]) -> Tensor:
            like = next(s.delta[module].a for s in sources if module in s.delta)
            total = torch.zeros(shape, dtype=torch.float64, device=like.device)
            for source in sources:
                if module in source.delta:
                    matrix = dense(source.delta[module]).double()
                    mask = keep_mask(shape, self.density, f"{seed}:{source.digest}:{module}")
                    total.add_(matrix * mask.to(matrix.device), alpha=source.weight / self.density)
            return total.to(like.dtype)

        note = f"dare of {len(sources)} sources, density {self.density:g}, seed {seed}, at most rank {rank}"
        return merge_dense(sources, rank, note, combine)


def keep_mask(shape: tuple[int, int], density: float, seed: str) -> Tensor:
    """Returns a boolean mask, True with probability ``density``, drawn on the CPU wherever the weights are."""
    generator = torch.Generator().manual_seed(int(hashlib.sha256(seed.encode()).hexdigest()[:15], 16))
    return torch.rand(shape, generator=generator) < density


merges.register("dare")(Dare())
