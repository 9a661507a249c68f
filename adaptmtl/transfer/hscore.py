"""H-score with a shrunk covariance: how far apart the classes lie, in units of the features' own spread."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from adaptmtl.transfer.contract import Score, SourceEvidence, TargetEvidence, aligned_features, estimators


class HScore:
    """``tr(cov(f)^-1 cov(E[f | y]))`` with the Ledoit-Wolf covariance, as amended by Ibrahim et al.

    Values, which the paper does not treat, take E[f | y] linear in y: the score is then a shrunk R2. Choices are taken
    less their mean within the question.
    """

    name = "hscore"
    paper = "Bao et al. 2019 (ICIP); Ibrahim et al. 2022, Newer is not always better (ECML PKDD)"
    needs = frozenset({"features"})

    def score(self, source: SourceEvidence, target: TargetEvidence) -> Score:
        """Returns the H-score, 0 or more.

        Raises:
            SelectionError: the features are missing or not of the target's rows.
        """
        features = aligned_features(self.name, source, target)
        x, y = features.contrasts
        if features.target == "classes":
            return Score(hscore(x, (features.y[:, None] == np.unique(features.y)).astype(np.float64)))
        return Score(hscore(x, (y - y.mean())[:, None]))


def hscore(x: np.ndarray, targets: np.ndarray) -> float:
    """Shrinkage H-score of features for targets with orthogonal columns (class indicators, or one centred column).

    Args:
        x: (n, hidden) features.
        targets: (n, k); E[f | y] is the projection of the centred features on these columns.

    Returns:
        ``(1 - shrinkage) tr(S^-1 cov(E[f | y]))``, S the Ledoit-Wolf covariance; 0 where features have no variance.
    """
    n = len(x)
    x = x - x.mean(axis=0)
    scale = np.sqrt((x**2).mean())
    if scale <= 1e-12 * (1 + np.abs(x).max()):
        return 0.0
    x = x / scale
    covariance, shrinkage = ledoit_wolf(x)
    dots = x.T @ targets / np.sqrt((targets**2).sum(axis=0) * n)  # (hidden, k): dots @ dots.T = cov(E[f | y])
    return float((1 - shrinkage) * (dots * cho_solve(cho_factor(covariance), dots)).sum())


def ledoit_wolf(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Covariance shrunk to a multiple of the identity (Ledoit and Wolf 2004).

    Args:
        x: (n, hidden) centred features, not all zero.

    Returns:
        The covariance (hidden, hidden), positive definite, and the shrinkage in [1e-6, 1]; the lower bound keeps the
        matrix invertible where features are collinear.
    """
    n, hidden = x.shape
    sample = x.T @ x / n
    mean = np.trace(sample) / hidden
    squared = (sample**2).sum()
    distance = squared - hidden * mean**2  # squared Frobenius distance to the multiple of the identity
    error = (((x**2).sum(axis=1) ** 2).sum() / n - squared) / n
    shrinkage = 1.0 if distance <= 0 else float(np.clip(error / distance, 1e-6, 1.0))
    return (1 - shrinkage) * sample + shrinkage * mean * np.eye(hidden), shrinkage


estimators.register(HScore.name)(HScore())
