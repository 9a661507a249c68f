import numpy as np
import pytest

from adaptmtl.errors import DataError, SelectionError, UnknownNameError
from adaptmtl.transfer.contract import Features, SourceEvidence, TargetEvidence, score_all

X = np.arange(12, dtype=np.float32).reshape(6, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, np.zeros(5, np.int64)), r"\(6, 2\).*\(5,\)"),
        ((X[:, 0], np.zeros(6, np.int64)), "shape"),
        ((X * np.nan, np.arange(6)), "NaN"),
        ((X, np.zeros(6, np.int64)), "at least 2 labels"),
        ((X[:1], np.zeros(1, np.int64)), "at least 2"),
        ((X, np.arange(6), np.zeros(6, np.int64)), "1 target row"),
        ((X, np.arange(6), np.zeros(4, np.int64)), "groups"),
        ((X, np.arange(6), None, "ranks"), "'ranks'"),
        ((X, np.array([1, 0, 1, 0, 1, 0]), None, "choices"), "need groups"),
        ((X, np.array([1, 1, 0, 0, 1, 0]), np.array([4, 4, 4, 9, 9, 9]), "choices"), "row 4 has 2"),
        ((X, np.array([1, 2, 0, 0, 1, 0]), np.array([4, 4, 4, 9, 9, 9]), "choices"), "not 0 or 1"),
    ],
)
def test_unusable_features_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Features(*arguments)


def test_contrasts_take_the_question_out() -> None:
    groups = np.array([7, 3, 7, 3, 7, 3])
    features = Features(X, np.array([1, 0, 0, 0, 0, 1]), groups, "choices")
    x, y = features.contrasts
    for group in (3, 7):
        here = groups == group
        np.testing.assert_allclose(x[here], X[here] - X[here].mean(axis=0))
        np.testing.assert_allclose(y[here], features.y[here] - 1 / 3)
    assert features.rows.tolist() == [3, 7]
    assert features.row_of.tolist() == [1, 0, 1, 0, 1, 0]


def test_score_all_refuses_doubles_and_unknown_names() -> None:
    target = TargetEvidence("t", Features(X, np.arange(6) % 2))
    with pytest.raises(SelectionError, match="'k' is given twice"):
        score_all(["size"], [SourceEvidence("a", "k", 1), SourceEvidence("b", "k", 1)], target)
    with pytest.raises(UnknownNameError, match="did you mean"):
        score_all(["sizes"], [SourceEvidence("a", "k", 1)], target)
