"""Estimates read training rows of the target only, for every kind of target, and are computed once."""

from dataclasses import replace

import numpy as np
import pytest
from toy_tasks import FIVE_KINDS, toy_setup

import adaptmtl.transfer.sides as module
from adaptmtl.adapters.methods import LoraMethod
from adaptmtl.errors import UnknownNameError
from adaptmtl.training.data import PreparedSplit
from adaptmtl.transfer.estimate import DEFAULT_ESTIMATORS, estimate
from adaptmtl.transfer.sources import find_sources
from adaptmtl.zoo.build import train_adapters
from adaptmtl.zoo.store import Zoo

SOURCES = ("mood", "nouns")


class Poisoned(PreparedSplit):
    """A split that must not be looked at."""

    def __init__(self):
        pass

    def __getattribute__(self, name):
        raise AssertionError(f"a choice looked at the evaluation rows ({name})")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_backbone):
    folder = tmp_path_factory.mktemp("estimate")
    setup = toy_setup(folder / "tasks", tiny_backbone, folder / "home", {*SOURCES, *FIVE_KINDS})
    train_adapters(setup, SOURCES)
    return setup


def poisoned(setup, target):
    """The target's rows, with its fingerprint taken before the evaluation rows become untouchable."""
    data = setup.data(target)
    kept = replace(data, validation=Poisoned())
    kept.__dict__["fingerprint"] = {"train": data.fingerprint["train"], "validation": "poisoned"}
    return kept


def test_a_source_that_is_read_later_is_dealt_as_the_first_was_though_a_last_bit_differs(trained, monkeypatch):
    """Folds go by the baseline's bytes, which another device or other threads may round otherwise."""
    mood, nouns = (Zoo(trained.workspace).find(task=task)[0] for task in SOURCES)
    data = trained.data("size", 40)
    estimate(trained, data, [mood], names=["probe"])
    first = module.TargetSide(trained, data, [nouns], 0, 500).folds
    real = module.target_features

    def rounded(setup, split, source):
        found = real(setup, split, source)
        return found if source is not None else replace(found, x=np.nextafter(found.x, np.float32(9)))

    monkeypatch.setattr(module, "target_features", rounded)
    later = estimate(trained, data, [nouns], names=["probe"]).sources[0]
    side = module.TargetSide(trained, data, [nouns], 0, 500)
    assert not np.array_equal(module.make_folds(side.baseline, 0), first), "the bits make no difference here"
    features = module.SourceSide(side, nouns).part("features")
    assert np.array_equal(later.row_scores, module.probe_rows(features, 0, first).explained)


@pytest.mark.parametrize("target", FIVE_KINDS)
def test_every_kind_is_scored_by_every_estimator_from_training_rows_alone(trained, target, monkeypatch):
    entries = [one for one in find_sources(trained, trained.data(target)).entries if one.task != target]
    found = estimate(trained, poisoned(trained, target), entries)
    assert found.rows == 48 and found.baseline.shape == found.sources[0].row_scores.shape
    assert len(found.baseline) == 48 and np.isfinite(found.baseline).all()
    for one in found.sources:
        assert set(one.scores) | set(one.skipped) == set(DEFAULT_ESTIMATORS)
        assert all(np.isfinite(score.value) for score in one.scores.values())
        assert np.isfinite(one.row_scores).all() and one.seconds > 0
        if target != "nouns":
            assert set(one.skipped) == {"tupate"} and "has no adapter of its own" in one.skipped["tupate"]

    def forbidden(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(module, "target_features", forbidden)
    again = estimate(trained, poisoned(trained, target), entries)
    assert [one.scores for one in again.sources] == [one.scores for one in found.sources]
    assert np.array_equal(again.baseline, found.baseline)


def test_equal_inputs_give_equal_numbers_in_another_home(trained, tmp_path):
    import shutil

    shutil.copytree(trained.workspace.home / "zoo", tmp_path / "home" / "zoo")
    elsewhere = replace(trained, workspace=replace(trained.workspace, home=tmp_path / "home"))
    results = []
    for setup in (trained, elsewhere):
        found = estimate(setup, setup.data("opinion"), find_sources(setup, setup.data("opinion")).entries)
        results.append({one.entry.task: (one.scores, one.row_scores.tolist()) for one in found.sources})
    assert results[0] == results[1]


def test_tupate_runs_once_the_target_has_an_adapter_of_its_own(trained, tmp_path):
    import shutil

    shutil.copytree(trained.workspace.home / "zoo", tmp_path / "home" / "zoo")
    setup = replace(trained, workspace=replace(trained.workspace, home=tmp_path / "home"))
    train_adapters(setup, ["opinion"])
    data = setup.data("opinion")
    found = estimate(setup, data, find_sources(setup, data).entries)
    assert all("tupate" in one.scores and not one.skipped for one in found.sources)
    assert len({one.scores["tupate"].value for one in found.sources}) == len(SOURCES)


def test_a_source_of_another_rank_and_scale_is_read_with_its_own(trained, tmp_path):
    """The features through a source's adapter do not depend on the recipe that the target will be trained with."""
    other = replace(trained, recipe=replace(trained.recipe, method=LoraMethod(rank=4, alpha=1.0)))
    data, target = trained.data("opinion"), other.data("opinion")
    entries = find_sources(trained, data).entries
    assert [one.key for one in find_sources(other, target).entries] == [one.key for one in entries]
    same, read = estimate(trained, data, entries), estimate(other, target, entries)
    for one, two in zip(same.sources, read.sources, strict=True):
        assert one.scores["logme"] == two.scores["logme"] and one.scores["probe"] == two.scores["probe"]
        assert one.row_scores.tolist() == two.row_scores.tolist()


def test_another_seed_or_fewer_rows_are_computed_anew(trained):
    data = trained.data("opinion")
    entries = find_sources(trained, data).entries
    first, other = estimate(trained, data, entries, seed=0), estimate(trained, data, entries, seed=1)
    assert first.baseline.tolist() != other.baseline.tolist()
    few = estimate(trained, trained.data("opinion", 20), entries)
    assert few.rows == 20 == len(few.baseline)


def test_a_half_written_estimate_is_made_again(trained):
    data = trained.data("size")
    entries = find_sources(trained, data).entries
    first = estimate(trained, data, entries)
    for path in trained.workspace.folder("estimates").glob("*.json"):
        path.write_text(path.read_text()[: path.stat().st_size // 2])
    again = estimate(trained, data, entries)
    assert [one.scores for one in again.sources] == [one.scores for one in first.sources]


def test_an_unknown_estimator_is_named(trained):
    with pytest.raises(UnknownNameError, match="did you mean logme"):
        estimate(trained, trained.data("opinion"), [], names=["logmee"])
