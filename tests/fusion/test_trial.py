"""The trial that decides where no single source is shown to help."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toy_tasks import copied, toy_setup

from adaptmtl.fusion import fuse as fuse_module
from adaptmtl.fusion import trial as trial_module
from adaptmtl.fusion.fuse import fuse
from adaptmtl.fusion.trial import Trial, try_sources
from adaptmtl.selection import planner
from adaptmtl.selection.guard import guard
from adaptmtl.training.data import PreparedSplit
from adaptmtl.zoo.build import train_adapters
from adaptmtl.zoo.store import Zoo


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_backbone):
    folder = tmp_path_factory.mktemp("trial")
    setup = toy_setup(folder / "tasks", tiny_backbone, folder / "home", ("opinion", "mood", "colour"))
    train_adapters(setup, ["mood", "colour"])
    return setup


@pytest.fixture
def setup(trained, tmp_path):
    return copied(trained, tmp_path / "home")


@pytest.fixture
def undecided(monkeypatch):
    """No source is shown to help, each is expected to help a little."""

    def neutral(baseline, sources):
        verdicts = guard(baseline, {key: baseline for key in sources})
        return {key: replace(one, verdict="neutral", gain=0.01) for key, one in verdicts.items()}

    monkeypatch.setattr(planner, "guard", neutral)


def entries(setup):
    return Zoo(setup.workspace).find(method="lora")


def test_both_ways_are_trained_on_the_same_rows_and_scored_on_held_out_ones(setup, monkeypatch):
    seen = []
    real = trial_module.run_fusion

    def watched(setup, part, sources, method, seed):
        seen.append((part.train.rows.fingerprint, part.validation.rows.fingerprint, len(sources), seed))
        return real(setup, part, sources, method, seed)

    monkeypatch.setattr(trial_module, "run_fusion", watched)
    target = setup.data("opinion")
    trial = try_sources(setup, target, entries(setup), "merge")
    assert [(sources, seed) for *_, sources, seed in seen] == [(2, 0), (2, 1), (0, 0), (0, 1)]
    assert len({(train, held) for train, held, *_ in seen}) == 1
    part = target.hold_out(0.25, 250, seed=0)
    own = set(map(str, target.train.rows.rows))
    held, kept = set(map(str, part.validation.rows.rows)), set(map(str, part.train.rows.rows))
    assert held | kept == own and not held & kept and trial.rows == len(part.validation.rows)
    assert {row["label"] for row in part.train.rows.rows} == {row["label"] for row in target.train.rows.rows}
    assert try_sources(setup, target, entries(setup), "merge") == trial and len(seen) == 4


@pytest.mark.parametrize("method", ["merge", "joint"])
def test_the_trial_says_what_its_trainings_took(setup, monkeypatch, method):
    made = []
    real = trial_module.run_fusion

    def kept(*given):
        made.append(real(*given))
        return made[-1]

    monkeypatch.setattr(trial_module, "run_fusion", kept)
    trial = try_sources(setup, setup.data("opinion"), entries(setup), method)
    logs = [log for one in made for log in (one.trained.log, one.before) if log is not None]
    assert len(logs) == (4 if method == "merge" else 6)
    assert (trial.examples, trial.tokens) == (sum(log.rows for log in logs), sum(log.tokens for log in logs))
    assert trial.seconds > 0 and trial.tokens > trial.examples > 0


def test_the_trial_never_reads_evaluation_rows(setup, monkeypatch):
    target = setup.data("opinion")
    poisoned = target.validation.rows

    def refuse(self, *_):
        if self.rows is poisoned:
            raise AssertionError("the trial read the evaluation rows")
        return real(self, *_)

    real = PreparedSplit.states
    monkeypatch.setattr(PreparedSplit, "states", refuse)
    assert try_sources(setup, target, entries(setup), "merge").rows > 0


@pytest.mark.parametrize("better", [True, False])
def test_the_better_way_of_the_trial_is_taken_and_the_summary_says_why(setup, undecided, monkeypatch, better):
    scores = ((0.9, 0.8), (0.7, 0.8)) if better else ((0.7, 0.8), (0.7, 0.8))
    monkeypatch.setattr(fuse_module, "try_sources", lambda *_: Trial(*scores, rows=12))
    made = fuse(setup, "opinion")
    assert made.helped is better and set(made.sources) == ({"mood", "colour"} if better else set())
    assert "on 12 held-out training rows" in made.summary and made.summary.startswith(
        "no single source is shown to help"
    )
    assert made.summary.endswith("fused" if better else "the target is trained alone")
    assert all(why.startswith("kept" if better else "dropped") for why in made.reasons.values())
