"""The planner: the same choice from the same training rows, whatever the evaluation rows hold."""

import json
from dataclasses import replace

import numpy as np
import pytest
from toy_tasks import FIVE_KINDS, copied, toy_setup

from adaptmtl.cli.render import plain
from adaptmtl.errors import SelectionError, UnknownNameError
from adaptmtl.fusion.bench import FusionBench
from adaptmtl.selection import planner, reading
from adaptmtl.selection.budget import Budget
from adaptmtl.selection.gains import Seen
from adaptmtl.selection.planner import plan_sources
from adaptmtl.selection.reading import rank_sources
from adaptmtl.tasks.rows import Split
from adaptmtl.tasks.spec import HubRows, TaskSpec
from adaptmtl.training.data import PreparedSplit
from adaptmtl.training.setup import Setup
from adaptmtl.transfer.history import History, Transfer
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
        assert np.isfinite([one.gain.mean, one.gain.sd, one.explained]).all() and one.gain.sd > 0
    assert [one.gain.mean for one in table.sources] == sorted((one.gain.mean for one in table.sources), reverse=True)
    text = json.dumps(plain(table), allow_nan=False)
    assert not [one.key for one in table.sources if one.key in table.summary], text


def test_no_answer_of_an_evaluation_row_is_read_for_a_choice_with_trials(setup, monkeypatch):
    data = setup.data("opinion")

    def refuse(self, *_):
        assert self.rows is not data.validation.rows, "the trial read the evaluation rows"
        return real(self, *_)

    real = PreparedSplit.states
    monkeypatch.setattr(PreparedSplit, "states", refuse)
    choice = plan_sources(setup, "opinion", bench(setup), budget=Budget(4, "trainings"))
    assert choice.trial.trainings == 4 and choice.trial.rows == len(data.hold_out(0.25, 250, seed=0).validation.rows)


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


def bench(setup, target="opinion", method="merge"):
    return FusionBench(setup, setup.data(target), method)


@pytest.mark.parametrize(
    ("gain", "chosen"),
    [
        (lambda sources: 0.1 * len(sources), {"mood", "colour", "nouns"}),
        (lambda sources: 0.1 if sources == {"mood"} else 0.05, {"mood"}),
        (lambda sources: (0.05, 0.1, 0.02)[len(sources) - 1] - 0.03 * ("nouns" in sources), {"mood", "colour"}),
        (lambda sources: -0.1, set()),
    ],
)  # fmt: skip
def test_without_trainings_the_set_with_the_largest_predicted_gain_is_taken(setup, expected, gain, chosen):
    expected(gain)
    choice = plan_sources(setup, "opinion", bench(setup), budget=Budget(0, "trainings"))
    assert {entry.task for entry in choice.entries} == chosen and not choice.trial.tried
    assert {len(names) for names, _ in choice.sets} == {1, 2, 3}
    assert all(why.startswith("kept" if task in chosen else "dropped") for task, why in choice.reasons.items())
    assert ("no source is expected to help" in choice.summary) is (not chosen)
    assert (choice.gain is None) is (not chosen)
    json.dumps(plain(choice), allow_nan=False)


@pytest.mark.parametrize(("rate", "helped"), [(0.9, True), (0.1, False)])
def test_what_really_training_shows_outweighs_what_was_expected(setup, expected, monkeypatch, tmp_path, rate, helped):
    setup = copied(setup, tmp_path / "home")  # what is made up here is no past of other tests
    expected(lambda sources: -0.01 if helped else 0.01)
    real = FusionBench.run

    def run(self, entries, seed):
        made = real(self, entries, seed)
        right = np.arange(len(made.statistics)) < round((rate if entries else 0.5) * len(made.statistics))
        statistics = np.stack([right, np.ones(len(right))], axis=1).astype(float)
        return replace(made, value=float(right.mean()), statistics=statistics)

    monkeypatch.setattr(FusionBench, "run", run)
    choice = plan_sources(setup, "opinion", bench(setup), budget=Budget(6, "trainings"))
    assert bool(choice.entries) is helped and choice.trial.trainings in (3, 5, 6)
    assert "held-out training rows" in choice.summary


