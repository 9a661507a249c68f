"""Popularity: a source that helped past targets will help the next one."""

from __future__ import annotations

import numpy as np

from adaptmtl.errors import SelectionError
from adaptmtl.transfer.contract import Score, SourceEvidence, TargetEvidence, estimators, required
from adaptmtl.transfer.history import Transfers


class Popularity:
    """Mean gain of a source over the past targets that it was measured on; the target's own measurements are left out.

    It reads nothing of the target, and is the baseline that published text and model scores were not compared with.
    """

    name = "popularity"
    paper = "baseline; the row mean of a transfer matrix, as in Kim et al. 2023, TaskWeb (EMNLP)"
    needs = frozenset({"history"})

    def score(self, source: SourceEvidence, target: TargetEvidence) -> Score:
        """Returns the mean gain and its standard error over targets.

        Raises:
            SelectionError: there is no history, or the source has none in it.
        """
        gains = list(past_gains(self.name, source, target).gains_of(source.name).values())
        error = float(np.std(gains, ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else None
        return Score(float(np.mean(gains)), error)


def past_gains(estimator: str, source: SourceEvidence, target: TargetEvidence) -> Transfers:
    """Returns the history without the target.

    Raises:
        SelectionError: there is none, or no transfer from this source to another target is in it.
    """
    remedy = "measure some transfers first; they are recorded as they are measured"
    past = required(target.history, estimator, "history of past transfers", target.name, remedy).without(target.name)
    if not past.gains_of(source.name):
        raise SelectionError(
            f"estimator {estimator!r} needs past transfers from {source.name!r} to other targets than "
            f"{target.name!r}, seen none among {len(past)}: measure one, or choose another estimator"
        )
    return past


estimators.register(Popularity.name)(Popularity())
