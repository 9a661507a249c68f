"""Outputs of a model to predictions: one label, number, tag sequence or answer per row."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np

from adaptmtl.errors import AdapterError
from adaptmtl.tasks.encoded import EncodedRows
from adaptmtl.tasks.rows import Split
from adaptmtl.tasks.spec import Kind, TaskSpec

MAX_ANSWER_TOKENS = 30
_TELLING_ANSWERS = 100


@dataclass(frozen=True)
class Predictions:
    """What was predicted for each row of a split, in order.

    Attributes:
        labels: per row an int (classification, multiple choice), a list of ids (several labels), a float (regression),
            a list of tag ids as long as the row's tokens (token classification) or the answer's text, "" for none
            (question answering).
        probabilities: per row an array over labels or choices (classification, several labels, multiple choice), else
            None. Those of several labels do not sum to 1: each is the probability that the row has that label.
        spans: question answering: per row the answer's characters (start, end) in the context, (0, 0) for none.
        scores: question answering: per row the sum of the start and end logits of what was predicted.
    """

    labels: list[Any]
    probabilities: list[np.ndarray] | None = None
    spans: list[tuple[int, int]] | None = None
    scores: list[float] | None = None

    def __len__(self) -> int:
        return len(self.labels)


def decode(
    encoded: EncodedRows,
    outputs: np.ndarray,
    split: Split,
    spec: TaskSpec | None = None,
    *,
    null_answers: bool = False,
    null_threshold: float = 0.0,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
) -> Predictions:
    """Turns outputs into one prediction per row.

    Args:
        encoded: the encoded rows that the outputs belong to.
        outputs: sequence classification and several labels (features, labels) logits; regression and multiple choice
            (features, 1); token classification (total_tokens, labels) logits; question answering (total_tokens, 2)
            start and end logits.
        split: the rows that were encoded.
        spec: token classification: words that were cut away get the tag named "O" of its ``label_names``, tag 0
            without it.
        null_answers: question answering: whether "no answer" may be predicted, which is right where the training rows
            have unanswerable questions.
        null_threshold: question answering: how much more "no answer" must score than the best answer to be predicted.
        max_answer_tokens: question answering: tokens that an answer has at most (see :func:`answer_limit`).

    Returns:
        The predictions. An answer is the best of all spans of the context that fit in a window, not only of those among
        some best starts and ends; of equal ones the first. "No answer" scores as the first token of a window, and a
        row's lowest such score counts (Rajpurkar et al. 2018 as implemented for BERT).

    Raises:
        ValueError: the arrays do not belong together.
        AdapterError: the outputs hold values that are not numbers.
    """
    per_token = encoded.kind in (Kind.TOKEN_CLASSIFICATION, Kind.QUESTION_ANSWERING)
    expected = encoded.n_tokens if per_token else encoded.n_features
    if outputs.ndim != 2 or len(outputs) != expected or len(split) != encoded.n_rows:
        raise ValueError(
            f"outputs of shape {outputs.shape} and {len(split)} rows do not fit encoded rows with "
            f"{expected} outputs and {encoded.n_rows} rows"
        )
    if np.isnan(outputs).any():
        raise AdapterError(
            f"{int(np.isnan(outputs).sum())} outputs are not numbers: train again with a lower learning rate"
        )
    if encoded.kind is Kind.QUESTION_ANSWERING:
        least = null_threshold if null_answers else np.inf
        return _answers(encoded, outputs.astype(np.float64), split, least, max_answer_tokens)
    if encoded.kind is Kind.TOKEN_CLASSIFICATION:
        return Predictions(_tags(encoded, outputs, split, spec))
    if encoded.kind is Kind.MULTIPLE_CHOICE:
        return _choices(encoded, outputs[:, 0].astype(np.float64))
    if encoded.kind is Kind.REGRESSION:
        return Predictions(outputs[:, 0].astype(np.float64).tolist())
    if encoded.kind is Kind.MULTI_LABEL_CLASSIFICATION:
        marks = outputs > 0  # as probable as not, or more
        return Predictions([np.flatnonzero(row).tolist() for row in marks], list(_sigmoid(outputs.astype(np.float64))))
    logits = outputs.astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return Predictions(logits.argmax(axis=1).tolist(), list(odds / odds.sum(axis=1, keepdims=True)))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * logits))  # does not overflow


def _choices(encoded: EncodedRows, logits: np.ndarray) -> Predictions:
    labels, probabilities = [], []
    for begin, end in zip(encoded.unit_offsets[:-1], encoded.unit_offsets[1:], strict=True):
        odds = np.exp(logits[begin:end] - logits[begin:end].max())
        labels.append(int(logits[begin:end].argmax()))
        probabilities.append(odds / odds.sum())
    return Predictions(labels, probabilities)


def _tags(encoded: EncodedRows, outputs: np.ndarray, split: Split, spec: TaskSpec | None) -> list[list[int]]:
    assert encoded.words is not None
    names = (spec.label_names if spec else None) or ()
    ends = np.cumsum([len(row["tokens"]) for row in split.rows], dtype=np.int64)
    begins = np.concatenate([np.zeros(1, np.int64), ends])
    tags = np.full(begins[-1], names.index("O") if "O" in names else 0, dtype=np.int64)
    at = np.flatnonzero(encoded.words >= 0)
    rows = np.repeat(encoded.feature_row, encoded.lengths)[at]
    tags[begins[rows] + encoded.words[at]] = outputs[at].argmax(axis=1)
    return [tags[begin:end].tolist() for begin, end in zip(begins[:-1], ends, strict=True)]


def _answers(encoded: EncodedRows, logits: np.ndarray, split: Split, least: float, max_tokens: int) -> Predictions:
    assert encoded.spans is not None
    score, last = _best_from_each_token(encoded, logits, max_tokens)
    bounds = np.searchsorted(encoded.feature_row, np.arange(encoded.n_rows + 1))  # windows of a row lie together
    tokens = encoded.offsets[bounds]
    no_answer = logits[encoded.offsets[:-1]].sum(axis=1)  # (features,)
    texts: list[str] = []
    spans: list[tuple[int, int]] = []
    scores: list[float] = []
    for i, row in enumerate(split.rows):
        first = int(tokens[i] + score[tokens[i] : tokens[i + 1]].argmax())
        nothing = float(no_answer[bounds[i] : bounds[i + 1]].min())
        if score[first] == -np.inf or nothing > score[first] + least:
            begin = end = 0
            scores.append(nothing)
        else:
            begin, end = clipped(row["context"], int(encoded.spans[first, 0]), int(encoded.spans[last[first], 1]))
            scores.append(float(score[first]))
        texts.append(row["context"][begin:end])
        spans.append((begin, end))
    return Predictions(texts, spans=spans, scores=scores)


def _best_from_each_token(encoded: EncodedRows, logits: np.ndarray, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Of all answers that start at a token: the best score, -inf outside the context, and its last token."""
    assert encoded.spans is not None
    feature = np.repeat(np.arange(encoded.n_features), encoded.lengths)
    at = np.flatnonzero(encoded.spans[:, 0] >= 0)  # context tokens; those of one window lie together
    begins, ends = logits[at, 0], logits[at, 1]
    places = np.arange(len(at))
    window_ends = np.searchsorted(feature[at], feature[at], side="right")
    reach = np.minimum(max_tokens, window_ends - places)  # tokens that an answer from here may have
    level = np.frexp(reach)[1] - 1  # floor(log2(reach))
    # peak[i] is the best end among 2**k tokens from i on; two such stretches cover a reach of any length.
    peak, chosen = places, places.copy()
    for k in range(int(level.max(initial=-1)) + 1):
        here = np.flatnonzero(level == k)
        chosen[here] = _better(ends, peak[here], peak[here + reach[here] - 2**k])
        peak = np.concatenate([_better(ends, peak[: -(2**k)], peak[2**k :]), peak[len(peak) - 2**k :]])
    best, last = np.full(len(logits), -np.inf), np.arange(len(logits))
    best[at], last[at] = begins + ends[chosen], at[chosen]
    return best, last


