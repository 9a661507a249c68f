"""Nearest neighbours: whether rows that lie close together through a source have equal labels."""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from adaptmtl.transfer.contract import Features, Score, SourceEvidence, TargetEvidence, aligned_features, estimators

NEIGHBOURS = 10
CHUNK = 1024


class NearestNeighbours:
    """Share of the labels' uncertainty that the 10 nearest other rows explain, by cosine of centred vectors.

    Unlike a linear probe it needs no fit and sees classes that no plane parts. The prediction is the neighbours' mean
    label with one count of the overall frequencies; losses and unit are the probe's. Choices are compared by their
    difference from the question's mean, and the mark is spread over a question's choices by the neighbours' share of
    right ones.
    """

    name = "knn"
    paper = "Renggli et al. 2022, Which Model to Transfer? (CVPR); Cover and Hart 1967"
    needs = frozenset({"features"})

    def score(self, source: SourceEvidence, target: TargetEvidence) -> Score:
        """Returns the mean over rows and its standard error.

        Raises:
            SelectionError: the features are missing or not of the target's rows.
        """
        values = knn_rows(aligned_features(self.name, source, target))
        return Score(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def knn_rows(features: Features, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Leave-one-row-out share of uncertainty explained, per row.

    Vectors of the same row are never neighbours of each other. Vectors as near as the last neighbour all count, so
    that the order of rows does not matter.

    Args:
        features: the target's rows through a source.
        neighbours: how many.

    Returns:
        (rows,) at most 1; 0 is what knowing the label frequencies gives.
    """
    x, _ = features.contrasts
    x = x if features.target == "choices" else x - x.mean(axis=0)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    x = (x / np.where(norms > 0, norms, 1.0)).astype(np.float32)
    if features.target == "values":
        y = features.y.astype(np.float64)
        marks = ((y - y.mean()) / (y.std() or 1.0))[:, None]
    else:
        marks = (features.y[:, None] == np.unique(features.y)).astype(np.float64)
    predicted = _neighbour_means(x, marks, features.row_of, neighbours)
    if features.target == "values":
        loss, chance = ((predicted - marks) ** 2)[:, 0], 1.0
    elif features.target == "classes":
        frequency = marks.mean(axis=0)
        loss = -np.log(np.maximum((predicted * marks).sum(axis=1), 1e-12))
        chance = float(-(frequency * np.log(frequency)).sum())
    else:
        return _choice_rows(predicted[:, 1], features)
    size = np.bincount(features.row_of)
    return 1 - np.bincount(features.row_of, weights=loss) / size / chance


def _choice_rows(right: np.ndarray, features: Features) -> np.ndarray:
    """Log loss of the right choice where choices share the question by their odds."""
    odds = right / (1 - right)
    total = np.bincount(features.row_of, weights=odds)
    mine = np.bincount(features.row_of, weights=odds * (features.y == 1))
    size = np.bincount(features.row_of)
    chance = float(np.log(size).mean()) or np.inf
    return 1 + np.log(np.maximum(mine / total, 1e-12)) / chance


def _neighbour_means(x: np.ndarray, marks: np.ndarray, row: np.ndarray, neighbours: int) -> np.ndarray:
    """Mean marks of the nearest vectors of other rows, with one count of the overall mean; (n, marks)."""
    n = len(x)
    prior = marks.mean(axis=0)
    out = np.empty_like(marks)
    with threadpool_limits(1, user_api="blas"):
        for start in range(0, n, CHUNK):
            part = slice(start, min(start + CHUNK, n))
            near = np.round(x[part] @ x.T, 5)  # equal vectors stay equal whatever the order of the sum
            near[row[part][:, None] == row[None, :]] = -np.inf
            k = min(neighbours, n - 1)
            edge = np.partition(near, n - k, axis=1)[:, n - k]
            chosen = (near >= edge[:, None]) & np.isfinite(near)
            out[part] = (chosen @ marks + prior) / (chosen.sum(axis=1, keepdims=True) + 1)
    return out


estimators.register(NearestNeighbours.name)(NearestNeighbours())
