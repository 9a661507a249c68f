"""Size: a source with more training rows transfers better, other things being equal."""

from __future__ import annotations

import math

from adaptmtl.errors import SelectionError
from adaptmtl.transfer.contract import Score, SourceEvidence, TargetEvidence, estimators


class Size:
    """Natural logarithm of the number of training rows: a prior that reads nothing of the target."""

    name = "size"
    paper = "Poth et al. 2021, What to Pre-Train on? Efficient Intermediate Task Selection (EMNLP)"
    needs = frozenset({"size"})

    def score(self, source: SourceEvidence, target: TargetEvidence) -> Score:
        """Returns log(train rows) of the source.

        Raises:
            SelectionError: the source states no training rows.
        """
        if source.train_rows < 1:
            raise SelectionError(
                f"estimator 'size' needs the training rows of source {source.name!r}, seen {source.train_rows}: "
                "train its adapter again so that its manifest states them"
            )
        return Score(math.log(source.train_rows))


estimators.register(Size.name)(Size())
