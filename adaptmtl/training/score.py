"""A model's outputs on validation rows become figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adaptmtl.tasks.decode import MAX_ANSWER_TOKENS, Predictions, decode
from adaptmtl.tasks.metrics import metrics, metrics_for
from adaptmtl.training.data import PreparedSplit, TaskData


@dataclass(frozen=True)
class Scored:
    """Figures of one model on one split.

    Attributes:
        statistics: metric -> (rows, d) sufficient statistics of each row, from which any bootstrap follows.
        values: metric -> the figure over all rows, the main metric first.
    """

    statistics: dict[str, np.ndarray]
    values: dict[str, float]


def predictions_of(data: TaskData, split: PreparedSplit, outputs: np.ndarray) -> Predictions:
    """Decodes outputs on a split of a task."""
    return decode(
        split.encoded, outputs, split.rows, data.spec,
        null_answers=data.null_answers, max_answer_tokens=data.max_answer_tokens or MAX_ANSWER_TOKENS,
    )  # fmt: skip


def score(data: TaskData, split: PreparedSplit, outputs: np.ndarray) -> Scored:
    """Scores outputs on a split of a task with every usual metric of its kind."""
    predicted = predictions_of(data, split, outputs)
    names = metrics_for(data.spec)
    statistics = {name: metrics[name].statistics(predicted, split.rows, data.spec) for name in names}
    values = {name: float(metrics[name].score(statistics[name].sum(axis=0))) for name in names}
    return Scored(statistics, values)
