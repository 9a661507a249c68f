"""TaskEmb: tasks that ask for the same adapter weights to move."""

from __future__ import annotations

import numpy as np

from adaptmtl.errors import SelectionError
from adaptmtl.transfer.contract import Score, SourceEvidence, TargetEvidence, estimators, required


class TaskEmb:
    """Cosine of Fisher information, module by module, then averaged.

    The paper takes the diagonal of the empirical Fisher matrix of a model tuned on the task. Here it is taken at one
    point for all tasks, the plain backbone with a fitted head (as Achille et al. do), on the B of a fresh adapter whose
    A is the same for all: so it needs no training on the target. Its mean over the rank stands per output feature.
    """

    name = "taskemb"
    paper = "Vu et al. 2020, Exploring and Predicting Transferability (EMNLP); Achille et al. 2019, Task2Vec (ICCV)"
    needs = frozenset({"fisher"})

    def score(self, source: SourceEvidence, target: TargetEvidence) -> Score:
        """Returns the mean cosine, in [0, 1].

        Raises:
            SelectionError: a Fisher embedding is missing, or the two share no module or differ in a module's width.
        """
        remedy = "have its training rows at hand, so that it can be computed"
        a = required(source.fisher, self.name, "Fisher information", source.name, remedy)
        b = required(target.fisher, self.name, "Fisher information", target.name, remedy)
        shared = sorted(set(a) & set(b))
        if not shared or any(a[module].shape != b[module].shape for module in shared):
            raise SelectionError(
                f"Fisher information of {source.name!r} and {target.name!r} is of other modules "
                f"({len(shared)} shared): use one backbone and recipe"
            )
        return Score(float(np.mean([_cosine(a[module], b[module]) for module in shared])))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    a, b = a / (np.abs(a).max() or 1.0), b / (np.abs(b).max() or 1.0)  # squares of tiny numbers would vanish
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms > 0 else 0.0


estimators.register(TaskEmb.name)(TaskEmb())