def _better(values: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of two places each the one with the greater value, the left one where they are equal."""
    return np.where(values[right] > values[left], right, left)


def longest_answer(encoded: EncodedRows) -> int:
    """Returns the tokens of the longest labelled answer (at least 1): of training rows, a fit ``max_answer_tokens``.

    Raises:
        ValueError: the rows are not labelled rows of question answering.
    """
    if encoded.kind is not Kind.QUESTION_ANSWERING or encoded.labels is None:
        raise ValueError(f"longest_answer needs labelled question answering rows, not {encoded.kind}")
    answered = encoded.labels[encoded.labels[:, 0] > 0]
    return int((answered[:, 1] - answered[:, 0] + 1).max(initial=1))


def answer_limit(encoded: EncodedRows) -> int:
    """Returns a fit ``max_answer_tokens`` from training rows: their longest answer.

    Of fewer than 100 answers the longest tells little about others; then it is at least 30, the customary limit.

    Raises:
        ValueError: the rows are not labelled rows of question answering.
    """
    longest = longest_answer(encoded)
    assert encoded.labels is not None
    answered = len(np.unique(encoded.feature_row[encoded.labels[:, 0] > 0]))
    return longest if answered >= _TELLING_ANSWERS else max(longest, MAX_ANSWER_TOKENS)


def clipped(context: str, begin: int, end: int) -> tuple[int, int]:
    """Returns the span without white space at its ends, and with the marks that belong to its last letter.

    Byte-level tokens carry the space before a word; tokenizers that strip accents give marks to no token.
    """
    while end < len(context) and unicodedata.category(context[end]).startswith("M"):
        end += 1
    text = context[begin:end]
    kept = text.strip()
    if not kept:
        return begin, end
    begin += text.index(kept)
    return begin, begin + len(kept)
