"""Any command may be killed at any moment: the same command afterwards ends as if nothing had happened."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_tasks import write_task

from adaptmtl.adapters.bundle import ADAPTER, HEAD
from adaptmtl.cli.main import main
from adaptmtl.workspace import Workspace
from adaptmtl.zoo.store import Zoo

SOURCES = ("mood", "colour")
TRAIN = ["train-adapters", "--tasks", "mood,colour", "--seeds", "2"]
TRANSFER = ["transfer", "--target", "opinion", "--json"]
FUSE = ["fuse", "--target", "opinion", "--sources", "mood,colour", "--json"]
CHECK = ["check", "--target", "opinion", "--sources", "mood", "--seeds", "2", "--json",
         "--arms", "target_adapter,fused,multitask_chosen"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_backbone):
    """Tasks, and a home with the sources' adapters."""
    folder = tmp_path_factory.mktemp("kills")
    (folder / "tasks").mkdir()
    for name in ("opinion", *SOURCES):
        write_task(folder / "tasks", name)
    assert main([*TRAIN, "--quiet", *options(folder, tiny_backbone, folder / "home")]) == 0
    return folder


def options(place, backbone, home):
    return ["--task-file", str(place / "tasks"), "--backbone", backbone, "--steps", "15", "--max-length", "32",
            "--rank", "2", "--lower-layers", "2", "--home", str(home), "--offline"]  # fmt: skip


def run_in_process(capsys, arguments):
    capsys.readouterr()
    status = main(arguments)
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def weights(home: Path) -> dict[str, str]:
    """sha256 of every adapter and head in a home's zoo, all of which must be sound."""
    zoo = Zoo(Workspace(home=home, mirror=None, offline=True))
    assert zoo.problems() == ()
    found = {}
    for entry in zoo.entries():
        entry.load()
        for file in (ADAPTER, HEAD):
            found[f"{entry.key}/{file}"] = hashlib.sha256((entry.path / file).read_bytes()).hexdigest()
    return found


def figures(out: str) -> object:
    """The numbers of a result, without times and paths."""
    if not out.lstrip().startswith("{"):
        return None
    value = json.loads(out)
    if "arms" in value:
        return [(arm["name"], arm["values"], arm["p_value"], arm["tokens"]) for arm in value["arms"]]
    if "past_targets" in value:
        return [(one["task"], one["scores"], one["gain"]) for one in value["sources"]]
    return value["metrics"]


def kill(arguments, home: Path, appears: str, delay: float, how: int) -> bool:
    """Starts a command and ends it ``delay`` seconds after a path that fits the pattern has appeared below ``home``.

    Returns:
        Whether it was still at work then.
    """
    before = set(home.glob(appears))
    command = [sys.executable, "-m", "adaptmtl.cli.main", *arguments, "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    deadline, seen = time.monotonic() + 90, False
    while running.poll() is None and not seen and time.monotonic() < deadline:
        time.sleep(0.002)
        seen = bool(set(home.glob(appears)) - before)
    assert seen or set(home.glob(appears)) - before or ".partial-" in appears, f"no {appears} was ever made"
    time.sleep(delay)
    running.send_signal(how)
    out, err = running.communicate(timeout=60)
    if running.returncode == 0 or (running.returncode == -signal.SIGINT and out):  # it had ended, or all but
        return False
    assert running.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL), err
    if how == signal.SIGINT:
        assert (out, err.strip()) == ("", "interrupted; run the same command again to go on")
    return True


def go(capsys, place, backbone, tmp_path, arguments, appears, how, seed, start_with_sources=True):
    reference, killed = tmp_path / "reference", tmp_path / "killed"
    for home in (reference, killed):
        if start_with_sources:
            shutil.copytree(place / "home" / "zoo", home / "zoo")
    expected = run_in_process(capsys, [*arguments, "--quiet", *options(place, backbone, reference)])
    given = [*arguments, *options(place, backbone, killed)]
    for delay in (random.Random(seed).uniform(0, 0.3), 0.0):  # the machine may be too fast for the first one
        if kill(given, killed, appears, delay, how):
            break
        shutil.rmtree(killed)
        if start_with_sources:
            shutil.copytree(place / "home" / "zoo", killed / "zoo")
    else:
        pytest.fail(f"the command ended before it could be killed at {appears}, twice")
    partial = weights(killed)  # whatever is listed is sound
    again = run_in_process(capsys, [*given, "--quiet"])
    assert weights(killed) == weights(reference)
    assert partial.items() <= weights(reference).items()
    assert figures(again) == figures(expected)
    for folder in ("checks", "shared", "zoo/adapters"):
        names = {path.name for path in (killed / folder).glob("[!.]*")}
        assert names == {path.name for path in (reference / folder).glob("[!.]*")}


def test_training_killed_while_it_writes_its_first_adapter(capsys, place, tiny_backbone, tmp_path):
    go(capsys, place, tiny_backbone, tmp_path, TRAIN, "zoo/adapters/.partial-*", signal.SIGKILL, 0, False)


@pytest.mark.slow
def test_check_interrupted_between_arms(capsys, place, tiny_backbone, tmp_path):
    go(capsys, place, tiny_backbone, tmp_path, CHECK, "checks/*", signal.SIGINT, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "appears", "how"),
    [
        (TRAIN, "rows/*", signal.SIGKILL),
        (TRAIN, "states/*", signal.SIGKILL),
        (TRAIN, "zoo/adapters/[!.]*", signal.SIGINT),
        (TRANSFER, "estimates/*", signal.SIGKILL),
        (TRANSFER, "states/*", signal.SIGINT),
        (FUSE, "zoo/adapters/.partial-*", signal.SIGKILL),
        (FUSE, "states/*/states.json", signal.SIGINT),
        (CHECK, "shared/.partial-*", signal.SIGKILL),
        (CHECK, "checks/.partial-*", signal.SIGKILL),
    ],
)
def test_every_command_at_other_moments(capsys, place, tiny_backbone, tmp_path, arguments, appears, how):
    fresh = arguments is TRAIN
    go(capsys, place, tiny_backbone, tmp_path, arguments, appears, how, len(appears) + int(how), not fresh)
