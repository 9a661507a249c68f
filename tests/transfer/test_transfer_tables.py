"""Tables and plot of the document come from the results files, and stay where a result is missing."""

import importlib
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tables():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))  # as when it is run; it imports what stands beside it
        return importlib.import_module("transfer_tables")


def row(name, spearman, cost=None, targets=3, scored=1.0, **figures):
    figures = {"spearman": spearman, **figures}
    seconds = None if cost is None else 100 * cost
    return {
        "name": name, "figures": figures, "targets": targets, "scored": scored, "seconds": seconds, "cost_share": cost,
    }  # fmt: skip


RESULT = {
    "targets": 3, "pairs": 30, "seeds": [3],
    "rows": [
        row("popularity", 0.25, targets=2, scored=0.5), row("few_step", 0.8, 0.4, auc=0.9),
        row("planner", -0.5, 0.0002), row("x", None),
    ],
    "noise": {"negative_share": 0.47, "positive_pairs": 5, "negative_pairs": 7},
    "planner": "planner", "planner_minus": {"few_step": {"spearman": [-1.3, -1.5, -1.1], "auc": [0.1, None, None]}},
}  # fmt: skip


def test_only_what_is_at_hand_is_written(tables):
    document = (ROOT / "docs" / "transfer.md").read_text()
    assert all(document.count(f"<!-- results:{marker} -->") == 1 for marker in tables.SECTIONS)
    assert tables.written(document, {}) == document
    after = tables.written(document, {"transfer_quality.json": {"truth": RESULT}})
    begin, end = "<!-- results:transfer-quality -->", "<!-- /results:transfer-quality -->"
    section = after.split(begin)[1].split(end)[0]
    assert after.split(begin)[0] == document.split(begin)[0] and after.split(end)[1] == document.split(end)[1]
    assert "47% of the pairs transfer negatively" in section and "of 12 (5 up, 7 down)" in section
    assert (
        section.index("few step") < section.index("popularity") < section.index("| planner |") < section.index("| x |")
    )
    assert "| few step | 3 | 0.800 | 0.900 | 40.0 | 40.0% |" in section and "0.02%" in section
    assert "| estimator | targets | Spearman |" in section and "| popularity | 2 (50.0%) | 0.250 |" in section
    assert "| few step | −1.300 [−1.500, −1.100] | +0.100 |" in section
    assert tables.written(after, {"transfer_quality.json": {"truth": RESULT}}) == after


def test_what_was_chosen_stands_beside_other_choices(tables):
    gain = {"best predicted set": 0.021, "mean of 20 random sets": -0.004, "choice": 0.02}
    one = {"gain": gain, "best predicted set minus": {"mean of 20 random sets": [0.025, 0.01, 0.04]},
           "trained alone": 1, "seconds": 61.2, "share of one transfer per source": 0.123}  # fmt: skip
    text = tables.chosen_section({"targets": {"a": {}, "b": {}}, "summary": {"0": one}})
    assert text.startswith("2 targets.") and "| best predicted set | +2.1% |" in text
    assert "| mean of 20 random sets | −0.4% (+0.025 [+0.010, +0.040]) |" in text and "| choice | +2.0% |" in text
    assert "| seconds | 61 |" in text and text.endswith("| share of one transfer per source | 12.3% |")


def test_a_merge_is_compared_with_its_members(tables):
    minus = {"planner (best member)": {"spearman": [-0.1, -0.4, 0.2]}, "size": {"spearman": [0.3, 0.1, 0.5]}}
    text = tables.sets_section({**RESULT, "planner_minus": minus})
    assert text.startswith("30 sets on 3 targets.")
    assert text.endswith("| minus | Spearman |\n| --- | --- |\n| planner (best member) | −0.100 [−0.400, +0.200] |")
    assert "paired over" not in tables.sets_section({**RESULT, "planner_minus": {}})


def test_the_plot_is_sound_and_shows_the_costed_rows(tables):
    drawing = tables.plot(RESULT)
    root = ElementTree.fromstring(drawing)
    texts = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"few step", "planner"} <= set(texts) and "popularity" not in texts
    circles = {
        name: (float(one.get("cx")), float(one.get("cy")))
        for name, one in zip(["few step", "planner"], root.iter("{http://www.w3.org/2000/svg}circle"), strict=True)
    }
    assert circles["few step"][0] > circles["planner"][0] and circles["few step"][1] < circles["planner"][1]
