"""TuPaTE: tasks whose training moves the same weights in the same direction."""

from __future__ import annotations

import math

import numpy as np

from adaptmtl.errors import SelectionError
from adaptmtl.transfer.contract import Delta, Score, SourceEvidence, TargetEvidence, estimators, required


class TuPaTE:
    """Cosine of the adapters' weight updates B A over all modules.

    The paper compares tuned parameters as they stand; two LoRAs with different A and B can be the same update, so the
    updates themselves are compared here.
    """

    name = "tupate"
    paper = "Zhou et al. 2022, Efficiently Tuned Parameters are Task Embeddings (EMNLP)"
    needs = frozenset({"delta"})

    def score(self, source: SourceEvidence, target: TargetEvidence) -> Score:
        """Returns the cosine, in [-1, 1]; 0 where either update is zero.

        Raises:
            SelectionError: an update is missing, or the two adapters share no module or differ in a module's shape.
        """
        a = required(source.delta, self.name, "weight update", source.name, "read it from its adapter folder")
        b = required(target.delta, self.name, "weight update", target.name, "train an adapter on the target first")
        if not set(a) & set(b):
            raise SelectionError(
                f"adapters of {source.name!r} and {target.name!r} share no module: use one backbone and recipe"
            )
        norms = math.sqrt(inner(a, a) * inner(b, b))
        return Score(inner(a, b) / norms if norms > 0 else 0.0)


def inner(first: Delta, second: Delta) -> float:
    """Frobenius inner product of two low-rank updates, summed over the modules that both have.

    ``<B1 A1, B2 A2> = tr(A1^T B1^T B2 A2) = sum((B1^T B2) * (A1 A2^T))``: r x r matrices only, in float64.

    Args:
        first: module -> (A (r1, in), B (out, r1)).
        second: module -> (A (r2, in), B (out, r2)).

    Raises:
        SelectionError: a module's input or output width differs, or a number is not finite.
    """
    total = 0.0
    for module in sorted(set(first) & set(second)):
        (a1, b1), (a2, b2) = first[module], second[module]
        if a1.shape[1] != a2.shape[1] or b1.shape[0] != b2.shape[0]:
            raise SelectionError(
                f"module {module!r} is {b1.shape[0]} x {a1.shape[1]} in one adapter and {b2.shape[0]} x {a2.shape[1]} "
                "in the other: compare adapters of one backbone"
            )
        left = b1.T.astype(np.float64) @ b2.astype(np.float64)  # (r1, r2)
        right = a1.astype(np.float64) @ a2.T.astype(np.float64)  # (r1, r2)
        total += float((left * right).sum())
    if not math.isfinite(total):
        raise SelectionError("a weight update holds NaN or infinity: train that adapter again")
    return total


estimators.register(TuPaTE.name)(TuPaTE())
