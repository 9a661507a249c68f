"""Measured transfers are kept whole, once, per backbone, and a target never sees its own."""

import multiprocessing
import os
import signal
import sqlite3
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from adaptmtl.errors import DataError, StorageError
from adaptmtl.tasks.spec import HubRows, TaskSpec
from adaptmtl.transfer.history import History, Transfer, as_recipe
from adaptmtl.transfer.sides import TargetSide
from adaptmtl.workspace import Workspace

ONE = Transfer("hash", "rte", ("mnli",), 0, 0.66, 0.6, "accuracy", 500, recipe=as_recipe(steps=60))


def test_what_is_recorded_comes_back_once(workspace):
    history = History(workspace)
    assert len(history.history("hash")) == 0 and not history.path.exists()
    assert history.record([ONE, replace(ONE, seed=1, score=0.72)], {"rte": np.arange(3.0)}) == 2
    assert history.record([ONE]) == 0
    found = history.history("hash")
    assert [(one.seed, one.score) for one in found.rows] == [(0, 0.66), (1, 0.72)]
    assert found.rows[0].sources == ("mnli",) and found.rows[0].created
    assert found.single == {("rte", "mnli"): pytest.approx((0.1 + 0.2) / 2)}
    assert found.embeddings["rte"].tolist() == [0.0, 1.0, 2.0]
    assert len(history.history("other")) == 0


def test_a_repeated_measurement_counts_with_its_last_value(workspace):
    history = History(workspace)
    history.record([ONE, replace(ONE, target="cb")])
    assert history.record([replace(ONE, score=0.9)]) == 1
    assert {one.target: one.score for one in history.history("hash").rows} == {"cb": 0.66, "rte": 0.9}


def test_sets_are_sorted_and_no_single_gain(workspace):
    history = History(workspace)
    history.record([replace(ONE, sources=("snli", "mnli"))])
    assert history.history("hash").rows[0].sources == ("mnli", "snli")
    assert history.history("hash").single == {}


def test_a_view_without_a_target_holds_nothing_of_it(workspace):
    history = History(workspace)
    history.record([ONE, replace(ONE, target="cb", score=0.3)], {"rte": np.ones(2), "cb": np.zeros(2)})
    view = history.history("hash").without("rte")
    assert view.targets == ("cb",) and set(view.embeddings) == {"cb"}
    assert view.gains_of("mnli") == {"cb": pytest.approx(-0.5)}


def test_an_estimator_sees_nothing_of_tasks_that_share_texts_with_the_target(workspace):
    specs = {
        name: TaskSpec(name=name, kind="regression", rows=(HubRows(id="none", columns={}),), overlaps=overlaps)
        for name, overlaps in (("rte", ()), ("rte_twin", ("rte",)), ("cb", ()))
    }
    History(workspace).record([ONE, replace(ONE, target="rte_twin"), replace(ONE, target="cb")])
    setup = SimpleNamespace(
        workspace=workspace, backbone=SimpleNamespace(hash="hash"), catalogue=SimpleNamespace(tasks=specs)
    )
    side = SimpleNamespace(setup=setup, data=SimpleNamespace(spec=specs["rte"]))
    assert TargetSide._history(side).targets == ("cb",)


def test_the_last_of_three_measurements_of_one_thing_counts_though_it_equals_the_first(workspace):
    history = History(workspace)
    for score in (0.6, 0.7, 0.6):
        assert history.record([replace(ONE, score=score)]) == 1
    assert history.record([replace(ONE, score=0.6)]) == 0
    assert [row.score for row in history.history("hash").rows] == [0.6]


def test_what_was_seen_is_not_lost_where_the_same_is_measured_without_reading(workspace):
    history = History(workspace)
    seen = replace(ONE, seen='{"probe": 1.0}')
    assert history.record([seen]) == 1 and history.record([replace(seen, seen="")]) == 0
    assert history.record([replace(seen, score=0.1, seen="")]) == 1
    (row,) = history.history("hash").rows
    assert (row.score, row.seen) == (0.1, seen.seen)


def test_rows_cannot_be_changed_or_deleted(workspace):
    history = History(workspace)
    history.record([ONE])
    with sqlite3.connect(history.path) as store:
        for command in ("DELETE FROM transfers", "UPDATE transfers SET score = 1"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                store.execute(command)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"score": float("nan")}, "nan"), ({"sources": ()}, r"\[\]"), ({"sources": ("rte",)}, r"\['rte'\]")],
)
def test_nonsense_is_refused_and_nothing_is_written(workspace, change, message):
    history = History(workspace)
    with pytest.raises(DataError, match=message):
        history.record([ONE, replace(ONE, **change)])
    assert len(history.history("hash")) == 0


def test_a_damaged_store_is_named(workspace):
    history = History(workspace)
    history.path.parent.mkdir(parents=True)
    history.path.write_bytes(b"not a database, not a database, not a database" * 40)
    for act in (lambda: history.history("hash"), lambda: history.record([ONE])):
        with pytest.raises(StorageError, match=r"history\.sqlite.*move the file away"):
            act()


def test_a_store_of_another_version_is_left_alone(workspace):
    history = History(workspace)
    history.record([ONE])
    with sqlite3.connect(history.path) as store:
        store.execute("PRAGMA user_version = 7")
    for act in (lambda: history.history("hash"), lambda: history.record([replace(ONE, seed=5)])):
        with pytest.raises(StorageError, match="version 7"):
            act()


def _write_for_ever(home, worker):
    history = History(Workspace(home=home))
    for number in range(10**6):
        history.record([replace(ONE, seed=1000 * worker + number, rows=part) for part in (1, 2, 3)])


def test_a_half_done_write_is_rolled_back_by_the_next_reader(workspace):
    """A killed writer leaves its journal beside pages that it had changed already."""
    import shutil

    history = History(workspace)
    history.record([ONE])
    store = sqlite3.connect(history.path)
    store.execute("PRAGMA cache_size = 1")
    store.execute("BEGIN IMMEDIATE")
    for number in range(2000):  # more than the cache holds, so that changed pages reach the file before the commit
        values = (str(number), "hash", "cb", '["mnli"]')
        store.execute("INSERT INTO transfers (digest, backbone, target, sources) VALUES (?, ?, ?, ?)", values)
    journal = history.path.with_name(history.path.name + "-journal")
    killed = Workspace(home=workspace.home.parent / "killed")
    History(killed).path.parent.mkdir(parents=True)
    for path in (history.path, journal):
        shutil.copy(path, History(killed).path.parent / path.name)
    store.rollback()
    store.close()
    assert [one.target for one in History(killed).history("hash").rows] == ["rte"]
    assert History(killed).record([replace(ONE, seed=3)]) == 1


def test_killed_writers_leave_whole_batches(workspace):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_for_ever, args=(workspace.home, number)) for number in range(2)]
    for worker in workers:
        worker.start()
    history = History(workspace)
    while len(history.history("hash")) < 12:
        time.sleep(0.02)
    for worker in workers:
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
    seen = {}
    for one in history.history("hash").rows:
        seen.setdefault(one.seed, []).append(one.rows)
    assert all(parts == [1, 2, 3] for parts in seen.values())
    assert history.record([ONE]) == 1
