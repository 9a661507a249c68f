import numpy as np
import pytest

from adaptmtl.errors import SelectionError
from adaptmtl.selection.aggregate import aggregate
from adaptmtl.transfer.contract import Score


def scores(**values: float) -> dict[str, Score]:
    return {key: Score(value) for key, value in values.items()}


def test_weighted_mean_of_places() -> None:
    ranked = aggregate(
        {"probe": scores(a=0.1, b=0.3, c=0.2), "size": scores(a=9, b=1, c=5)}, weights={"probe": 3, "size": 1}
    )
    assert [(entry.source, entry.rank) for entry in ranked] == [("b", 1), ("c", 2), ("a", 3)]
    np.testing.assert_allclose([entry.position for entry in ranked], [0.25, 0.5, 0.75])
    assert ranked[0].places == {"probe": 0.0, "size": 1.0}


def test_units_and_order_do_not_matter() -> None:
    first = aggregate({"probe": scores(a=0.1, b=0.3, c=0.2), "logme": scores(a=-5, b=-9, c=-7)})
    second = aggregate({"logme": scores(c=-7e6, a=-5e6, b=-9e6), "probe": scores(c=2, b=3, a=1)})
    assert first == second


def test_a_missing_score_takes_the_middle() -> None:
    table = {"probe": scores(a=3, b=2, c=1), "logme": scores(a=1, c=2, d=float("nan"))}
    ranked = {entry.source: entry for entry in aggregate(table, ["a", "b", "c", "d"], {"probe": 1, "logme": 1})}
    assert ranked["b"].position == pytest.approx((0.5 + 0.5) / 2)
    assert ranked["d"].position == 0.5
    assert ranked["d"].places == {}
    assert set(ranked["b"].places) == {"probe"}


def test_ties_go_by_name_and_share_a_place() -> None:
    ranked = aggregate({"probe": scores(b=1, a=1, c=0)})
    assert [entry.source for entry in ranked] == ["a", "b", "c"]
    assert ranked[0].position == ranked[1].position == 0.25


def test_default_weights_let_the_probe_decide_against_any_two_weak_ones() -> None:
    table = {"probe": scores(a=1, b=0), "logme": scores(a=0, b=1), "hscore": scores(a=0, b=1)}
    assert aggregate(table)[0].source == "a"


@pytest.mark.parametrize(
    ("table", "weights", "message"),
    [
        ({}, {}, "no source"),
        ({"probe": {}}, {}, "no source"),
        ({"probe": scores(a=1)}, {"probe": -1.0}, "'probe' is -1.0"),
        ({"probe": scores(a=1)}, {"probe": float("nan")}, "nan"),
        ({"probe": scores(a=1)}, {"probe": 0.0}, "no estimator"),
    ],
)
def test_nonsense_is_refused(table: dict, weights: dict, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        aggregate(table, weights=weights)
