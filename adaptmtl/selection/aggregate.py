"""One ranking out of several estimators' scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from adaptmtl.errors import SelectionError
from adaptmtl.statistics import mean_ranks
from adaptmtl.transfer.contract import Score

DEFAULT_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"probe": 4.0, "hscore": 2.0, "logme": 1.0, "size": 0.5, "text_embedding": 0.5, "tupate": 0.0}
)
OTHER_WEIGHT = 1.0  # of an estimator that the defaults do not know


@dataclass(frozen=True)
class Ranked:
    """A source in the joint ranking.

    Attributes:
        source: key of the source.
        rank: 1 for the best.
        position: weighted mean of its places, 0 best, 1 worst.
        places: estimator -> place in [0, 1] among the sources which that estimator scored; absent where it did not.
    """

    source: str
    rank: int
    position: float
    places: dict[str, float]


def aggregate(
    scores: Mapping[str, Mapping[str, Score]],
    sources: Iterable[str] | None = None,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
) -> list[Ranked]:
    """Ranks sources by the weighted mean of their ranks, so that units and outliers of single estimators do not matter.

    A source without a score (or with NaN) takes the middle place for that estimator: it neither gains nor loses.

    The default weights follow a prototype's Spearman correlation with true gains on 11 sources (probe .79, H-score .53,
    weight update .29, LogME .18, text -.11): the probe outweighs any two others, size and text only break ties. That
    is one target and one seed, hence round figures. The weight update (TuPaTE) is shown but has no weight: it needs the
    target's own adapter, and a choice must not depend on whether that happens to be in the zoo yet.

    Args:
        scores: estimator -> source key -> score.
        sources: all sources to rank; by default those that any estimator scored.
        weights: estimator -> weight, 0 or more; an estimator not listed counts 1.

    Returns:
        All sources, best first; ties in name order.

    Raises:
        SelectionError: nothing to rank, a negative or non-finite weight, or no estimator with weight.
    """
    names = sorted(set(sources) if sources is not None else {key for row in scores.values() for key in row})
    used = {name: float(weights.get(name, OTHER_WEIGHT)) for name in scores}
    for name, weight in used.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise SelectionError(f"weight of estimator {name!r} is {weight}: give a finite number of 0 or more")
    if not names:
        raise SelectionError("no source has a score: add sources to the zoo or pick estimators whose evidence is there")
    if not sum(used.values()) > 0:
        raise SelectionError(f"no estimator has a weight above 0 (seen: {', '.join(used) or 'none'}): name one")
    places = {name: _places(scores[name], names) for name in scores}
    total = sum(used.values())
    mean = {key: sum(used[name] * places[name].get(key, 0.5) for name in scores) / total for key in names}
    order = sorted(names, key=lambda key: (round(mean[key], 12), key))
    return [
        Ranked(key, rank, mean[key], {name: row[key] for name, row in places.items() if key in row})
        for rank, key in enumerate(order, start=1)
    ]


def _places(row: Mapping[str, Score], names: list[str]) -> dict[str, float]:
    """Rank of each scored source, 0 for the best, 1 for the worst; ties share their mean, one alone stands at 0.5."""
    scored = [key for key in names if key in row and not math.isnan(row[key].value)]
    if len(scored) < 2:
        return dict.fromkeys(scored, 0.5)
    ranks = mean_ranks([-row[key].value for key in scored])
    return dict(zip(scored, ((ranks - 1) / (len(scored) - 1)).tolist(), strict=True))
