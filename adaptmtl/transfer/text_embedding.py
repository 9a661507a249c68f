"""Text embedding: sources whose texts look like the target's."""

from __future__ import annotations

import numpy as np

from adaptmtl.errors import SelectionError
from adaptmtl.transfer.contract import Score, SourceEvidence, TargetEvidence, estimators, required


class TextEmbedding:
    """Cosine of the mean embeddings of the two tasks' training texts (TextEmb)."""

    name = "text_embedding"
    paper = "Vu et al. 2020, Exploring and Predicting Transferability across NLP Tasks; Poth et al. 2021"
    needs = frozenset({"text"})

    def score(self, source: SourceEvidence, target: TargetEvidence) -> Score:
        """Returns the cosine, in [-1, 1]; 0 where either mean is the zero vector.

        Raises:
            SelectionError: an embedding is missing, not finite, or the two differ in width.
        """
        remedy = "embed its training texts with the plain backbone"
        a = required(source.text_embedding, self.name, "text embedding", source.name, remedy).astype(np.float64)
        b = required(target.text_embedding, self.name, "text embedding", target.name, remedy).astype(np.float64)
        if a.shape != b.shape or a.ndim != 1 or not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise SelectionError(
                f"text embeddings of {source.name!r} {a.shape} and {target.name!r} {b.shape} cannot be compared: "
                "make both with the same backbone"
            )
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        return Score(float(a @ b) / norms if norms > 0 else 0.0)


estimators.register(TextEmbedding.name)(TextEmbedding())
