import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from small_bundles import bundle_of

from adaptmtl.adapters.bundle import ADAPTER, CARD, FILES, HEAD
from adaptmtl.adapters.manifest import MANIFEST
from adaptmtl.errors import AdapterError, AdaptMTLError, StorageError, UnknownNameError
from adaptmtl.workspace import Workspace
from adaptmtl.zoo.store import Zoo


def keys(zoo):
    return {one.key for one in zoo.entries()}


@pytest.fixture
def filled(zoo):
    for task in ("boolq", "rte", "wic"):
        for seed in (0, 1):
            zoo.add(bundle_of(task, seed))
    return zoo


def test_an_added_adapter_is_listed_and_loads(zoo):
    bundle = bundle_of()
    entry = zoo.add(bundle)
    assert entry.path == zoo.adapters / bundle.manifest.key
    assert {path.name for path in entry.path.iterdir()} == set(FILES)
    assert (entry.task, entry.kind, entry.method, entry.seed) == ("boolq", "sequence_classification", "lora", 0)
    assert (entry.backbone, entry.backbone_hash, entry.train_rows) == ("tiny/bert", "b" * 20, 1200)
    assert entry.metrics[entry.metric] == {"value": 0.75, "n": 40, "low": 0.6, "high": 0.86}
    assert entry.created == "2026-01-02T03:04:05+00:00" and entry.problem is None
    assert zoo.entries() == (entry,) == zoo.entries()
    assert all(torch.equal(bundle.adapter[key], value) for key, value in entry.load().adapter.items())
    assert entry.manifest().name in (entry.path / CARD).read_text()


def test_an_empty_zoo_makes_no_files(zoo, workspace):
    assert zoo.entries() == () and zoo.problems() == () and zoo.aliases() == {} and zoo.find(task="x") == ()
    with pytest.raises(UnknownNameError, match="the zoo is empty"):
        zoo.get("boolq")
    assert not workspace.home.exists()


def test_adding_twice_keeps_the_first(zoo):
    first = zoo.add(bundle_of())
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in first.path.iterdir()}
    assert zoo.add(bundle_of()) == first
    assert {path.name: (path.stat().st_ino, path.read_bytes()) for path in first.path.iterdir()} == before
    assert [path.name for path in zoo.adapters.iterdir()] == [first.key]


def test_adding_again_mends_a_damaged_adapter_and_keeps_the_damaged_one_aside(zoo):
    entry = zoo.add(bundle_of())
    (entry.path / HEAD).write_bytes(b"damaged")
    assert zoo.add(bundle_of()).load().manifest.key == entry.key
    (aside,) = (zoo.adapters.parent / "damaged").iterdir()
    assert (aside / HEAD).read_bytes() == b"damaged" and aside.name.startswith(entry.key)


def test_find_filters_on_what_is_given(filled):
    assert len(filled.find()) == 6
    assert {one.seed for one in filled.find(task="rte")} == {0, 1}
    assert [one.task for one in filled.find(seed=1)] == ["boolq", "rte", "wic"]
    assert [one.task for one in filled.find(task="wic", seed=0, method="lora", kind="sequence_classification")] == [
        "wic"
    ]
    assert filled.find(backbone_hash="c" * 20) == () == filled.find(method="fused") == filled.find(kind="regression")


def test_get_by_name_key_alias_and_unique_beginning(filled):
    (entry,) = filled.find(task="rte", seed=1)
    filled.alias("best", entry.name)
    for name in (entry.name, entry.key, entry.key[:7], entry.name[:-1], "best", "bes"):
        assert filled.get(name) == entry, name


def test_get_names_the_candidates_or_the_nearest(filled):
    with pytest.raises(AdaptMTLError, match=r"adapter 'rte' could be rte-lora-.*, rte-lora-.*: give more") as caught:
        filled.get("rte")
    assert all(one.key in str(caught.value) for one in filled.find(task="rte"))
    (entry,) = filled.find(task="boolq", seed=0)
    with pytest.raises(UnknownNameError, match=f"did you mean {entry.name}"):
        filled.get(entry.name.replace("boolq", "bolq"))
    for name in ("", "../adapters", "/", "%"):
        with pytest.raises(UnknownNameError):
            filled.get(name)


