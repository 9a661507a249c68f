"""First-order set value: how far the target's loss falls along the sources' updates, before any training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adaptmtl.errors import SelectionError
from adaptmtl.transfer.contract import Score, SourceEvidence, TargetEvidence, estimators, required


class FirstOrder:
    """Fall of the target's loss at the best step along a source's update, by slope and curvature at the start.

    Sources' updates are far too long for a straight line (norms of 3 to 5), and the plain first-order value ranks
    sources the wrong way round. So the step is free: with slopes d_i = <gradient of row i, update>, the quadratic
    model t mean(d) + t^2 / 2 mean(d^2), whose curvature is the empirical Fisher information, falls by
    mean(d)^2 / (2 mean(d^2)) at its best t. The length of the update drops out. Updates are of low rank, so the
    products are exact and the random projection of the paper is not needed.
    """

    name = "first_order"
    paper = "Li et al. 2024, Scalable Fine-tuning from Multiple Data Sources: A First-Order Approximation (EMNLP)"
    needs = frozenset({"slopes"})

    def score(self, source: SourceEvidence, target: TargetEvidence) -> Score:
        """Returns the expected fall in nats per row, below 0 where the loss rises, and its standard error over rows.

        Raises:
            SelectionError: slopes are missing, too few, or not finite.
        """
        remedy = "run the target's rows through the plain backbone"
        slopes = required(source.slopes, self.name, "slopes along the update", source.name, remedy)
        if slopes.ndim != 1 or len(slopes) < 2 or not np.isfinite(slopes).all():
            raise SelectionError(
                f"slopes of source {source.name!r} have shape {slopes.shape}: give finite ones of 2 rows or more"
            )
        return Score(*set_value(slopes[:, None], [0]))


def set_value(slopes: np.ndarray, chosen: Sequence[int]) -> tuple[float, float]:
    """Value of the mean of some sources' updates as the start of the target's training.

    Args:
        slopes: (rows, sources) change of each target row's loss per unit step along each source's update.
        chosen: positions of the sources in the set.

    Returns:
        The fall of the loss at the best step, negative where the mean update leads uphill, and its standard error
        over rows (delta method).
    """
    d = slopes[:, list(chosen)].astype(np.float64).mean(axis=1)
    size = np.abs(d).max()
    if size == 0:
        return 0.0, 0.0
    d = d / size
    mean, square = d.mean(), (d**2).mean()
    value = -np.sign(mean) * mean**2 / (2 * square)
    influence = -np.abs(mean) / square * (d - mean) + np.sign(mean) * mean**2 / (2 * square**2) * (d**2 - square)
    return float(value), float(influence.std(ddof=1) / np.sqrt(len(d)))


estimators.register(FirstOrder.name)(FirstOrder())