def test_every_seed_of_a_trial_scores_on_other_training_rows(setup):
    made = bench(setup)
    rows = [row["text"] for row in made.target.train.rows.rows]
    held = [[row["text"] for row in made.part(seed).validation.rows.rows] for seed in (0, 1, 2)]
    assert len({tuple(one) for one in held}) == 3 and all(len(one) == len(held[0]) <= len(rows) / 3 for one in held)
    assert all(set(one) <= set(rows) for one in held)
    kept = {row["text"] for row in made.part(1).train.rows.rows}
    assert not kept & set(held[1]) and made.part(1) is made.part(1)
    assert made.overlap == pytest.approx(len(held[0]) / len(rows))


def test_a_budget_in_seconds_or_as_a_share_pays_for_reading_first(setup, monkeypatch):
    monkeypatch.setattr(planner, "tokens_per_second", lambda _: 1000.0)
    training = reading.training_tokens(setup, setup.data("opinion"))
    small = plan_sources(setup, "opinion", bench(setup), budget=Budget.parse("1%"))
    assert small.trial.trainings == 0 and small.table is not None and len(small.table.sources) == 1
    assert any("most promising are read" in why for _, why in small.table.excluded)
    monkeypatch.setattr(reading, "READING_TOKENS", 3000.0)
    seconds = (3000.0 + 4.5 * training) / 1000.0
    large = plan_sources(setup, "opinion", bench(setup), budget=Budget(seconds, "seconds"))
    assert large.trial.trainings == 4 and large.table is not None and len(large.table.sources) == 3


def test_what_was_tried_is_remembered_and_not_used_for_the_same_target(setup):
    choice = plan_sources(setup, "opinion", bench(setup), budget=Budget(4, "trainings"))
    past = History(setup.workspace).history(setup.backbone.hash)
    (tried,) = choice.trial.tried
    rows = [row for row in past.rows if row.target == "opinion" and row.sources == tuple(sorted(tried.sources))]
    assert [row.score for row in rows] == list(tried.scores) and [row.seed for row in rows] == [0, 1]
    assert [row.baseline for row in rows] == list(choice.trial.alone) and all(row.seen for row in rows)
    assert "opinion" not in {one.target for one in reading._past(setup, setup.catalogue.tasks["opinion"])}
    again = plan_sources(setup, "opinion", bench(setup), budget=Budget(4, "trainings"))
    assert again.sets == choice.sets and again.trial.tried == choice.trial.tried


def test_what_was_measured_on_a_task_of_the_same_texts_is_not_used_either(setup):
    past = {one.target for one in reading._past(setup, setup.catalogue.tasks["opinion"])}
    assert "stsb" in past and "rte" in past
    sick = TaskSpec(name="sick2", kind="regression", rows=(HubRows(id="none", columns={}),), overlaps=("stsb",))
    assert {one.target for one in reading._past(setup, sick)} - {"opinion"} == past - {"stsb"}


def test_the_trial_is_not_trained_twice(setup, monkeypatch):
    first = plan_sources(setup, "opinion", bench(setup), budget=Budget(4, "trainings"))
    monkeypatch.setattr("adaptmtl.fusion.bench.run_fusion", lambda *_: pytest.fail("trained again"))
    assert plan_sources(setup, "opinion", bench(setup), budget=Budget(4, "trainings")).trial == first.trial


@pytest.mark.parametrize("better", ["mood", "colour"])
def test_of_a_large_zoo_only_the_most_promising_are_read(setup, monkeypatch, tmp_path, better):
    setup = copied(setup, tmp_path / "home")
    History(setup.workspace).record([
        Transfer(setup.backbone.hash, target, (one,), 0, 0.9 if one == better else 0.3, 0.6,
                 seen=Seen((one,)).to_json())
        for one in ("mood", "colour") for target in ("size", "nouns", "where", "right-word")
    ])  # fmt: skip
    monkeypatch.setattr(reading, "MOST_READ", 1)
    table = rank_sources(setup, "opinion")
    assert [one.task for one in table.sources] == [better]
    assert [why for _, why in table.excluded] == ["only the 1 most promising are read"] * 2
    named = rank_sources(setup, "opinion", sources=list(SOURCES))
    assert len(named.sources) == 3, "sources that are named are all read"


def test_wrong_names_are_told(setup):
    with pytest.raises(UnknownNameError, match="did you mean opinion"):
        rank_sources(setup, "opinions")
    with pytest.raises(SelectionError, match="among its own sources"):
        rank_sources(setup, "mood", sources=["mood"])


def test_an_empty_zoo_is_an_empty_table_that_says_so(setup, tmp_path):
    empty = replace(setup, workspace=replace(setup.workspace, home=tmp_path))
    table = rank_sources(empty, "opinion")
    assert table.sources == () and table.summary == "there is no source to choose from"