def test_aliases_move_are_checked_and_go_with_their_adapter(filled):
    first, second = filled.find(task="wic")
    filled.alias("best", first.key)
    filled.alias("best", second.key)
    assert filled.aliases() == {"best": second.key} and filled.get("best") == second
    for name in ("", ".hidden", "../up", "a/b", "x" * 200, "new\nline"):
        with pytest.raises(AdaptMTLError, match="cannot be an alias"):
            filled.alias(name, first.key)
    with pytest.raises(AdaptMTLError, match="is the name of adapter"):
        filled.alias(second.name, first.key)
    with pytest.raises(UnknownNameError):
        filled.alias("other", "nothing")
    filled.remove("best")
    assert filled.aliases() == {} and second.key not in keys(filled) and not second.path.exists()
    with pytest.raises(UnknownNameError):
        filled.get("best")
    (filled.names / "stray").write_bytes(b"\xff../../etc")
    assert filled.aliases() == {}


def test_an_adapter_is_removed_by_its_whole_name_only(filled, tmp_path):
    entry = next(one for one in filled.entries() if one.task == "rte")
    with pytest.raises(UnknownNameError, match=f"did you mean .*{entry.name}"):
        filled.remove(entry.name[:-1])
    assert filled.get(entry.name[:-1]) == entry, "to look at it, the beginning is enough"
    filled.alias("mine", entry.key)
    elsewhere = tmp_path / "elsewhere"
    entry.path.rename(elsewhere)
    entry.path.symlink_to(elsewhere)
    assert filled.remove("mine").key == entry.key and entry.key not in keys(filled) and filled.aliases() == {}
    assert (elsewhere / ADAPTER).exists(), "what a link points to is not the zoo's"


@pytest.mark.parametrize("harm", ["absent", "empty", "garbage", "truncated", "other version", "rows changed", "half"])
def test_an_index_that_is_missing_or_corrupt_is_made_again(filled, harm):
    path, truth = filled.adapters.parent / "index.sqlite", filled.entries()
    raw = path.read_bytes()
    if harm == "absent":
        path.unlink()
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "garbage":
        path.write_bytes(random.Random(0).randbytes(5000))
    elif harm == "truncated":
        path.write_bytes(raw[:4500])
    elif harm == "half":
        path.write_bytes(raw[:100] + bytes(len(raw) - 100))
    else:
        statement = "PRAGMA user_version = 99" if harm == "other version" else "UPDATE entries SET record = '{}'"
        with sqlite3.connect(path) as connection:
            connection.execute(statement)
        connection.close()
    assert filled.entries() == truth
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT count(*) FROM entries").fetchone() == (6,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_randomly_damaged_index_never_gives_a_wrong_listing(filled):
    path, truth = filled.adapters.parent / "index.sqlite", filled.entries()
    draw = random.Random(1)
    for _ in range(60):
        raw = bytearray(path.read_bytes())
        for _ in range(draw.choice((1, 4, 40))):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        path.write_bytes(raw)
        assert filled.entries() == truth


def test_the_index_is_read_instead_of_the_manifests(filled, monkeypatch):
    truth = filled.entries()
    monkeypatch.setattr("adaptmtl.zoo.index.read_manifest", lambda folder: pytest.fail(f"read {folder}"))
    assert Zoo(Workspace(home=filled.adapters.parents[1], mirror=None)).entries() == truth


def test_folders_that_appear_or_vanish_are_noticed(filled, tmp_path):
    other = Zoo(Workspace(home=tmp_path / "other", mirror=None))
    entry = other.add(bundle_of("copa", 3))
    shutil.copytree(entry.path, filled.adapters / entry.key)
    assert entry.key in keys(filled) and filled.get("copa").path == filled.adapters / entry.key
    shutil.rmtree(filled.adapters / entry.key)
    assert entry.key not in keys(filled) and len(filled.entries()) == 6


def test_a_home_that_was_moved_is_listed_at_its_new_place(filled, tmp_path):
    filled.entries()
    shutil.move(filled.adapters.parents[1], tmp_path / "moved")
    moved = Zoo(Workspace(home=tmp_path / "moved", mirror=None))
    assert all(one.path.parent == moved.adapters and one.load() for one in moved.entries())


@pytest.mark.parametrize("harm", ["no manifest", "broken manifest", "file gone", "other name"])
def test_a_damaged_folder_is_set_apart_with_its_problem_and_stays(filled, harm):
    (entry,) = filled.find(task="wic", seed=1)
    filled.entries()
    folder = entry.path
    if harm == "no manifest":
        (folder / MANIFEST).unlink()
    elif harm == "broken manifest":
        (folder / MANIFEST).write_text("{")
    elif harm == "file gone":
        (folder / ADAPTER).unlink()
    else:
        folder = folder.rename(filled.adapters / "wic-by-hand")
    assert len(filled.entries()) == 5
    (problem,) = filled.problems()
    assert problem.path == folder and str(folder) in problem.problem and "\n" not in problem.problem
    with pytest.raises(AdapterError) as caught:
        filled.get(folder.name)
    assert str(caught.value) == problem.problem
    assert folder.is_dir()
    filled.remove(folder.name)
    assert filled.problems() == () and not folder.exists()


