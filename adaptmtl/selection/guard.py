"""Guard against negative transfer: which sources are expected to help, and may the answer be "none".

It compares each source with the plain backbone on the same training rows of the target, out of fold. It has no way to
see evaluation rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr, stdtr

from adaptmtl.errors import SelectionError
from adaptmtl.selection.aggregate import Ranked
from adaptmtl.statistics import holm

FOLDS = 5  # what the probe uses
VerdictName = Literal["helps", "neutral", "hurts"]


@dataclass(frozen=True)
class Verdict:
    """Whether a source is expected to help.

    Attributes:
        source: key of the source.
        gain: mean paired difference to the plain backbone, in the unit of the scores.
        standard_error: of ``gain``, widened for the shared training rows of the folds.
        posterior_gain: ``gain`` shrunk to 0 by the spread of gains over sources (normal prior, empirical Bayes).
        probability: posterior probability that the gain is above ``least_gain``.
        p_helps: one-sided p that the gain is above ``least_gain``, Holm-adjusted over sources.
        p_hurts: one-sided p that it is below 0, Holm-adjusted over sources.
        verdict: helps, neutral or hurts.
    """

    source: str
    gain: float
    standard_error: float
    posterior_gain: float
    probability: float
    p_helps: float
    p_hurts: float
    verdict: VerdictName


@dataclass(frozen=True)
class Selection:
    """The chosen sources.

    Attributes:
        sources: keys, best first; empty when none is expected to help.
        reasons: source key -> why it was kept or dropped, for all ranked sources.
        helped: whether any source is expected to help.
        summary: one sentence for a person.
        likely: where none is shown to help, keys of the best ranked neutral sources whose measured gain is above 0;
            they are worth a trial.
    """

    sources: tuple[str, ...]
    reasons: dict[str, str]
    helped: bool
    summary: str
    likely: tuple[str, ...] = ()


def guard(
    baseline: np.ndarray,
    sources: Mapping[str, np.ndarray],
    level: float = 0.05,
    least_gain: float = 0.0,
    folds: int | None = FOLDS,
) -> dict[str, Verdict]:
    """Tests each source against the plain backbone on the same rows.

    Rows of a cross-validation are not independent, since folds share training rows: the plain standard error was
    short by a factor of 1.14 (1,000 rows, 64 features) to 1.54 (300 rows, 200 features) in simulation. It is widened by
    ``sqrt(1 + folds / (folds - 1))``, 1.5 for 5 folds (Nadeau and Bengio 2003, Inference for the Generalization Error).

    Args:
        baseline: (rows,) out-of-fold score of each training row with the plain backbone, higher is better.
        sources: source key -> (rows,) the same rows' scores through that source.
        level: family-wise error of "helps" over the sources, and of "hurts".
        least_gain: gain that a source must exceed to help, in the unit of the scores.
        folds: of the cross-validation that made the scores; None where one fixed model scored all rows.

    Returns:
        A verdict per source, in the given order.

    Raises:
        SelectionError: rows do not match, are fewer than 2, or are not finite, or there is a single fold.
    """
    base = np.asarray(baseline, dtype=np.float64)
    if base.ndim != 1 or len(base) < 2 or not np.isfinite(base).all():
        raise SelectionError(f"the baseline has scores of shape {base.shape}: give finite scores of at least 2 rows")
    if folds is not None and folds < 2:
        raise SelectionError(f"folds is {folds}: give 2 or more, or None for scores of one fixed model")
    if not sources:
        return {}
    for key, values in sources.items():
        if np.shape(values) != base.shape or not np.isfinite(values).all():
            raise SelectionError(
                f"source {key!r} has scores of shape {np.shape(values)}, the baseline {base.shape}: "
                "give finite out-of-fold scores of the same rows"
            )
    differences = np.stack([np.asarray(values, np.float64) - base for values in sources.values()])  # (sources, rows)
    gain = differences.mean(axis=1)
    widened = 1.0 if folds is None else np.sqrt(1 + folds / (folds - 1))
    error = widened * differences.std(axis=1, ddof=1) / np.sqrt(len(base))
    p_helps = holm(_p_above(gain - least_gain, error, len(base) - 1))
    p_hurts = holm(_p_above(-gain, error, len(base) - 1))
    posterior, deviation = _shrunk(gain, error)
    safe = np.where(deviation > 0, deviation, 1.0)
    certain = (posterior > least_gain).astype(np.float64)
    probability = np.where(deviation > 0, ndtr((posterior - least_gain) / safe), certain)
    verdicts = {}
    for i, key in enumerate(sources):
        name: VerdictName = "helps" if p_helps[i] < level else "hurts" if p_hurts[i] < level else "neutral"
        verdicts[key] = Verdict(
            source=key,
            gain=float(gain[i]),
            standard_error=float(error[i]),
            posterior_gain=float(posterior[i]),
            probability=float(probability[i]),
            p_helps=float(p_helps[i]),
            p_hurts=float(p_hurts[i]),
            verdict=name,
        )
    return verdicts


def choose(ranked: Sequence[Ranked], verdicts: Mapping[str, Verdict], max_sources: int = 3) -> Selection:
    """Keeps at most ``max_sources`` sources, or none when none is shown to help.

    Sources that help come first, in rank order; then neutral ones whose expected gain is above 0 fill the places.

    Args:
        ranked: the joint ranking.
        verdicts: of the guard, by source key.
        max_sources: most sources to keep, at least 1.

    Raises:
        SelectionError: ``max_sources`` below 1, or a ranked source without a verdict.
    """
    if max_sources < 1:
        raise SelectionError(f"max_sources is {max_sources}: give 1 or more")
    order = sorted(ranked, key=lambda entry: entry.rank)
    missing = [entry.source for entry in order if entry.source not in verdicts]
    if missing:
        raise SelectionError(f"no verdict for source {missing[0]!r}: run the guard on all ranked sources")
    found = [verdicts[entry.source] for entry in order]
    helping = [verdict for verdict in found if verdict.verdict == "helps"]
    hopeful = [verdict for verdict in found if verdict.verdict == "neutral" and verdict.posterior_gain > 0]
    if not helping:
        reasons = {verdict.source: f"dropped: {_figures(verdict)}; nothing shown to help" for verdict in found}
        hurting = sum(verdict.verdict == "hurts" for verdict in found)
        summary = (
            f"none of {len(found)} sources is expected to help ({hurting} would hurt): train on the target alone"
            if found
            else "there is no source to choose from: train on the target alone"
        )
        likely = [verdict.source for verdict in found if verdict.verdict == "neutral" and verdict.gain > 0]
        return Selection((), reasons, False, summary, tuple(likely[:max_sources]))
    kept = [verdict.source for verdict in [*helping, *hopeful][:max_sources]]
    ranks = {entry.source: entry.rank for entry in order}
    reasons = {}
    for verdict in found:
        if verdict.source in kept:
            reasons[verdict.source] = f"kept: {_figures(verdict)}, rank {ranks[verdict.source]}"
        elif verdict.verdict == "hurts":
            reasons[verdict.source] = f"dropped: expected to hurt, {_figures(verdict)}"
        elif verdict.verdict == "neutral" and verdict.posterior_gain <= 0:
            reasons[verdict.source] = f"dropped: no gain expected, {_figures(verdict)}"
        else:
            reasons[verdict.source] = (
                f"dropped: rank {ranks[verdict.source]}, {max_sources} better sources kept, {_figures(verdict)}"
            )
    summary = f"{len(helping)} of {len(found)} sources are expected to help; kept {', '.join(kept)}"
    return Selection(tuple(kept), reasons, True, summary)


def _figures(verdict: Verdict) -> str:
    p = verdict.p_hurts if verdict.verdict == "hurts" else verdict.p_helps
    text = f"{verdict.verdict} (gain {verdict.gain:+.3f}, standard error {verdict.standard_error:.3f}, p {p:.2g})"
    return text.replace("-", "−")  # as in tables


def _p_above(gain: np.ndarray, error: np.ndarray, degrees: int) -> np.ndarray:
    """One-sided p that each gain is above 0; without any spread 0 or 1 by its sign (1 for no gain)."""
    exact = np.where(gain > 0, 0.0, 1.0)
    return np.where(error > 0, stdtr(degrees, -gain / np.where(error > 0, error, 1.0)), exact)


def _shrunk(gain: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and deviation under a normal prior around 0 whose variance is what sampling does not explain.

    The prior stands at 0 and not at the mean gain: all sources share the baseline's sampling error.
    """
    prior = max(0.0, float((gain**2 - error**2).mean()))
    if prior == 0:
        return np.zeros_like(gain), np.zeros_like(gain)
    weight = prior / (prior + error**2)
    return weight * gain, np.sqrt(weight) * error
