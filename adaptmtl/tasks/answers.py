"""Beyond the best answer: the n best spans of each row, and how sure "no answer" must be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adaptmtl.tasks.decode import MAX_ANSWER_TOKENS, clipped, decode
from adaptmtl.tasks.encoded import EncodedRows
from adaptmtl.tasks.metrics_squad import best_over_answers, token_f1
from adaptmtl.tasks.rows import Split


@dataclass(frozen=True)
class Answer:
    """One candidate: its text, its characters in the context, and the sum of its start and end logits."""

    text: str
    start: int
    end: int
    score: float


def n_best_answers(
    encoded: EncodedRows, outputs: np.ndarray, split: Split, n: int, *, max_answer_tokens: int = MAX_ANSWER_TOKENS
) -> list[list[Answer]]:
    """Returns the best answers of each row, best first, each span of the context once.

    All spans of all windows are looked at, not only those of some best starts and ends. A span that lies in several
    windows has the score of the window where it is greatest.

    Args:
        encoded: encoded rows of question answering.
        outputs: (total_tokens, 2) start and end logits.
        split: the rows that were encoded.
        n: answers per row, at most.
        max_answer_tokens: tokens of an answer, at most.
    """
    assert encoded.spans is not None
    logits = outputs.astype(np.float64)
    found: list[dict[tuple[int, int], float]] = [{} for _ in range(encoded.n_rows)]
    for feature, row in enumerate(encoded.feature_row):
        window = slice(encoded.offsets[feature], encoded.offsets[feature + 1])
        inside = np.flatnonzero(encoded.spans[window, 0] >= 0)
        if not len(inside):
            continue
        spans, (starts, ends) = encoded.spans[window][inside], logits[window][inside].T
        width = min(max_answer_tokens, len(inside))
        scores = np.full((len(inside), width), -np.inf)  # (start, answer's tokens - 1)
        for extra in range(width):
            scores[: len(inside) - extra, extra] = starts[: len(inside) - extra] + ends[extra:]
        flat = scores.ravel()
        held = found[int(row)]
        here: set[tuple[int, int]] = set()
        for place in np.argsort(-flat, kind="stable"):
            if flat[place] == -np.inf or len(here) == n:
                break
            first, extra = divmod(int(place), width)
            key = clipped(split.rows[int(row)]["context"], int(spans[first, 0]), int(spans[first + extra, 1]))
            here.add(key)  # several tokens may stand for one character, so that several places are one span
            held[key] = max(held.get(key, -np.inf), float(flat[place]))
    return [
        [
            Answer(row["context"][start:end], start, end, score)
            for (start, end), score in sorted(held.items(), key=lambda item: (-item[1], item[0]))[:n]
        ]
        for held, row in zip(found, split.rows, strict=True)
    ]


def best_null_threshold(
    encoded: EncodedRows, outputs: np.ndarray, split: Split, *, max_answer_tokens: int = MAX_ANSWER_TOKENS
) -> float:
    """Returns the ``null_threshold`` with the greatest mean F1, as the SQuAD 2.0 script's best threshold.

    The rows must be training rows, held out of training: a threshold that was chosen on the rows that a figure is
    reported on makes the figure too high.

    Args:
        encoded: encoded rows of question answering.
        outputs: (total_tokens, 2) start and end logits.
        split: the rows that were encoded, some without an answer.
        max_answer_tokens: tokens of an answer, at most.
    """
    answered = decode(encoded, outputs, split, max_answer_tokens=max_answer_tokens)
    assert answered.scores is not None
    truth = [row["answers"]["text"] for row in split.rows]
    gain = best_over_answers(token_f1, answered.labels, truth)[:, 0]
    gain -= best_over_answers(token_f1, [""] * len(truth), truth)[:, 0]  # of answering over not answering
    starts = encoded.offsets[:-1]
    nothing = np.full(encoded.n_rows, np.inf)
    np.minimum.at(nothing, encoded.feature_row, outputs[starts].astype(np.float64).sum(axis=1))
    margin = nothing - np.array(answered.scores)  # a row is answered where this is not above the threshold
    order = np.argsort(margin, kind="stable")
    total = np.cumsum(gain[order])
    last = np.append(margin[order][1:] != margin[order][:-1], True)  # rows of equal margin go together
    best = int(np.argmax(np.where(last, total, -np.inf)))
    if total[best] <= 0:
        return float(margin[order[0]]) - 1.0
    following = margin[order[best + 1]] if best + 1 < len(order) else margin[order[best]] + 1.0
    return float((margin[order[best]] + following) / 2)
