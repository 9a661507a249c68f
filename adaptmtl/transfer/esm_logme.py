"""ESM-LogME: LogME on features that a small map of the plain backbone's vectors stands in for the source's adapter."""

from __future__ import annotations

import numpy as np

from adaptmtl.errors import SelectionError
from adaptmtl.transfer.contract import Features, Score, SourceEvidence, SpaceMap, TargetEvidence, estimators, required
from adaptmtl.transfer.logme import LogME

RANK = 32
#: Ridge penalty of the map's fit, as a share of the vectors' mean squared singular value.
PENALTY = 0.1


class EsmLogME:
    """LogME of the target's vectors through the plain backbone, moved by the source's embedding space map.

    One forward pass of the target serves all sources, and no source's weights are read. The paper trains a linear map
    by gradient descent on up to 10,000 rows of the source; here its difference from the identity is the ridge solution
    on some hundred rows, cut to rank 32, since so few rows say nothing of most directions.
    """

    name = "esm_logme"
    paper = "Schulte et al. 2024, Less is More: Parameter-Efficient Selection of Intermediate Tasks (EMNLP)"
    needs = frozenset({"space_map"})

    def score(self, source: SourceEvidence, target: TargetEvidence) -> Score:
        """Returns the mean log evidence per vector.

        Raises:
            SelectionError: the map is missing, or of another width.
        """
        remedy = "have its training rows at hand, so that it can be fitted"
        space = required(source.space_map, self.name, "embedding space map", source.name, remedy)
        base = target.baseline
        if space.down.shape[0] != base.x.shape[1]:
            raise SelectionError(
                f"embedding space map of {source.name!r} is for vectors of width {space.down.shape[0]}, the target's "
                f"have {base.x.shape[1]}: fit it on the same backbone"
            )
        moved = Features(space(base.x), base.y, base.groups, base.target)
        return LogME().score(SourceEvidence(source.name, source.key, source.train_rows, moved), target)


def fit_space_map(plain: np.ndarray, adapted: np.ndarray, rank: int = RANK, penalty: float = PENALTY) -> SpaceMap:
    """Fits x -> adapted(x) on a source's own rows: reduced-rank ridge regression of what the adapter adds.

    Args:
        plain: (n, hidden) vectors of the source's rows through the plain backbone.
        adapted: (n, hidden) the same rows through the source's adapter.
        rank: greatest rank of the linear part.
        penalty: 0 or more; times the mean squared singular value of the centred vectors.

    Returns:
        The map; without variance in the vectors only the mean shift.
    """
    x, d = plain.astype(np.float64), adapted.astype(np.float64) - plain
    center, mean = x.mean(axis=0), d.mean(axis=0)
    x, d = x - center, d - mean
    values, vectors = np.linalg.eigh(x @ x.T)
    kept = values > max(values[-1], 0.0) * 1e-10
    if not kept.any():
        nothing = np.zeros((x.shape[1], 0))
        return _narrow(SpaceMap(nothing, nothing.T, mean))
    values, vectors = values[kept], vectors[:, kept]
    ridge = penalty * values.mean()
    linear = (x.T @ (vectors / (values + ridge))) @ (vectors.T @ d)  # (hidden, hidden)
    directions = np.linalg.svd(x @ linear, full_matrices=False)[2][: min(rank, len(values))]
    down = linear @ directions.T
    return _narrow(SpaceMap(down, directions, mean - (center @ down) @ directions))


def _narrow(space: SpaceMap) -> SpaceMap:
    return SpaceMap(*(part.astype(np.float32) for part in space))


estimators.register(EsmLogME.name)(EsmLogME())
