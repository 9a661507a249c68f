"""Pivot: what a source did for past targets, weighted by how much each of them is like the target."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from adaptmtl.errors import SelectionError
from adaptmtl.transfer.contract import Score, SourceEvidence, TargetEvidence, estimators, required
from adaptmtl.transfer.popularity import past_gains

#: Cosines of mean text embeddings differ by some tenths; this much makes a pivot count e times as much.
TEMPERATURE = 0.1


class Pivot:
    """Mean over past targets p of gain(source -> p), weighted by exp(cosine(target, p) / 0.1) of their texts.

    TaskShop takes a text score F(target, p) times the measured transfer A(source -> p), averaged over pivots p. Here F
    is the cosine of mean text embeddings, and gains are standardised within each pivot over its sources, so that
    pivots on which everything helps do not decide.
    """

    name = "pivot"
    paper = "Kim et al. 2023, TaskWeb: Selecting Better Source Tasks for Multi-task NLP (EMNLP)"
    needs = frozenset({"history", "text"})

    def score(self, source: SourceEvidence, target: TargetEvidence) -> Score:
        """Returns the weighted mean of standardised gains.

        Raises:
            SelectionError: no history, no text embedding, or no pivot that both are known of.
        """
        past = past_gains(self.name, source, target)
        remedy = "embed its training texts with the plain backbone"
        own = required(target.text_embedding, self.name, "text embedding", target.name, remedy)
        similar = {name: cosine(own, vector) for name, vector in past.embeddings.items()}
        return Score(pivot_score(source.name, past.single, similar, target.name))


def pivot_score(
    source: str, gains: Mapping[tuple[str, str], float], similarity: Mapping[str, float], target: str
) -> float:
    """Returns the weighted mean of a source's standardised gains.

    Args:
        source: name of the source.
        gains: (past target, source) -> gain.
        similarity: past target -> how much it is like the target, a cosine.
        target: name of the target, for messages; it must not be among the past targets.

    Raises:
        SelectionError: no past target with a similarity on which this source and another were measured.
    """
    by_pivot: dict[str, dict[str, float]] = {}
    for (pivot, name), gain in gains.items():
        by_pivot.setdefault(pivot, {})[name] = gain
    used = [p for p, row in by_pivot.items() if source in row and len(row) > 1 and p in similarity]
    if not used:
        raise SelectionError(
            f"estimator 'pivot' needs a past target like {target!r} that {source!r} and another source were measured "
            f"on, seen {len(by_pivot)} past targets without one: record transfers with their text embeddings"
        )
    values = []
    for pivot in used:
        row = np.array(list(by_pivot[pivot].values()))
        spread = float(row.std())
        values.append((by_pivot[pivot][source] - float(row.mean())) / spread if spread > 0 else 0.0)
    closeness = np.array([similarity[pivot] for pivot in used])
    weights = np.exp((closeness - closeness.max()) / TEMPERATURE)
    return float(weights @ np.array(values) / weights.sum())


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two vectors, 0 where either is zero.

    Raises:
        SelectionError: they differ in width.
    """
    if a.shape != b.shape:
        raise SelectionError(f"embeddings have shapes {a.shape} and {b.shape}: make both with the same backbone")
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms > 0 else 0.0


estimators.register(Pivot.name)(Pivot())
