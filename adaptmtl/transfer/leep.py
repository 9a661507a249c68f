"""LEEP and NCE: how much the labels that a source's own head gives to the target's rows tell of the target's labels."""

from __future__ import annotations

import numpy as np

from adaptmtl.errors import SelectionError
from adaptmtl.transfer.contract import (
    Features,
    Score,
    SourceEvidence,
    TargetEvidence,
    aligned_features,
    estimators,
    required,
)

#: Regression targets are cut into at most so many classes of about equal size.
BINS = 5


class Leep:
    """Mean log likelihood of the labels under P(y | z), averaged over the source's label probabilities P(z | x).

    Values are cut into fifths; a choice is right or wrong.
    """

    name = "leep"
    paper = "Nguyen et al. 2020, LEEP: A New Measure to Evaluate Transferability of Learned Representations (ICML)"
    needs = frozenset({"features", "classes"})

    def score(self, source: SourceEvidence, target: TargetEvidence) -> Score:
        """Returns the score, at most 0, and its standard error over rows.

        Raises:
            SelectionError: the source's head gives no classes, or they are not of the target's rows.
        """
        features, classes = _evidence(self.name, source, target)
        return _over_rows(leep(classes, labels_of(features)), features)


class Nce:
    """Negative conditional entropy of the target's labels given the most probable source label."""

    name = "nce"
    paper = "Tran et al. 2019, Transferability and Hardness of Supervised Classification Tasks (ICCV)"
    needs = frozenset({"features", "classes"})

    def score(self, source: SourceEvidence, target: TargetEvidence) -> Score:
        """Returns the score, at most 0, and its standard error over rows.

        Raises:
            SelectionError: as for LEEP.
        """
        features, classes = _evidence(self.name, source, target)
        hard = np.eye(classes.shape[1])[classes.argmax(axis=1)]
        return _over_rows(leep(hard, labels_of(features)), features)


def leep(classes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Log of the expected empirical prediction, per vector.

    Args:
        classes: (n, source labels) probabilities; one-hot for NCE.
        labels: (n,) target labels 0 .. k - 1, each of them seen.

    Returns:
        (n,) log sum_z P(y_i | z) P(z | x_i), with P(y | z) the empirical one under these probabilities.
    """
    joint = np.eye(int(labels.max()) + 1)[labels].T @ classes  # (k, z)
    given = joint / np.maximum(joint.sum(axis=0), 1e-300)
    return np.log(np.maximum((given[labels] * classes).sum(axis=1), 1e-300))


def labels_of(features: Features) -> np.ndarray:
    """Returns (n,) labels 0 .. k - 1: classes as they are, values by fifths, choices right or wrong."""
    y = features.y
    if features.target == "values":
        inner = np.unique(np.quantile(y, np.linspace(0, 1, BINS + 1)[1:-1]))
        y = np.digitize(y, inner)
    return np.unique(y, return_inverse=True)[1]


def _evidence(name: str, source: SourceEvidence, target: TargetEvidence) -> tuple[Features, np.ndarray]:
    remedy = "only sources whose head chooses one of several labels, for vectors of the target's kind, have them"
    classes = required(source.classes, name, "label probabilities", source.name, remedy)
    features = aligned_features(name, source, target)
    fits = classes.ndim == 2 and len(classes) == len(features.y) and classes.shape[1] > 0
    if not fits or not np.allclose(classes.sum(axis=1), 1, atol=1e-3) or (classes < 0).any():
        raise SelectionError(
            f"label probabilities of source {source.name!r} have shape {classes.shape}, for {len(features.y)} vectors "
            f"of {target.name!r}: give one distribution per vector"
        )
    return features, classes.astype(np.float64)


def _over_rows(values: np.ndarray, features: Features) -> Score:
    """Mean over vectors; the error treats rows, not their vectors, as independent."""
    size = np.bincount(features.row_of)
    sums = np.bincount(features.row_of, weights=values - values.mean())
    error = np.sqrt((sums**2).sum() / max(len(size) - 1, 1) / len(size)) / size.mean()
    return Score(float(values.mean()), float(error))


estimators.register(Leep.name)(Leep())
estimators.register(Nce.name)(Nce())
