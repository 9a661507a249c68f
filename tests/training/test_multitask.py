from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_tasks import toy_setup
from toys import QUICK, toy_data

from adaptmtl.backbone.load import Backbone
from adaptmtl.errors import SelectionError
from adaptmtl.training import kept
from adaptmtl.training import multitask as module
from adaptmtl.training.adapter import fine_tune
from adaptmtl.training.data import TaskData
from adaptmtl.training.kept import kept_shared
from adaptmtl.training.loop import one_at_a_time
from adaptmtl.training.multitask import Mixing, train_shared
from adaptmtl.workspace import Workspace


@pytest.fixture
def tasks(backbone: Backbone) -> dict[str, TaskData]:
    sizes = {"sequence_classification": 64, "multiple_choice": 16, "token_classification": 32}
    return {str(kind): toy_data(kind, backbone, rows) for kind, rows in sizes.items()}


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_tasks_share_follows_its_rows(temperature: float, tasks: dict[str, TaskData]):
    mixture = module._Mixture(tasks, 20, temperature, seed=0)
    counts = dict.fromkeys(tasks, 0)
    for _ in range(200):
        drawn = next(mixture)
        assert sum(map(len, drawn.values())) == 20
        for name, units in drawn.items():
            counts[name] += len(units)
    expected = np.array([64, 16, 32]) ** (1 / temperature)
    np.testing.assert_allclose(np.array(list(counts.values())) / 4000, expected / expected.sum(), atol=0.03)
    again = module._Mixture(tasks, 20, temperature, seed=0)
    fresh = module._Mixture(tasks, 20, temperature, seed=0)
    for _ in range(3):
        one, two = next(again), next(fresh)
        assert one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


def test_every_unit_of_a_task_is_seen_before_any_comes_twice(tasks: dict[str, TaskData]):
    mixture = module._Mixture(tasks, 16, 1.0, seed=0)
    seen = {name: [] for name in tasks}
    for _ in range(30):
        for name, units in next(mixture).items():
            seen[name] += units.tolist()
    for name, data in tasks.items():
        size = data.train.encoded.n_units
        assert sorted(seen[name][:size]) == list(range(size)) and len(seen[name]) > size


