"""Exact match and token F1 of answers, as the official SQuAD 2.0 script computes them (Rajpurkar et al. 2018)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(answer: str) -> str:
    """Returns the answer in lower case without punctuation, English articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(predicted: str, true: str) -> float:
    """Returns 1.0 where the normalised answers are equal."""
    return float(normalise(predicted) == normalise(true))


def token_f1(predicted: str, true: str) -> float:
    """Returns the F1 of the normalised answers' words; where one has none, 1.0 if neither has any."""
    found, wanted = normalise(predicted).split(), normalise(true).split()
    if not found or not wanted:
        return float(found == wanted)
    common = sum((Counter(found) & Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted))


def best_over_answers(
    score: Callable[[str, str], float], predicted: Sequence[str], answers: Sequence[Sequence[str]]
) -> np.ndarray:
    """Returns (rows, 2): the best score over the row's true answers, and 1.

    Answers that are empty once normalised do not count; a row without any other has no answer, and "" is right.

    Args:
        score: compares two answers.
        predicted: an answer per row.
        answers: the true answers of each row.
    """
    best = [
        max(score(answer, true) for true in [t for t in accepted if normalise(t)] or [""])
        for answer, accepted in zip(predicted, answers, strict=True)
    ]
    return np.stack([np.array(best, dtype=np.float64), np.ones(len(best))], axis=1)
