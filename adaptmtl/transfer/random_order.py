"""Random: what every other estimator has to beat."""

from __future__ import annotations

import hashlib

from adaptmtl.transfer.contract import Score, SourceEvidence, TargetEvidence, estimators


class RandomOrder:
    """A uniform number from a hash of seed, target and source: no information, and the same on every machine."""

    name = "random"
    paper = "baseline; its expected regret and NDCG are exact in adaptmtl.transfer.quality (Padmakumar et al. 2022)"
    needs = frozenset[str]()

    def score(self, source: SourceEvidence, target: TargetEvidence) -> Score:
        """Returns a number in [0, 1) that depends on the target's seed."""
        text = f"{target.seed}\0{target.name}\0{source.key}".encode()
        return Score(int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") / 2**48)


estimators.register(RandomOrder.name)(RandomOrder())