def test_a_joint_lora_trains_nothing_else(
    tasks: dict[str, TaskData], backbone: Backbone, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    built, before = [], {}
    make = module.lora_model

    def spied(*args, **options):
        built.append(make(*args, **options))
        before.update({name: tensor.detach().clone() for name, tensor in everything(built[0].model.encoder)})
        return built[0]

    def everything(model):
        return [*model.named_parameters(), *model.named_buffers()]

    monkeypatch.setattr(module, "lora_model", spied)
    shared = train_shared(workspace, backbone, tasks, replace(QUICK, steps=5, head_rate=1.0), seed=0, full=False)
    assert shared.encoder is None and set(shared.lora) == set(QUICK.method.modules(backbone, 2))
    trained = {id(t) for pair in shared.lora.values() for t in pair}
    for name, tensor in everything(built[0].model.encoder):
        assert torch.equal(tensor, before[name]) == (id(tensor) not in trained), name
    heads = 33 * 2 + 33 + 33 * 3
    assert shared.trained_parameters == heads + sum(a.numel() + b.numel() for a, b in shared.lora.values())
    again = train_shared(workspace, backbone, tasks, replace(QUICK, steps=5, head_rate=1.0), seed=0, full=False)
    assert all(torch.equal(again.lora[name][i], shared.lora[name][i]) for name in shared.lora for i in (0, 1))


def test_full_training_changes_the_encoder_and_can_be_continued(
    tasks: dict[str, TaskData], backbone: Backbone, workspace: Workspace
):
    recipe = replace(QUICK, full_learning_rate=1e-3)
    shared = train_shared(workspace, backbone, tasks, recipe, seed=0, full=True)
    plain = backbone.load_encoder().state_dict()
    assert shared.lora is None and shared.log.rows == 3 * recipe.batch_size
    for name in ("embeddings.word_embeddings.weight", "encoder.layer.0.attention.self.query.weight"):
        assert not torch.equal(shared.encoder[f"model.{name}"], plain[name])
    still = replace(recipe, steps=1, full_learning_rate=1e-12)
    target = fine_tune(workspace, backbone, next(iter(tasks.values())), still, seed=0, start=shared.encoder)
    for name, value in target.model.encoder.state_dict().items():
        torch.testing.assert_close(value, shared.encoder[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("full", [False, True])
def test_early_stopping_keeps_the_best_weights(
    full: bool, tasks: dict[str, TaskData], backbone: Backbone, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    planned, weights = iter([3.0, 1.0, 2.0, 2.5, 0.0]), []

    def told(self) -> float:
        weights.append({name: p.detach().clone() for name, p in self.models.named_parameters() if p.requires_grad})
        self.models.eval()
        self.models.train()
        return next(planned)

    watches = []
    restore = module._Watch.restore
    monkeypatch.setattr(module._Watch, "_mean_loss", told)
    monkeypatch.setattr(module._Watch, "restore", lambda self: (watches.append(self), restore(self)))
    mixing = Mixing(patience=2, checks=5)
    recipe = replace(QUICK, steps=10)
    shared = train_shared(workspace, backbone, tasks, recipe, seed=0, full=full, mixing=mixing)
    assert shared.held_out_losses == (3.0, 1.0, 2.0, 2.5) and shared.log.steps == 8
    final = dict(watches[0].models.named_parameters())
    assert all(torch.equal(final[name], value) for name, value in weights[1].items())
    assert any(not torch.equal(final[name], value) for name, value in weights[3].items())


def test_held_out_losses_are_those_of_training_rows_alone(
    tasks: dict[str, TaskData], backbone: Backbone, workspace: Workspace
):
    blind = {name: replace(data, validation=None) for name, data in tasks.items()}  # evaluation rows are not touched
    shared = train_shared(workspace, backbone, blind, replace(QUICK, steps=5, head_rate=1.0), seed=0, full=False)
    assert len(shared.held_out_losses) == 5 and all(np.isfinite(shared.held_out_losses))
    never = Mixing(patience=0)
    quiet = train_shared(workspace, backbone, blind, replace(QUICK, steps=5), seed=0, full=False, mixing=never)
    assert quiet.held_out_losses == () and quiet.log.steps == 5


def test_holding_out_splits_the_training_rows(tasks: dict[str, TaskData]):
    data = tasks["sequence_classification"]
    part = data.hold_out(0.25, 10, seed=0)
    assert (len(part.train.rows), len(part.validation.rows)) == (54, 10)
    kept = [id(row) for row in (*part.train.rows.rows, *part.validation.rows.rows)]
    assert sorted(kept) == sorted(id(row) for row in data.train.rows.rows)


def test_no_task_is_an_error(backbone: Backbone, workspace: Workspace):
    with pytest.raises(SelectionError, match="at least one task"):
        train_shared(workspace, backbone, {}, QUICK, seed=0, full=True)


@pytest.mark.parametrize("full", [True, False])
def test_tasks_may_be_called_anything(full: bool, backbone: Backbone, workspace: Workspace):
    data = toy_data("sequence_classification", backbone)
    shared = train_shared(workspace, backbone, {"train": data, "v1.2": data, "v1,3": data}, QUICK, 0, full=full)
    assert shared.log.steps == QUICK.steps


def test_what_several_begin_from_is_trained_once(tmp_path, tiny_backbone, monkeypatch):
    setup = toy_setup(tmp_path / "tasks", tiny_backbone, tmp_path / "home", ["opinion", "mood"])
    tasks = {name: setup.data(name) for name in ("mood", "opinion")}
    first = kept_shared(setup, tasks, 4, full=False, seed=1, description="joint")
    made = []
    monkeypatch.setattr(kept, "train_shared", lambda *_, **more: made.append(more) or pytest.fail("trained again"))
    again = kept_shared(setup, tasks, 4, full=False, seed=1, description="joint")
    assert made == [] and again.tensors.keys() == first.tensors.keys()
    assert all(torch.equal(again.tensors[name], value) for name, value in first.tensors.items())
    assert again.seconds == first.seconds == again.log.earlier[0] and again.log.tokens == first.log.tokens
    for other in ({"steps": 5}, {"seed": 2}, {"full": True}):
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            kept_shared(setup, tasks, **{"steps": 4, "full": False, "seed": 1, **other}, description="")


def test_processes_that_train_together_do_not_wait_for_each_other(workspace: Workspace, monkeypatch):
    with one_at_a_time(workspace, "one"):
        assert workspace.folder("locks", "one.lock").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with one_at_a_time(workspace, "two"), one_at_a_time(workspace, "two"):
        assert not workspace.folder("locks", "two.lock").exists()
