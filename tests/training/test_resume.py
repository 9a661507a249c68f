"""A training killed at any step goes on from its last checkpoint and ends with the bytes of an uninterrupted one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from toys import QUICK, toy_data

from adaptmtl.adapters.bundle import ADAPTER
from adaptmtl.backbone.load import Backbone, resolve
from adaptmtl.provenance import Cost
from adaptmtl.training import batches
from adaptmtl.training.adapter import fine_tune, train_adapter
from adaptmtl.training.multitask import Mixing, train_shared
from adaptmtl.workspace import Silent, Workspace
from adaptmtl.zoo.build import train_adapters

STEPS = 24
TOKENS = 60  # at once, so that a step has several pieces
RECIPE = replace(QUICK, steps=STEPS)


class Notes(Silent):
    """Keeps what is said, and ends the process or the training after some steps."""

    def __init__(self, stop_after: int | None = None, kill_after: int | None = None):
        self.said: list[str] = []
        self.stop_after, self.kill_after = stop_after, kill_after

    def say(self, message: str) -> None:
        self.said.append(message)

    def track(self, items, description, total=None):
        for done, item in enumerate(items):
            training = not description.startswith("states")
            if training and done == self.kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            if training and done == self.stop_after:
                raise KeyboardInterrupt
            yield item


def train(how: str, backbone: Backbone, workspace: Workspace) -> tuple[dict[str, bytes], list[float]]:
    """Returns every trained byte, and the losses."""
    data = toy_data("sequence_classification", backbone)
    if how in ("joint", "multitask"):
        tasks = {"one": data, "two": toy_data("regression", backbone)}
        shared = train_shared(workspace, backbone, tasks, RECIPE, 0, full=how == "multitask", mixing=Mixing(checks=4))
        tensors = shared.encoder or {f"{n}.{i}": t for n, pair in shared.lora.items() for i, t in enumerate(pair)}
        return {name: _bytes(tensor) for name, tensor in tensors.items()}, [*shared.log.losses, *shared.held_out_losses]
    trained = (train_adapter if how == "adapter" else fine_tune)(workspace, backbone, data, RECIPE, 0)
    parameters = {name: _bytes(p) for name, p in trained.model.named_parameters() if "embeddings" not in name}
    assert (trained.log.steps, len(trained.log.losses)) == (STEPS, STEPS)
    return parameters, [*trained.log.losses, trained.log.rows, trained.log.tokens]


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().numpy().tobytes()


def unfinished(workspace: Workspace) -> list[Path]:
    return list(workspace.folder("unfinished").glob("*"))


@pytest.fixture(autouse=True)
def steps_of_several_pieces(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(batches._TOKENS_AT_ONCE, "cpu", TOKENS)  # dropout is drawn piece by piece


@pytest.mark.parametrize("how", ["adapter", "full", "joint", "multitask"])
def test_interrupted_training_ends_with_the_same_bytes(how: str, backbone: Backbone, workspace: Workspace, monkeypatch):
    expected = train(how, backbone, replace(workspace, home=workspace.home / "whole"))
    monkeypatch.setenv("ADAPTMTL_CHECKPOINT_SECONDS", "0")  # after every step
    for stop_after in (13, 4):  # the second counts from where the first ended
        with pytest.raises(KeyboardInterrupt):
            train(how, backbone, replace(workspace, reporter=Notes(stop_after=stop_after)))
        assert len(unfinished(workspace)) == 1
    notes = Notes()
    assert train(how, backbone, replace(workspace, reporter=notes)) == expected
    assert any(f"going on after step 17 of {STEPS}" in line for line in notes.said)
    assert unfinished(workspace) == []


def test_the_time_of_killed_processes_counts(backbone: Backbone, workspace: Workspace, monkeypatch):
    monkeypatch.setenv("ADAPTMTL_CHECKPOINT_SECONDS", "0")
    data = toy_data("sequence_classification", backbone)
    assert train_adapter(workspace, backbone, data, replace(RECIPE, steps=2), 0).log.earlier == (0.0, 0.0)
    started, spent = time.perf_counter(), []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train_adapter(replace(workspace, reporter=Notes(stop_after=8)), backbone, data, RECIPE, 0)
        spent.append(time.perf_counter() - started)
    wall, processor = train_adapter(workspace, backbone, data, RECIPE, 0).log.earlier
    assert 0 < wall < spent[1] and processor > 0
    cost = Cost(1.0, 2.0)
    cost.add((wall, processor), (0.0, 0.0))
    assert (cost.seconds, cost.cpu_seconds) == (1.0 + wall, 2.0 + processor)


def test_another_seed_recipe_or_start_does_not_go_on(backbone: Backbone, workspace: Workspace, monkeypatch):
    monkeypatch.setenv("ADAPTMTL_CHECKPOINT_SECONDS", "0")
    data = toy_data("sequence_classification", backbone)
    with pytest.raises(KeyboardInterrupt):
        train_adapter(replace(workspace, reporter=Notes(stop_after=5)), backbone, data, RECIPE, 0)
    weights = train_adapter(workspace, backbone, data, replace(RECIPE, steps=1), 0).weights or {}
    start = {name: (a.detach() + 1, b.detach()) for name, (a, b) in weights.items()}
    for seed, recipe, given in [(1, RECIPE, None), (0, replace(RECIPE, learning_rate=1e-3), None), (0, RECIPE, start)]:
        notes = Notes()
        train_adapter(replace(workspace, reporter=notes), backbone, data, recipe, seed, start=given)
        assert not any("going on" in line for line in notes.said)
    notes = Notes()
    train_adapter(replace(workspace, reporter=notes), backbone, data, RECIPE, 0)
    assert any("going on after step 5" in line for line in notes.said)


def test_a_damaged_checkpoint_is_left_aside(backbone: Backbone, workspace: Workspace, monkeypatch):
    expected = train("adapter", backbone, replace(workspace, home=workspace.home / "whole"))
    monkeypatch.setenv("ADAPTMTL_CHECKPOINT_SECONDS", "0")
    with pytest.raises(KeyboardInterrupt):
        train("adapter", backbone, replace(workspace, reporter=Notes(stop_after=9)))
    (path,) = unfinished(workspace)
    os.truncate(path, path.stat().st_size // 2)
    assert train("adapter", backbone, workspace) == expected


def test_killed_at_random_steps(backbone: Backbone, workspace: Workspace, tmp_path: Path):
    """The process is killed for good, twice, between two steps that nobody chose."""
    expected = train("adapter", backbone, replace(workspace, home=workspace.home / "whole"))
    seed = int(time.time())
    print(f"steps are drawn with seed {seed}")
    draw = random.Random(seed)
    for _ in range(2):
        step = draw.randrange(1, STEPS // 2)
        environment = {**os.environ, "ADAPTMTL_CHECKPOINT_SECONDS": "0", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, str(backbone.path), str(workspace.home), str(step)]
        assert subprocess.run(command, env=environment, timeout=120).returncode == -signal.SIGKILL
    assert len(unfinished(workspace)) == 1
    assert train("adapter", backbone, workspace) == expected


def test_killed_before_the_result_is_saved_nothing_is_trained_again(tmp_path, tiny_backbone, monkeypatch):
    from toy_tasks import toy_setup  # this file is a script as well

    setup = toy_setup(tmp_path / "tasks", tiny_backbone, tmp_path / "home", ["opinion"])
    (whole,) = train_adapters(replace(setup, workspace=replace(setup.workspace, home=tmp_path / "whole")), ["opinion"])
    monkeypatch.setenv("ADAPTMTL_CHECKPOINT_SECONDS", "0")
    with monkeypatch.context() as patch:
        patch.setattr("adaptmtl.zoo.build.evaluate", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_adapters(setup, ["opinion"])
    assert len(unfinished(setup.workspace)) == 1
    notes = Notes()
    (entry,) = train_adapters(replace(setup, workspace=replace(setup.workspace, reporter=notes)), ["opinion"])
    steps = setup.recipe.steps
    assert any(f"going on after step {steps} of {steps}" in line for line in notes.said)
    assert (entry.path / ADAPTER).read_bytes() == (whole.path / ADAPTER).read_bytes()
    assert unfinished(setup.workspace) == [] and entry.manifest().cost.steps == steps


if __name__ == "__main__":
    folder, home, step = sys.argv[1:]
    torch.set_num_threads(1)
    batches._TOKENS_AT_ONCE["cpu"] = TOKENS
    place = Workspace(home=Path(home), mirror=None, offline=True, reporter=Notes(kill_after=int(step)))
    train("adapter", resolve(folder, place), place)
