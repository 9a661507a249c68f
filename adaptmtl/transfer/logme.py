"""LogME: the evidence of the target's labels under a Bayesian linear model on features through the source."""

from __future__ import annotations

import numpy as np

from adaptmtl.transfer.contract import Score, SourceEvidence, TargetEvidence, aligned_features, estimators

GRID = np.logspace(-8, 8, 49)  # starts, in units of the mean squared singular value
STEPS = 200
TOLERANCE = 1e-10
FLOOR = 1e-9  # least share of the labels' energy that is noise: bounds the evidence of perfectly fitted labels


class LogME:
    """Maximum log evidence per vector, averaged over the classes (one against the rest); values directly.

    Choices are taken less their mean within the question. As in the paper there is no intercept and no scaling of
    single features; scaling all features by one factor changes nothing.
    """

    name = "logme"
    paper = "You et al. 2021, LogME: Practical Assessment of Pre-trained Models for Transfer Learning (ICML)"
    needs = frozenset({"features"})

    def score(self, source: SourceEvidence, target: TargetEvidence) -> Score:
        """Returns the mean log evidence per vector.

        Raises:
            SelectionError: the features are missing or not of the target's rows.
        """
        features = aligned_features(self.name, source, target)
        x, y = features.contrasts
        if features.target == "classes":
            return Score(logme(x, (features.y[:, None] == np.unique(features.y)).astype(np.float64)))
        return Score(logme(x, y[:, None]))


def logme(x: np.ndarray, targets: np.ndarray) -> float:
    """Maximises ``log p(y | x, alpha, beta)`` over both precisions, by the paper's fixed point in t = alpha / beta.

    The singular values come from the smaller Gram matrix. Evidence can have more than one maximum, and the plain fixed
    point from t = 1 can stop in the worse one or creep: it starts from the best of a grid over t. Unlike the
    reference implementation, directions without variance do not count into log det (there they add
    log(alpha) / 2 each, so that the score depends on the width).

    Args:
        x: (n, hidden) features.
        targets: (n, k) one column per regression.

    Returns:
        Maximum log evidence divided by n, mean over the columns.
    """
    n = len(x)
    energy = (targets**2).sum(axis=0)  # (k,)
    eigenvalues, projected = _spectrum(x, targets)  # (r,), (r, k) squared projections on left singular vectors
    rest = np.maximum(energy - projected.sum(axis=0), 0.0) + FLOOR * energy  # (k,)
    if len(eigenvalues) == 0:
        return float(np.mean(-0.5 * (np.log(2 * np.pi * rest / n) + 1)))

    def evidence(t: np.ndarray) -> np.ndarray:
        """Log evidence (..., k) at t (..., k), with the best beta for that t."""
        shrink = t[..., None, :] / (t[..., None, :] + eigenvalues[:, None])  # (..., r, k)
        beta = n / ((shrink * projected).sum(axis=-2) + rest)
        return 0.5 * (n * np.log(beta / (2 * np.pi)) - n + np.log(shrink).sum(axis=-2))

    scale = eigenvalues.mean()
    grid = np.broadcast_to((GRID * scale)[:, None], (len(GRID), targets.shape[1]))
    start = grid[evidence(grid).argmax(axis=0), np.arange(targets.shape[1])]
    t = start
    for _ in range(STEPS):
        shrunk = eigenvalues[:, None] + t  # (r, k)
        gamma = (eigenvalues[:, None] / shrunk).sum(axis=0)
        weight_energy = (eigenvalues[:, None] * projected / shrunk**2).sum(axis=0)
        residual = (projected * (t / shrunk) ** 2).sum(axis=0) + rest
        with np.errstate(divide="ignore"):
            alpha, beta = gamma / weight_energy, np.maximum(n - gamma, FLOOR * n) / residual
        new = np.clip(alpha / beta, GRID[0] * scale, GRID[-1] * scale)
        done = np.abs(np.log(new / t)).max() < TOLERANCE
        t = new
        if done:
            break
    return float(np.mean(np.maximum(evidence(t), evidence(start)) / n))


def _spectrum(x: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nonzero squared singular values (r,) and squared projections (r, k) of targets on the left singular vectors."""
    wide = len(x) <= x.shape[1]
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    kept = values > max(values[-1], 0.0) * 1e-10
    values, vectors = values[kept], vectors[:, kept]
    dots = vectors.T @ targets if wide else (vectors.T @ (x.T @ targets)) / np.sqrt(values)[:, None]
    return values, dots**2


estimators.register(LogME.name)(LogME())
