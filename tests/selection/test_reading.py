"""What the planner knows of an adapter before it reads the target's rows through it."""

from types import SimpleNamespace

import pytest

from adaptmtl.selection.reading import inputs_of, reading_of
from adaptmtl.tasks.catalogue import load_catalogue


@pytest.mark.parametrize(
    ("task", "inputs", "reading"),
    [
        ("sst2", ("text",), "rows"),
        ("rte", ("text", "text_pair"), "rows"),
        ("stsb", ("text", "text_pair"), "rows"),
        ("wnut17", ("tokens",), "tokens"),
        ("squad", ("question", "context"), "tokens"),
        ("commonsense_qa", ("text", "choices"), "rows"),
    ],
)
def test_what_a_model_is_given(task, inputs, reading):
    catalogue = load_catalogue()
    spec = catalogue.tasks[task]
    assert spec.inputs == inputs and reading_of(spec.kind) == reading
    setup = SimpleNamespace(catalogue=catalogue)

    def entry(**facts):
        manifest = SimpleNamespace(task=SimpleNamespace(**{"name": task, "kind": spec.kind, "inputs": None, **facts}))
        return SimpleNamespace(manifest=lambda: manifest)

    assert inputs_of(setup, entry()) == inputs, "the first adapters do not say: the catalogue does"
    assert inputs_of(setup, entry(inputs=("other",))) == ("other",)
    assert inputs_of(setup, entry(name="somebody_elses")) is None
    assert inputs_of(setup, entry(kind="another_kind")) is None
