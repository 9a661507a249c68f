from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_architectures import ROWS, encoded_rows, lower_states, write_architecture

from adaptmtl.backbone import states as module
from adaptmtl.backbone.load import Backbone, resolve
from adaptmtl.backbone.states import (
    CachedStates,
    DeviceStates,
    RecomputedStates,
    pad_tokens,
    padded_length,
    states_of,
    token_batches,
)
from adaptmtl.errors import AdaptMTLError, StorageError
from adaptmtl.workspace import Silent, Workspace

CPU = torch.device("cpu")
BackboneOf = Callable[[str], Backbone]


@dataclass
class Notes(Silent):
    said: list[str] = field(default_factory=list)

    def say(self, message: str) -> None:
        self.said.append(message)


def folders(workspace: Workspace) -> list[Path]:
    root = workspace.folder("states")
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def only_folder(workspace: Workspace) -> Path:
    (folder,) = folders(workspace)
    return folder


def age(folder: Path, seconds: float) -> None:
    when = time.time() - seconds
    for path in (folder / "states.json", folder):
        if path.exists():
            os.utime(path, (when, when))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cached_states_are_those_of_the_lower_layers(dtype, backbone_of: BackboneOf, workspace: Workspace, monkeypatch):
    backbone = backbone_of("bert")
    encoded = encoded_rows(backbone)
    everything = np.arange(encoded.n_features)
    cached = states_of(workspace, backbone, encoded, 2, dtype, CPU)
    assert isinstance(cached, CachedStates)
    monkeypatch.setenv("ADAPTMTL_STATES_GIB", "0")
    recomputed = states_of(Workspace(workspace.home / "other", None, True), backbone, encoded, 2, dtype, CPU)
    assert isinstance(recomputed, RecomputedStates)
    longest = padded_length(int(encoded.lengths.max()), dtype)  # as they were computed
    assert torch.equal(cached.batch(everything, longest), recomputed.batch(everything, longest))
    assert torch.equal(CachedStates(cached.values, cached.offsets).batch(everything, 32), cached.batch(everything, 32))
    assert torch.equal(DeviceStates(cached, CPU).batch(everything, 32), cached.batch(everything, 32))
    exact = lower_states(backbone, encoded, 2)
    torch.testing.assert_close(
        cached.batch(everything, 32), exact, atol=1e-5 if dtype == torch.float32 else 0.2, rtol=0
    )
    some = np.array([3, 1])  # other neighbours and another padding: only the order of additions may differ
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(cached.batch(some, 16), recomputed.batch(some, 16), atol=tolerance, rtol=0)
    assert cached.batch(some, 48)[:, 16:].abs().sum() == 0


def test_a_second_request_computes_nothing(backbone_of: BackboneOf, workspace: Workspace, monkeypatch):
    backbone = backbone_of("bert")
    encoded = encoded_rows(backbone)
    first = states_of(workspace, backbone, encoded, 1, torch.float32, CPU)
    monkeypatch.setattr(module, "_compute", lambda *_: pytest.fail("computed again"))
    again = states_of(workspace, backbone, encoded_rows(backbone), 1, torch.float32, CPU)
    assert np.array_equal(first.values, again.values)


def test_states_depend_on_rows_weights_layers_and_dtype(backbone_of: BackboneOf, workspace: Workspace, tmp_path: Path):
    backbone = backbone_of("bert")
    other = resolve(str(write_architecture("bert", tmp_path / "other", seed=1)), workspace)
    assert other.hash != backbone.hash
    encoded, changed = encoded_rows(backbone), encoded_rows(backbone, (*ROWS[:3], {**ROWS[3], "text": "four songs"}))
    states_of(workspace, backbone, encoded, 1, torch.float32, CPU)
    for number, asked in enumerate(
        [
            (backbone, changed, 1, torch.float32),
            (other, encoded, 1, torch.float32),
            (backbone, encoded, 2, torch.float32),
            (backbone, encoded, 1, torch.bfloat16),
        ]
    ):
        states_of(workspace, *asked, CPU)
        assert len(folders(workspace)) == number + 2


