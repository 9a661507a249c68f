"""The planner: the same choice from the same training rows, whatever the evaluation rows hold."""

import json
from dataclasses import replace

import numpy as np
import pytest
from toy_tasks import FIVE_KINDS, toy_setup

from adaptmtl.cli.render import plain
from adaptmtl.errors import SelectionError, UnknownNameError
from adaptmtl.selection.planner import rank_sources
from adaptmtl.tasks.rows import Split
from adaptmtl.training.data import PreparedSplit
from adaptmtl.training.setup import Setup
from adaptmtl.zoo.build import train_adapters

SOURCES = ("mood", "colour", "nouns")
ANSWERS = ("label", "tags", "answers")


class TextsOnly(dict):
    """A row whose answers must not be read; its texts may, to look for leakage."""

    def __getitem__(self, name):
        assert name not in ANSWERS, f"the planner read {name} of an evaluation row"
        return super().__getitem__(name)

    def get(self, name, default=None):
        assert name not in ANSWERS, f"the planner read {name} of an evaluation row"
        return super().get(name, default)


class NeverEncoded(PreparedSplit):
    @property
    def encoded(self):
        raise AssertionError("the planner encoded the evaluation rows")

    def states(self, *_):
        raise AssertionError("the planner ran the evaluation rows through the backbone")


@pytest.fixture(scope="module")
def setup(tmp_path_factory, tiny_backbone):
    folder = tmp_path_factory.mktemp("planner")
    made = toy_setup(folder / "tasks", tiny_backbone, folder / "home", {*SOURCES, *FIVE_KINDS})
    train_adapters(made, SOURCES)
    return made


@pytest.fixture
def poison(monkeypatch):
    """Makes answers of evaluation rows unreadable, for the target and for every source."""
    real = Setup.data

    def data(self, task, rows=None):
        found = real(self, task, rows)
        split = found.validation
        texts = Split(tuple(TextsOnly(row) for row in split.rows.rows))
        poisoned = replace(found, validation=NeverEncoded(texts, split.spec, split.backbone, split.encoding))
        poisoned.__dict__["fingerprint"] = found.fingerprint
        return poisoned

    monkeypatch.setattr(Setup, "data", data)


@pytest.mark.parametrize("target", FIVE_KINDS)
def test_no_answer_of_an_evaluation_row_is_read(setup, poison, target):
    table = rank_sources(setup, target)
    expected = sorted(set(SOURCES) - {target})
    assert sorted(one.task for one in table.sources) == expected
    assert [one.rank for one in table.sources] == list(range(1, len(expected) + 1))
    assert table.metric == setup.catalogue.task(target).main_metric and table.rows == 48
    for one in table.sources:
        assert all(np.isfinite(value) for value in one.scores.values())
        assert np.isfinite([one.gain, one.gain_error, one.mean_rank]).all() and 0 <= one.mean_rank <= 1
        assert one.verdict in ("helps", "neutral", "hurts")
    assert set(table.chosen) <= set(expected) and set(table.selection.reasons) == set(expected)
    text = json.dumps(plain(table), allow_nan=False)
    assert not [one.key for one in table.sources if one.key in table.selection.summary], text


def test_the_second_call_gives_the_same_table_without_the_backbone(setup, monkeypatch):
    first = rank_sources(setup, "opinion")
    import adaptmtl.transfer.evidence as evidence

    monkeypatch.setattr(evidence, "lora_model", lambda *_, **__: pytest.fail("the backbone ran again"))
    again = rank_sources(setup, "opinion")
    assert replace(again, seconds=first.seconds) == first
    assert [one.task for one in again.sources] == [one.task for one in first.sources]


def test_named_sources_are_the_only_ones_considered(setup):
    table = rank_sources(setup, "opinion", sources=["mood"])
    assert [one.task for one in table.sources] == ["mood"] and table.sources[0].rank == 1


def test_no_more_sources_are_chosen_than_allowed(setup, monkeypatch):
    from adaptmtl.selection import planner
    from adaptmtl.selection.guard import guard

    monkeypatch.setattr(planner, "guard", lambda base, sources: guard(base, {key: base + 0.1 for key in sources}))
    assert len(rank_sources(setup, "opinion").chosen) == 3
    assert len(rank_sources(setup, "opinion", max_sources=1).chosen) == 1
    assert rank_sources(setup, "opinion", max_sources=1).chosen == (rank_sources(setup, "opinion").sources[0].task,)


def test_wrong_names_are_told(setup):
    with pytest.raises(UnknownNameError, match="did you mean opinion"):
        rank_sources(setup, "opinions")
    with pytest.raises(SelectionError, match="among its own sources"):
        rank_sources(setup, "mood", sources=["mood"])


def test_an_empty_zoo_is_an_empty_table_that_says_so(setup, tmp_path):
    empty = replace(setup, workspace=replace(setup.workspace, home=tmp_path))
    table = rank_sources(empty, "opinion")
    assert table.sources == () and table.chosen == ()
    assert table.selection.summary == "there is no source to choose from: train on the target alone"
