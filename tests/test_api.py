"""The names that ``adaptmtl`` exports, given what a person gives them."""

from dataclasses import replace

import pytest
from toy_tasks import toy_setup, write_task

import adaptmtl as am
from adaptmtl.errors import DataError


@pytest.fixture(scope="module")
def setup(tmp_path_factory, tiny_backbone):
    folder = tmp_path_factory.mktemp("api")
    made = toy_setup(folder / "tasks", tiny_backbone, folder / "home", ("opinion", "mood", "colour"))
    am.train_adapters(made, ["mood", "colour"])
    return made


def test_every_name_is_there():
    assert all(getattr(am, name) is not None for name in am.__all__)


@pytest.mark.parametrize(
    "call",
    [
        lambda setup: am.train_adapters(setup, "opinion"),
        lambda setup: am.rank_sources(setup, "opinion", sources="mood"),
        lambda setup: am.check(setup, "opinion", arms_wanted="fused"),
        lambda setup: am.make_setup(str(setup.backbone.path), workspace=setup.workspace, refused_licences="nc"),
    ],
)
def test_one_text_is_no_list_of_names(setup, call):
    with pytest.raises(am.AdaptMTLError, match=r"is '\w+': give a list of names, such as \['\w+'\]"):
        call(setup)


def test_seeds_are_how_many_or_which(setup):
    first = am.train_adapters(setup, ["mood"], seeds=2)
    assert [one.seed for one in first] == [0, 1] and am.train_adapters(setup, ["mood"], seeds=[1]) == first[1:]
    with pytest.raises(am.AdaptMTLError, match=r"seeds is \[1, 1\]; give how many"):
        am.train_adapters(setup, ["mood"], seeds=[1, 1])
    arms = {"sources": ["mood"], "arms_wanted": ["target_adapter"]}
    both = am.check(setup, "opinion", seeds=[0, 1], **arms)
    assert both.arms[0].values == am.check(setup, "opinion", seeds=2, **arms).arms[0].values
    assert am.check(setup, "opinion", seeds=[1], **arms).arms[0].values == both.arms[0].values[1:]


def test_a_budget_may_be_written(setup):
    assert am.Budget.of("2%") == am.Budget(0.02, "share") and am.Budget.of(4) == am.Budget(4.0, "trainings")
    choices = [am.fuse(setup, "opinion", budget=budget).choice.budget for budget in ("0", 0, am.Budget(0, "trainings"))]
    assert choices == [am.Budget(0.0, "trainings")] * 3
    with pytest.raises(am.AdaptMTLError, match="budget is 'a lot'; give seconds"):
        am.fuse(setup, "opinion", budget="a lot")


def test_all_sources_are_ranked_unless_some_are_named(setup):
    every = am.rank_sources(setup, "opinion", sources="auto")
    assert replace(every, seconds=0) == replace(am.rank_sources(setup, "opinion"), seconds=0)
    assert {one.task for one in every.sources} == {"mood", "colour"}


def test_a_persons_tasks_are_known_beside_those_that_are_kept(tmp_path, setup):
    home, mine, kept = tmp_path / "home", tmp_path / "mine", tmp_path / "kept"
    for folder, name in ((mine, "colour"), (kept, "mood")):
        folder.mkdir()
        write_task(folder, name)
    workspace = am.Workspace(home=home, mirror=None, offline=True)
    am.add_tasks(workspace, kept / "mood.yaml")
    made = am.make_setup(str(setup.backbone.path), workspace=workspace, task_file=mine, allow_overlap=True,
                         refused_licences=["nc"])  # fmt: skip
    assert {"mood", "colour", "boolq"} <= set(made.catalogue.tasks)
    assert (made.allow_overlap, made.refused_licences) == (True, ("nc",))
    assert {"mood"} < set(am.known_tasks(workspace).tasks)
    with pytest.raises(am.AdaptMTLError, match="a catalogue is given as well"):
        am.make_setup(str(setup.backbone.path), workspace=workspace, task_file=mine, catalogue=made.catalogue)


def test_texts_are_predicted_as_they_are(setup):
    predictor = am.load_predictor("colour", setup.workspace)
    texts = ["a dog 1 in red by the cat", "a cat 2 in blue by the dog"]
    assert predictor.predict(texts) == predictor.predict([{"text": text} for text in texts])
    for wrong in ("one text", {"text": "one row"}):
        with pytest.raises(DataError, match="give a list of rows, of one as well"):
            predictor.predict(wrong)
    with pytest.raises(DataError, match="row 2 is '7'; give a dict of text"):
        predictor.predict([texts[0], 7])


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip": 0}, {"clip": float("nan")}, {"warmup": 1.0}, {"warmup": -0.1}, {"head_dropout": 1.0},
        {"weight_decay": -1.0}, {"steps": 2.5}, {"steps": 0}, {"batch_size": 1.5}, {"learning_rate": float("inf")},
        {"epochs": 0}, {"head_rate": 0.0}, {"full_learning_rate": -1.0},
    ],
    ids=str,
)  # fmt: skip
def test_no_choice_of_a_recipe_may_be_out_of_range(wrong):
    (name,) = wrong
    with pytest.raises(am.AdaptMTLError, match=f"recipe: {name} is "):
        am.Recipe(**wrong)