@pytest.mark.parametrize("damage", ["truncated", "deleted", "foreign", "no description"])
def test_damaged_states_are_made_again(damage: str, backbone_of: BackboneOf, workspace: Workspace):
    backbone = backbone_of("bert")
    encoded = encoded_rows(backbone)
    expected = np.array(states_of(workspace, backbone, encoded, 1, torch.float32, CPU).values)
    folder = only_folder(workspace)
    binary, description = folder / "states.bin", folder / "states.json"
    if damage == "truncated":
        os.truncate(binary, binary.stat().st_size // 2)
    elif damage == "deleted":
        binary.unlink()
    elif damage == "foreign":
        description.write_text('{"hello": 1}')
    else:
        description.unlink()
    again = states_of(workspace, backbone, encoded, 1, torch.float32, CPU)
    assert np.array_equal(again.values, expected)
    assert only_folder(workspace) == folder and binary.stat().st_size == expected.nbytes


def test_the_cache_stays_within_its_limit(backbone_of: BackboneOf, workspace: Workspace, monkeypatch):
    backbone = backbone_of("bert")
    encoded = encoded_rows(backbone)
    size = encoded.n_tokens * backbone.hidden_size * 4
    monkeypatch.setenv("ADAPTMTL_STATES_GIB", str(2.5 * size / 2**30))
    made = []
    for k in (1, 2):
        states_of(workspace, backbone, encoded, k, torch.float32, CPU)
        made.append(next(folder for folder in folders(workspace) if folder not in made))
    age(made[0], 500)
    age(made[1], 1000)
    states_of(workspace, backbone, encoded, 3, torch.float32, CPU)
    kept = folders(workspace)
    assert made[0] in kept and made[1] not in kept and len(kept) == 2
    states_of(workspace, backbone, encoded, 1, torch.float32, CPU)  # in use again: now the youngest
    assert (made[0] / "states.json").stat().st_mtime > time.time() - 100


def test_a_damaged_folder_that_is_asked_for_is_no_victim(backbone_of: BackboneOf, workspace: Workspace, monkeypatch):
    backbone = backbone_of("bert")
    encoded = encoded_rows(backbone)
    size = encoded.n_tokens * backbone.hidden_size * 4
    monkeypatch.setenv("ADAPTMTL_STATES_GIB", str(1.5 * size / 2**30))
    states_of(workspace, backbone, encoded, 1, torch.float32, CPU)
    age(only_folder(workspace), 1000)
    again = states_of(workspace, backbone, encoded, 1, torch.float32, CPU)
    assert again.values.shape == (encoded.n_tokens, 32)
    states_of(workspace, backbone, encoded, 1, torch.float32, CPU)
    assert len(folders(workspace)) == 1


def test_what_killed_runs_left_is_removed_when_old(backbone_of: BackboneOf, workspace: Workspace):
    backbone = backbone_of("bert")
    old, young = (workspace.folder("states", f".partial-{name}") for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "states.bin").write_bytes(bytes(10))
    age(old, 2 * 24 * 3600)
    states_of(workspace, backbone, encoded_rows(backbone), 1, torch.float32, CPU)
    assert not old.exists() and young.exists()


def test_two_that_want_the_same_states_compute_them_once(backbone_of: BackboneOf, workspace: Workspace, monkeypatch):
    backbone, real, made = backbone_of("bert"), module._compute, []

    def slow(*given: object) -> None:
        made.append(given[0])
        time.sleep(0.3)
        real(*given)

    monkeypatch.setattr(module, "_compute", slow)
    encoded = encoded_rows(backbone)
    with ThreadPoolExecutor(3) as pool:
        wanted = [pool.submit(states_of, workspace, backbone, encoded, 1, torch.float32, CPU) for _ in range(3)]
        found = [one.result() for one in wanted]
    assert len(made) == 1 and all(np.array_equal(one.values, found[0].values) for one in found)


def test_states_that_another_process_evicts_are_made_again(backbone_of: BackboneOf, workspace: Workspace, monkeypatch):
    backbone, real, gone = backbone_of("bert"), module._opened, []
    encoded = encoded_rows(backbone)
    expected = np.array(states_of(workspace, backbone, encoded, 1, torch.float32, CPU).values)

    def evicted(folder: Path, *given: object) -> CachedStates:
        if not gone:
            gone.append(shutil.rmtree(folder))
        return real(folder, *given)

    monkeypatch.setattr(module, "_opened", evicted)
    assert np.array_equal(states_of(workspace, backbone, encoded, 1, torch.float32, CPU).values, expected)
    gone.clear()
    monkeypatch.setattr(module, "_opened", lambda folder, *_: (folder / "none").stat())
    with pytest.raises(StorageError, match="vanish as soon as they are made: raise ADAPTMTL_STATES_GIB"):
        states_of(workspace, backbone, encoded, 1, torch.float32, CPU)


def test_a_limit_that_is_no_number_is_told(backbone_of: BackboneOf, workspace: Workspace, monkeypatch):
    monkeypatch.setenv("ADAPTMTL_STATES_GIB", "8GB")
    backbone = backbone_of("bert")
    with pytest.raises(AdaptMTLError, match=r"ADAPTMTL_STATES_GIB is '8GB': give a number, such as 8, or unset it"):
        states_of(workspace, backbone, encoded_rows(backbone), 1, torch.float32, CPU)


def test_unfinished_states_count_and_stay(backbone_of: BackboneOf, workspace: Workspace, monkeypatch):
    backbone, encoded = backbone_of("bert"), encoded_rows(backbone_of("bert"))
    states_of(workspace, backbone, encoded, 1, torch.float32, CPU)
    age(only_folder(workspace), 60)
    size = (only_folder(workspace) / "states.bin").stat().st_size
    partial = workspace.folder("states", ".partial-other")
    partial.mkdir()
    (partial / "states.bin").write_bytes(bytes(size))
    monkeypatch.setenv("ADAPTMTL_STATES_GIB", str(2.5 * size / 2**30))
    states_of(workspace, backbone, encoded, 2, torch.float32, CPU)
    assert partial in folders(workspace) and len(folders(workspace)) == 2, "the older states had to make room"


def test_states_over_the_limit_are_recomputed_and_it_is_said(
    backbone_of: BackboneOf, workspace: Workspace, monkeypatch
):
    backbone, notes = backbone_of("bert"), Notes()
    monkeypatch.setenv("ADAPTMTL_STATES_GIB", "1e-6")
    states = states_of(replace(workspace, reporter=notes), backbone, encoded_rows(backbone), 1, torch.float32, CPU)
    assert isinstance(states, RecomputedStates) and not folders(workspace)
    assert len(notes.said) == 1 and "ADAPTMTL_STATES_GIB" in notes.said[0]


def test_on_a_full_disk_states_are_recomputed_and_it_is_said(
    backbone_of: BackboneOf, workspace: Workspace, monkeypatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    backbone, notes = backbone_of("bert"), Notes()
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    states = states_of(replace(workspace, reporter=notes), backbone, encoded_rows(backbone), 1, torch.float32, CPU)
    assert isinstance(states, RecomputedStates) and not folders(workspace)
    assert len(notes.said) == 1 and "has room for" in notes.said[0]


def test_space_is_reserved_where_the_system_has_no_call_for_it(
    backbone_of: BackboneOf, workspace: Workspace, monkeypatch
):
    backbone = backbone_of("bert")
    encoded = encoded_rows(backbone)
    expected = np.array(states_of(workspace, backbone, encoded, 1, torch.float32, CPU).values)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    other = Workspace(workspace.home / "other", None, True)
    assert np.array_equal(states_of(other, backbone, encoded, 1, torch.float32, CPU).values, expected)
    path = workspace.home / "file"
    module._reserve(path, (1 << 20) + 5)
    assert path.stat().st_size == (1 << 20) + 5


def test_batches_of_tokens_hold_every_feature_once_and_stay_small():
    lengths = np.random.default_rng(0).integers(1, 200, size=500)
    batches = list(token_batches(lengths, tokens=1000))
    assert sorted(np.concatenate(batches)) == list(range(500))
    assert all(len(batch) * padded_length(int(lengths[batch].max())) <= 1000 for batch in batches)
    assert [padded_length(n, torch.bfloat16) for n in (1, 16, 17, 128)] == [16, 16, 32, 128]
    if not torch.cuda.is_available():
        assert [padded_length(n, torch.float32) for n in (0, 1, 16, 17)] == [1, 1, 16, 17]


def test_padding_keeps_every_token_in_place(backbone_of: BackboneOf):
    encoded = encoded_rows(backbone_of("bert"))
    ids, mask, types = pad_tokens(encoded, np.array([2, 0]), 48)
    assert ids.shape == mask.shape == types.shape == (2, 48)
    for row, feature in enumerate((2, 0)):
        start, end = encoded.offsets[feature], encoded.offsets[feature + 1]
        assert ids[row, : end - start].tolist() == encoded.input_ids[start:end].tolist()
        assert types[row, : end - start].tolist() == encoded.token_type_ids[start:end].tolist()
        assert mask[row].tolist() == [1] * (end - start) + [0] * (48 - (end - start))
    assert types.sum() > 0