def test_a_zoo_that_cannot_be_written_is_still_read(filled, monkeypatch):
    truth = filled.entries()
    (filled.adapters.parent / "index.sqlite").unlink()

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("adaptmtl.zoo.index.Index._lock", refuse)
    assert filled.entries() == truth
    assert not (filled.adapters.parent / "index.sqlite").exists()


def test_leftovers_of_killed_writes_are_cleaned_after_a_day(zoo):
    zoo.add(bundle_of())
    old, young = zoo.adapters / ".partial-old", zoo.adapters / ".partial-young"
    for place in (old, young):
        place.mkdir()
        (place / "x").write_text("x")
    os.utime(old, (time.time() - 90_000,) * 2)
    assert len(zoo.entries()) == 1 and zoo.problems() == ()
    zoo.add(bundle_of(seed=1))
    assert not old.exists() and young.exists()


def test_a_full_disk_leaves_no_adapter(zoo, monkeypatch):
    def fsync(handle):
        raise OSError(28, "No space left on device")

    zoo.add(bundle_of(seed=1))
    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(StorageError, match="disk full"):
        zoo.add(bundle_of())
    monkeypatch.undo()
    assert [path.name for path in zoo.adapters.iterdir()] == [bundle_of(seed=1).manifest.key]
    assert zoo.add(bundle_of()).load()


def test_an_adopted_folder_is_copied_byte_for_byte_and_verified_first(zoo, tmp_path):
    other = Zoo(Workspace(home=tmp_path / "other", mirror=None))
    entry = other.add(bundle_of())
    (entry.path / "notes.pkl").write_bytes(b"\x80\x04.")
    adopted = zoo.adopt(entry.path)
    assert {path.name for path in adopted.path.iterdir()} == set(FILES)
    for name in FILES:
        assert (adopted.path / name).read_bytes() == (entry.path / name).read_bytes()
    damaged = other.add(bundle_of(seed=1))
    (damaged.path / HEAD).write_bytes(b"x")
    with pytest.raises(AdapterError, match="was changed or truncated"):
        zoo.adopt(damaged.path)
    assert keys(zoo) == {entry.key} and len(list(zoo.adapters.iterdir())) == 1


def test_many_threads_add_the_same_and_different_adapters(zoo, workspace):
    def work(number):
        return Zoo(workspace).add(bundle_of(seed=number % 4)).key

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(work, range(24)))
    assert keys(zoo) == set(made) and len(set(made)) == 4
    assert {path.name for path in zoo.adapters.iterdir()} == set(made)
    assert all(one.load() for one in zoo.entries())


FORK = multiprocessing.get_context("fork")  # the weights are made before: a child only writes


def fill(home, bundles, started):
    zoo = Zoo(Workspace(home=home, mirror=None))
    started.set()
    for bundle in bundles:
        zoo.add(bundle)
        zoo.entries()


def writer(home, bundles):
    started = FORK.Event()
    process = FORK.Process(target=fill, args=(home, bundles, started), daemon=True)
    process.start()
    assert started.wait(30)
    return process


def test_a_killed_writer_leaves_a_valid_zoo(zoo, workspace):
    draw = random.Random(4)
    bundles = [bundle_of(seed=seed) for seed in range(60)]
    cut_short = 0
    for _ in range(12):
        before = keys(zoo)
        process = writer(workspace.home, bundles)
        time.sleep(0.12 * draw.random())
        process.kill()
        process.join()
        cut_short += process.exitcode == -signal.SIGKILL
        assert zoo.problems() == () and before <= keys(zoo)
        assert all(one.load() for one in zoo.entries())
    assert cut_short
    for bundle in bundles:
        zoo.add(bundle)
    assert len(keys(zoo)) == 60 and zoo.problems() == ()


def test_several_processes_write_and_list_at_once(zoo, workspace):
    bundles = [bundle_of(seed=seed) for seed in range(40)]
    processes = [writer(workspace.home, bundles[first : first + 20]) for first in (0, 10, 20)]
    while any(process.is_alive() for process in processes):
        assert zoo.problems() == ()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert keys(zoo) == {bundle.manifest.key for bundle in bundles}
