"""What the planner knows of a task's rows before it reads them."""

import pytest

from adaptmtl.selection.reading import form_of, reading_of


@pytest.mark.parametrize(
    ("kind", "row", "form", "reading"),
    [
        ("sequence_classification", {"text": "a", "text_pair": None}, "text", "rows"),
        ("sequence_classification", {"text": "a", "text_pair": "b"}, "text pair", "rows"),
        ("regression", {"text": "a", "text_pair": "b"}, "text pair", "rows"),
        ("token_classification", {"tokens": ["a"]}, "token_classification", "tokens"),
        ("question_answering", {"question": "a"}, "question_answering", "tokens"),
        ("of_a_package_that_is_not_here", {}, "of_a_package_that_is_not_here", None),
    ],
)
def test_form_and_reading(kind, row, form, reading):
    assert form_of(kind, row) == form
    assert reading is None or reading_of(kind) == reading
