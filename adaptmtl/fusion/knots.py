"""KnOTS: bring sources into one shared basis, and resolve interference there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from adaptmtl.fusion.contract import Merged, alone, averaged, merges
from adaptmtl.fusion.delta import NEGLIGIBLE, Delta, LowRank, compress, shapes
from adaptmtl.fusion.ties import check_density, trimmed_mean


@dataclass(frozen=True)
class Knots:
    """TIES on the right factors V_s of ``[dW_1 ... dW_n] = U S [V_1 ... V_n]``, which all share U and S.

    Updates of separately trained LoRAs lie in different subspaces, so that their entries hardly correspond; those of
    V_s do. Computed from the LoRA factors alone: no matrix of more than (out or in, sum of ranks) is formed.

    Attributes:
        density: share of each V_s that trimming keeps, above 0, at most 1.
    """

    density: float = 0.2
    name: str = "knots"
    paper: str = "Stoica et al. 2025, Model merging with SVD to tie the KnOTS, arXiv:2410.19735"

    def __post_init__(self) -> None:
        check_density(self.density)

    def __call__(self, deltas: Sequence[Delta], weights: Sequence[float], rank: int, seed: int) -> Merged:
        """See ``contract.Merge``; weights are divided by their sum, and one source alone is not trimmed."""
        sources = averaged(deltas, weights)
        if len(sources) == 1:
            return alone(sources[0], rank)
        merged: Delta = {}
        for module in shapes([source.delta for source in sources]):
            present = [source for source in sources if module in source.delta]
            updates = [source.delta[module] for source in present]
            merged[module] = _merge_module(updates, [source.weight for source in present], self.density)
        delta, kept = compress(merged, rank)
        note = f"knots of {len(sources)} sources, density {self.density:g}, at most rank {rank}"
        return Merged(delta, kept, note)


def _merge_module(updates: Sequence[LowRank], weights: Sequence[float], density: float) -> LowRank:
    q_out, r_out = torch.linalg.qr(torch.cat([update.b for update in updates], dim=1).double())
    inputs = [torch.linalg.qr(update.a.double().T) for update in updates]  # (in, l_s), (l_s, rank_s)
    core = r_out @ torch.block_diag(*[r.T for _, r in inputs])  # (k, sum of l_s)
    u, s, vt = torch.linalg.svd(core, full_matrices=False)
    # Directions without signal are arbitrary, and would take part in trimming.
    signal = max(1, int((s > s[0] * NEGLIGIBLE).sum()))
    blocks = vt[:signal].split([q.shape[1] for q, _ in inputs], dim=1)
    right = (block @ q.T for block, (q, _) in zip(blocks, inputs, strict=True))  # (signal, in) each
    root, dtype = s[:signal].sqrt(), updates[0].a.dtype
    v = trimmed_mean(right, weights, density)
    return LowRank((root[:, None] * v).to(dtype), (q_out @ u[:, :signal] * root).to(dtype))


merges.register("knots")(Knots())
