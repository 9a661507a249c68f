"""Few-step transfer: really train from each source, but only for some steps, and look at held-out training rows."""

from __future__ import annotations

import numpy as np

from adaptmtl.errors import SelectionError
from adaptmtl.transfer.contract import Score, SourceEvidence, TargetEvidence, estimators, required


class FewStep:
    """Mean gain of held-out training rows after a few steps from the source, over the same steps without it.

    It sees what training does and features alone do not show. Rows are scored by minus their loss, which tells
    starts apart with fewer rows than the metric would.
    """

    name = "few_step"
    paper = "Standley et al. 2020, Which Tasks Should Be Learned Together (ICML): early stopping as a proxy"
    needs = frozenset({"short_run"})

    def score(self, source: SourceEvidence, target: TargetEvidence) -> Score:
        """Returns the mean difference in nats (values: in variances) and its paired standard error.

        Raises:
            SelectionError: a run is missing, or the two are of other rows.
        """
        a = required(source.short_run, self.name, "short run", source.name, "train a few steps from it")
        b = required(target.short_run, self.name, "short run", target.name, "train a few steps without any source")
        if a.shape != b.shape or a.ndim != 1 or len(a) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise SelectionError(
                f"short runs of {source.name!r} {a.shape} and {target.name!r} {b.shape} cannot be compared: "
                "score both on the same 2 rows or more"
            )
        difference = a.astype(np.float64) - b
        return Score(float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference))))


estimators.register(FewStep.name)(FewStep())
