"""What a process keeps of the tasks that it loads."""

import pytest
from tiny_architectures import write_architecture
from toy_tasks import FIVE_KINDS, toy_setup, write_task

from adaptmtl.tasks.catalogue import load_catalogue
from adaptmtl.training import setup as module
from adaptmtl.training.speed import tokens_per_second


@pytest.fixture
def setup(tmp_path, tiny_backbone, monkeypatch):
    monkeypatch.setattr(module, "_LOADED", {})
    return toy_setup(tmp_path / "tasks", tiny_backbone, tmp_path / "home", FIVE_KINDS)


def test_the_tasks_that_were_used_last_are_kept(setup, monkeypatch):
    monkeypatch.setattr(module, "MOST_LOADED", 2)
    first, second = setup.data("opinion"), setup.data("size")
    assert setup.data("opinion") is first and setup.data("nouns") is not None
    assert setup.data("opinion") is first and setup.data("size") is not second and len(module._LOADED) == 2


def test_a_file_that_is_edited_meanwhile_is_read_again(setup, tmp_path):
    before = setup.data("opinion")
    path = tmp_path / "tasks" / "opinion-train.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-6]))
    assert len(setup.data("opinion").train.rows) == len(before.train.rows) - 6


def test_a_task_that_was_declared_anew_is_another(setup, tmp_path):
    write_task(tmp_path / "tasks", "opinion", more="metric: macro_f1\n")
    again = load_catalogue(tmp_path / "tasks")
    assert again.tasks["opinion"].main_metric == "macro_f1" != setup.data("opinion").spec.main_metric


@pytest.mark.parametrize("case", ["distilbert", "modernbert", "bert"])
def test_the_speed_of_whole_encoders_is_measured_whatever_they_take(case, tmp_path):
    setup = toy_setup(
        tmp_path / "tasks", str(write_architecture(case, tmp_path / case)), tmp_path / "home", ["opinion"]
    )
    whole = module.replace(setup, recipe=module.replace(setup.recipe, lower_layers=0))
    assert tokens_per_second(whole) > 0 and tokens_per_second(whole) == tokens_per_second(whole)
