"""Correlations as moments: sums of x, y, x^2, y^2 and xy are all that a correlation needs."""

from __future__ import annotations

import numpy as np

from adaptmtl.statistics import mean_ranks
from adaptmtl.tasks.metrics_counts import divide

# Relative spread below which a sample is constant but for rounding: moments carry 16 digits, squares lose half of them.
_CONSTANT = 1e-12


def pearson_moments(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns (rows, 6): 1, x, y, x^2, y^2, xy, after shifting and scaling both to the order of 1 (no effect on r)."""
    x, y = _standard(predicted), _standard(reference)
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


def spearman_moments(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns (rows, 6) moments of the ranks (mean rank for ties).

    Ranks are taken once, over all rows. On all rows the score is exactly Spearman's; in a bootstrap sample it is the
    correlation of the original ranks, which the sample's own ranks would change little.
    """
    return pearson_moments(mean_ranks(predicted), mean_ranks(reference))


def correlation(sums: np.ndarray) -> np.ndarray:
    """Returns Pearson's correlation of the sums: (..., 6) -> (...); 0 where either side is constant."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread_x, spread_y = xx * n - x * x, yy * n - y * y
    varies = (spread_x > _CONSTANT * xx * n) & (spread_y > _CONSTANT * yy * n)
    r = divide(xy * n - x * y, np.sqrt(np.where(varies, spread_x, 0.0) * np.where(varies, spread_y, 0.0)))
    return np.clip(r, -1.0, 1.0)


def _standard(values: np.ndarray) -> np.ndarray:
    if len(values) == 0 or values.max() == values.min():
        return np.zeros(len(values))
    # Scaled before shifting, so that neither the largest nor the smallest floats overflow or vanish.
    scaled = values / np.abs(values).max()
    shifted = scaled - scaled.mean()
    return shifted / np.abs(shifted).max()
