"""Several processes that train one adapter together end with what one process would have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_tasks import write_task

TESTS = Path(__file__).parents[1]
SCRIPT = '''
import json, os, sys
from dataclasses import replace
from pathlib import Path
import torch
from safetensors.torch import save_file
from toy_tasks import toy_setup
from adaptmtl.training.adapter import train_adapter
from adaptmtl.training.multitask import train_shared

folder, backbone, home, dropout, dies = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), *map(float, sys.argv[4:])

class Dying:
    """Ends the process in the middle of a training, as a kill does."""

    def say(self, message):
        print(message, flush=True)

    def track(self, items, description, total=None):
        for number, item in enumerate(items):
            if number == dies:
                os._exit(1)
            yield item

setup = toy_setup(folder, backbone, home, ("opinion", "nouns"))
setup = replace(setup, recipe=replace(setup.recipe, head_dropout=dropout, batch_size=7))
workspace = replace(setup.workspace, reporter=Dying())
parts = {name: setup.data(name) for name in ("opinion", "nouns")}
found, seen = {}, {}
for name, data in parts.items():
    trained = train_adapter(workspace, setup.backbone, data, setup.recipe, 0)
    found |= {f"{name}.{layer}.{i}": t for layer, pair in trained.weights.items() for i, t in enumerate(pair)}
    seen[name] = [trained.log.steps, trained.log.rows, trained.log.tokens, trained.log.losses]
shared = train_shared(workspace, setup.backbone, parts, setup.recipe, 0, full=False)
found |= {f"shared.{layer}.{i}": t for layer, pair in shared.lora.items() for i, t in enumerate(pair)}
seen["shared"] = [shared.log.steps, shared.log.rows, shared.log.tokens, shared.log.losses]
rank = os.environ.get("RANK", "alone")
save_file({name: t.detach().contiguous().clone() for name, t in found.items()}, home / f"{rank}.safetensors")
(home / f"{rank}.json").write_text(json.dumps(seen))
'''


def run(*arguments: str, processes: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in one process, or, as ``accelerate launch`` does, in several that talk over the loopback."""
    start = [sys.executable]
    if processes:
        start += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--rdzv-backend=c10d",
                  "--rdzv-endpoint=127.0.0.1:0", "--no-python", sys.executable]  # fmt: skip
    known = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(TESTS), **environment}
    return subprocess.run([*start, *arguments], env=known, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for name in ("opinion", "nouns"):
        write_task(folder, name)
    return folder


@pytest.fixture
def train(tmp_path: Path, tasks: Path, tiny_backbone: str):
    """Trains two adapters and one that two tasks share, in a home of that name."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def call(name: str, processes: int = 0, dropout: float = 0.0, dies: int = -1, **environment: str):
        home = tmp_path / name
        home.mkdir(exist_ok=True)
        given = (str(script), str(tasks), tiny_backbone, str(home), str(dropout), str(dies))
        return home, run(*given, processes=processes, **environment)

    return call


def test_two_processes_train_what_one_does(train):
    one, alone = train("one")
    assert alone.returncode == 0, alone.stderr
    two, both = train("two", processes=2)
    assert both.returncode == 0, both.stderr
    expected, seen = json.loads((one / "alone.json").read_text()), json.loads((two / "0.json").read_text())
    assert seen == json.loads((two / "1.json").read_text())
    weights = [load_file(two / f"{rank}.safetensors") for rank in (0, 1)]
    for name, tensor in load_file(one / "alone.safetensors").items():
        assert torch.equal(weights[0][name], weights[1][name])
        torch.testing.assert_close(weights[0][name], tensor, rtol=1e-3, atol=2e-5)
    for name, (steps, rows, tokens, losses) in expected.items():
        assert seen[name][:3] == [steps, rows, tokens]
        assert seen[name][3] == pytest.approx(losses, rel=1e-4)


def test_killed_processes_go_on_together(train):
    whole, first = train("whole", processes=2, dropout=0.1)
    assert first.returncode == 0, first.stderr
    home, killed = train("killed", processes=2, dropout=0.1, dies=4, ADAPTMTL_CHECKPOINT_SECONDS="0")
    assert killed.returncode != 0 and len(list((home / "unfinished").glob("*-of-2.safetensors"))) == 2
    _, again = train("killed", processes=2, dropout=0.1)
    assert again.returncode == 0 and "going on after step 4" in again.stdout, again.stderr
    assert (home / "0.safetensors").read_bytes() == (whole / "0.safetensors").read_bytes()
    other, killed = train("other", processes=2, dropout=0.1, dies=4, ADAPTMTL_CHECKPOINT_SECONDS="0")
    next((other / "unfinished").glob("*.1-of-2.safetensors")).unlink()  # as if killed between the two writes
    _, anew = train("other", processes=2, dropout=0.1)
    assert anew.returncode == 0 and "going on after" not in anew.stdout
    assert (other / "0.safetensors").read_bytes() == (whole / "0.safetensors").read_bytes()


def test_a_command_in_two_processes_speaks_once(tmp_path: Path, tasks: Path, tiny_backbone: str):
    given = ["--task-file", str(tasks), "--home", str(tmp_path), "--offline", "--backbone", tiny_backbone]
    command = ["-m", "adaptmtl", "train-adapters", "--tasks", "opinion,nouns", "--steps", "2", "--json", *given]
    both = run(*command, processes=2)
    assert both.returncode == 0, both.stderr
    assert [row["task"] for row in json.loads(both.stdout)] == ["opinion", "nouns"]
    assert len(list((tmp_path / "zoo" / "adapters").iterdir())) == 2
