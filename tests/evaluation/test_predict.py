"""A loaded adapter answers new rows of every kind, and refuses what it cannot read."""

import shutil

import numpy as np
import pytest
from tiny import write_tiny_backbone
from toy_tasks import FIVE_KINDS, toy_setup

from adaptmtl.adapters.bundle import ADAPTER
from adaptmtl.errors import AdapterError, BackboneError, DataError, UnknownNameError
from adaptmtl.evaluation.predict import load_predictor
from adaptmtl.tasks.decode import decode
from adaptmtl.zoo.build import train_adapters

LONG = "the dog is good " * 6250  # 100,000 characters
ROWS = {
    "opinion": {"text": "the dog is good"},
    "size": {"text": "big big dog"},
    "right-word": {"text": "what is 3", "choices": ["sad", "great", "dog"]},
    "nouns": {"tokens": ["the", "red", "dog"]},
    "where": {"question": "what is the dog", "context": "the cat is old and the dog is red"},
}
LONG_ROWS = {
    "opinion": {"text": LONG, "text_pair": LONG},
    "size": {"text": LONG},
    "right-word": {"text": LONG, "choices": [LONG, "dog"]},
    "nouns": {"tokens": LONG.split()},
    "where": {"question": "what is the dog", "context": LONG[:20_000]},
}


@pytest.fixture(scope="module")
def setup(tmp_path_factory, tiny_backbone):
    folder = tmp_path_factory.mktemp("predict")
    made = toy_setup(folder / "tasks", tiny_backbone, folder / "home", FIVE_KINDS)
    train_adapters(made, FIVE_KINDS)
    return made


@pytest.fixture(scope="module")
def predictors(setup):
    return {task: load_predictor(task, setup.workspace) for task in FIVE_KINDS}


def well_formed(task, row, answer):
    if task == "opinion":
        assert set(answer) == {"label", "probabilities"} and set(answer["probabilities"]) == {"bad", "good"}
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    elif task == "size":
        assert set(answer) == {"value"} and np.isfinite(answer["value"])
    elif task == "right-word":
        assert row["choices"][answer["choice"]] == answer["text"] and len(answer["probabilities"]) == len(
            row["choices"]
        )
    elif task == "nouns":
        assert answer["tokens"] == row["tokens"] and len(answer["tags"]) == len(row["tokens"])
        assert set(answer["tags"]) <= {"O", "B-THING"}
    else:
        assert row["context"][answer["start"] : answer["end"]] == answer["answer"] and np.isfinite(answer["score"])


@pytest.mark.parametrize("task", FIVE_KINDS)
def test_answers_of_every_kind(predictors, task):
    predictor = predictors[task]
    assert predictor.spec.name == task
    assert {name.removesuffix("?") for name in predictor.columns} >= set(ROWS[task])
    (answer,) = predictor.predict([ROWS[task]])
    well_formed(task, ROWS[task], answer)
    assert predictor.predict([]) == []
    among_others = predictor.predict([LONG_ROWS[task] if task != "where" else ROWS[task], ROWS[task]])[1]
    for name, value in answer.items():
        if not isinstance(value, (float, dict, list)):
            assert among_others[name] == value


@pytest.mark.parametrize("task", FIVE_KINDS)
def test_a_text_of_100_000_characters_is_answered(predictors, task):
    (answer,) = predictors[task].predict([LONG_ROWS[task]])
    well_formed(task, LONG_ROWS[task], answer)


@pytest.mark.parametrize("task", FIVE_KINDS)
def test_predictions_on_validation_rows_give_the_reported_figure(setup, predictors, task):
    from adaptmtl.tasks.metrics import metrics
    from adaptmtl.training.loop import accelerator
    from adaptmtl.training.model import outputs_of

    data, predictor = setup.data(task), predictors[task]
    outputs = outputs_of(predictor.model, data.validation.encoded, None, accelerator().device)
    found = decode(data.validation.encoded, outputs, data.validation.rows, data.spec, **data.settings)
    main = data.spec.main_metric
    value = metrics[main].score(metrics[main].statistics(found, data.validation.rows, data.spec).sum(axis=0))
    assert value == pytest.approx(predictor.bundle.manifest.main_figure.value, abs=0.051)  # one row of 20 on an edge
    answers = predictor.predict(list(data.validation.rows.rows))
    assert len(answers) == 20
    if task == "opinion":
        names = data.spec.label_names
        right = [
            names[row["label"]] == answer["label"]
            for row, answer in zip(data.validation.rows.rows, answers, strict=True)
        ]
        assert np.mean(right) == pytest.approx(value)


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("opinion", {}, "row 2: column 'text' is missing; opinion-lora-[0-9a-f]{8} reads text$"),
        ("opinion", {"text": ""}, "row 2: column 'text' is ''; give a text"),
        ("opinion", {"text": "  \n"}, "give a text"),
        ("opinion", {"text": 3}, "row 2: column 'text' is '3'; give a text"),
        ("opinion", {"text": ["a"]}, "give a text"),
        ("right-word", {"text": "a", "choices": []}, "column 'choices' is"),
        ("right-word", {"text": "a", "choices": "abc"}, "give a list of texts"),
        ("nouns", {"tokens": []}, "give a list of texts"),
        ("nouns", {"tokens": "the dog"}, "give a list of texts"),
        ("nouns", {"tokens": ["a", None]}, "give a list of texts"),
        ("where", {"question": "who", "context": " "}, "column 'context'"),
    ],
)
def test_rows_that_cannot_be_read_are_named(predictors, task, row, message):
    with pytest.raises(DataError, match=message.replace("?", r"\?")):
        predictors[task].predict([ROWS[task], row])


@pytest.mark.parametrize("odd", ["\u200b", "\ud800", "😀" * 50, "\x00", "مرحبا بالعالم", "a\u0301" * 40])
def test_odd_texts_are_answered_or_refused_in_words(predictors, odd):
    for task in ("opinion", "nouns"):
        row = {"text": odd} if task == "opinion" else {"tokens": ["the", odd]}
        try:
            (answer,) = predictors[task].predict([row])
        except DataError:
            continue
        well_formed(task, row, answer)


def test_a_changed_adapter_is_refused(setup, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(setup.workspace.home, home)
    from adaptmtl.workspace import Workspace
    from adaptmtl.zoo.store import Zoo

    workspace = Workspace(home=home, mirror=None, offline=True)
    entry = Zoo(workspace).get("opinion")
    raw = (entry.path / ADAPTER).read_bytes()
    for changed in (raw[:-1], raw[:-1] + bytes([raw[-1] ^ 1]), b""):
        (entry.path / ADAPTER).write_bytes(changed)
        with pytest.raises(AdapterError, match="was changed or truncated"):
            load_predictor("opinion", workspace)


def test_another_backbone_of_the_same_shape_is_refused(setup, tmp_path):
    other = write_tiny_backbone(tmp_path / "other", seed=1)
    with pytest.raises(BackboneError, match=r"was trained on backbone .* name the right one with --backbone"):
        load_predictor("opinion", setup.workspace, backbone=str(other))
    moved = tmp_path / "moved"
    shutil.copytree(setup.backbone.path, moved)
    predictor = load_predictor("opinion", setup.workspace, backbone=str(moved))
    assert predictor.predict([ROWS["opinion"]]) == load_predictor("opinion", setup.workspace).predict([ROWS["opinion"]])


def test_an_unknown_adapter_is_named(setup):
    with pytest.raises(UnknownNameError, match="unknown adapter 'opinio-lora-x'; did you mean opinion-lora-"):
        load_predictor("opinio-lora-x", setup.workspace)
