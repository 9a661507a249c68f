"""Metrics of labels as counts: accuracy, macro F1 and the Matthews correlation.

A label of a row is one *item*; a row of token classification has one item per word. Every function takes the items as
``(row, reference, predicted)``, three integer arrays of one length, and gives sums per row.
"""

from __future__ import annotations

import numpy as np


def accuracy_counts(row: np.ndarray, reference: np.ndarray, predicted: np.ndarray, n_rows: int) -> np.ndarray:
    """Returns (rows, 2): items that are right, items."""
    right = np.bincount(row, weights=reference == predicted, minlength=n_rows)
    return np.stack([right, np.bincount(row, minlength=n_rows)], axis=1).astype(np.float64)


def ratio(sums: np.ndarray) -> np.ndarray:
    """Returns the first sum over the second, 0 where the second is 0: (..., 2) -> (...)."""
    return divide(sums[..., 0], sums[..., 1])


def class_counts(
    row: np.ndarray, reference: np.ndarray, predicted: np.ndarray, n_rows: int, n_classes: int
) -> np.ndarray:
    """Returns (rows, 3 * classes): per class the items that are rightly, at all, and truly of it."""
    right = reference == predicted
    places = [(row[right], reference[right]), (row, predicted), (row, reference)]
    counts = [np.bincount(at * n_classes + of, minlength=n_rows * n_classes) for at, of in places]
    return np.concatenate([c.reshape(n_rows, n_classes) for c in counts], axis=1).astype(np.float64)


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """Returns the mean F1 over the classes that occur (in references or predictions): (..., 3 * classes) -> (...).

    Equal to scikit-learn's ``f1_score(average="macro")`` without ``labels``. In a bootstrap sample a class that was not
    drawn is left out, as scikit-learn would.
    """
    right, predicted, true = np.split(sums, 3, axis=-1)
    seen = predicted + true
    return divide(divide(2 * right, seen).sum(axis=-1), (seen > 0).sum(axis=-1))


def micro_f1_of_classes(sums: np.ndarray) -> np.ndarray:
    """Returns the F1 over all labels of all rows together: (..., 3 * classes) -> (...); 0 where there are none.

    Equal to scikit-learn's ``f1_score(average="micro")`` on indicator matrices.
    """
    right, predicted, true = np.split(sums, 3, axis=-1)
    return divide(2 * right.sum(axis=-1), (predicted + true).sum(axis=-1))


def matthews(sums: np.ndarray) -> np.ndarray:
    """Returns the multi-class Matthews correlation (Gorodkin 2004): (..., 3 * classes) -> (...); 0 where undefined."""
    right, predicted, true = np.split(sums, 3, axis=-1)
    n = true.sum(axis=-1)
    covariance = right.sum(axis=-1) * n - (predicted * true).sum(axis=-1)
    spread = (n**2 - (predicted**2).sum(axis=-1)) * (n**2 - (true**2).sum(axis=-1))
    return divide(covariance, np.sqrt(np.maximum(spread, 0.0)))


def divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Returns ``above / below``, 0 where ``below`` is 0."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=np.asarray(below) != 0)
