"""Cached activations: the output of the lowest k layers for every token of a split, computed once.

Nothing below the lowest adapter changes in training and dropout is off there, so the states are exact; every epoch,
seed, source and arm on the same rows shares them. They lie on disk as one memory-mapped array, under a key made of
the backbone's weights, the encoded rows, k and the dtype. Folders are evicted, least recently used first, when the
cache outgrows its limit; a split that would not fit at all is recomputed batch by batch, to within rounding.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch
from torch import Tensor

from adaptmtl.backbone.load import PAD_TO, Backbone
from adaptmtl.backbone.precision import default_dtype, replace_linears
from adaptmtl.backbone.segments import lower_part
from adaptmtl.errors import FullDiskError, StorageError
from adaptmtl.storage import PARTIAL, alone, key_of, publish_folder, read_json, write_json
from adaptmtl.tasks.encoded import EncodedRows
from adaptmtl.workspace import Workspace, number_of

VERSION = 3
DEFAULT_LIMIT_GIB = 8.0
#: Padded tokens that are read at once, at most. On a CPU what they leave behind in a layer stays in the cache.
_TOKENS_ON_CPU, _TOKENS_ON_GPU = 1024, 8192
_ATTEMPTS = 3


class States(Protocol):
    """Hands out the states of chosen features."""

    def batch(self, features: np.ndarray, length: int) -> Tensor:
        """Returns (features, length, hidden) fp32 states, zero beyond each feature's own tokens."""


@dataclass(frozen=True)
class CachedStates:
    """States in one file, ``values`` (total_tokens, hidden), bf16 stored as uint16, or fp32.

    Batches are read from the file, not through the map: pages of a map count as this process's memory.
    """

    values: np.ndarray
    offsets: np.ndarray
    file: BinaryIO | None = field(default=None, repr=False, compare=False)

    def batch(self, features: np.ndarray, length: int) -> Tensor:
        """Returns (features, length, hidden) fp32 states, zero beyond each feature's own tokens."""
        raw = np.zeros((len(features), length, self.values.shape[1]), dtype=self.values.dtype)
        for row, feature in enumerate(features):
            start, end = int(self.offsets[feature]), int(self.offsets[feature + 1])
            if self.file is None:
                raw[row, : end - start] = self.values[start:end]
            else:
                _read(self.file.fileno(), raw[row, : end - start], start * raw[0, 0].nbytes)
        out = torch.from_numpy(raw)
        return out.view(torch.bfloat16).float() if raw.dtype == np.uint16 else out


class DeviceStates:
    """Cached states held whole in a device's memory, in the dtype that they are stored in."""

    def __init__(self, cached: CachedStates, device: torch.device):
        values = torch.from_numpy(np.array(cached.values)).to(device)
        self.values = values.view(torch.bfloat16) if values.dtype == torch.uint16 else values
        self.offsets = cached.offsets

    def batch(self, features: np.ndarray, length: int) -> Tensor:
        """Returns (features, length, hidden) fp32 states on the device, zero beyond each feature's own tokens."""
        starts, ends = self.offsets[features], self.offsets[np.asarray(features) + 1]
        index = starts[:, None] + np.arange(length)[None, :]
        index = torch.from_numpy(np.where(index < ends[:, None], index, -1)).to(self.values.device, non_blocking=True)
        picked = self.values[index.clamp(min=0)].float()
        return picked.mul_((index >= 0)[:, :, None])


def states_on(states: States | None, device: torch.device) -> States | None:
    """Moves cached states to a GPU where they take at most a quarter of its free memory; else returns them as given."""
    if device.type != "cuda" or not isinstance(states, CachedStates):
        return states
    free, _ = torch.cuda.mem_get_info(device)
    return DeviceStates(states, device) if states.values.nbytes < free / 4 else states


class RecomputedStates:
    """States computed anew for each batch: slower, for splits that do not fit the cache."""

    def __init__(self, backbone: Backbone, encoded: EncodedRows, k: int, dtype: torch.dtype, device: torch.device):
        self.encoded, self.dtype, self.device = encoded, dtype, device
        self.model = _lower(backbone, k, dtype, device)

    def batch(self, features: np.ndarray, length: int) -> Tensor:
        """Returns (features, length, hidden) fp32 states, zero beyond each feature's own tokens."""
        hidden, mask = _forward(self.model, self.encoded, features, length, self.device)
        return hidden.to(self.dtype).float().cpu() * mask[:, :, None]


def states_of(
    workspace: Workspace, backbone: Backbone, encoded: EncodedRows, k: int, dtype: torch.dtype, device: torch.device
) -> States:
    """Returns the states of all features after the lowest ``k`` layers, from the cache or computed now.

    Args:
        workspace: holds the cache, and is told when states do not fit.
        backbone: whose lower layers.
        encoded: tokenised rows.
        k: number of lower layers, at least 1.
        dtype: of the matrix products and of the stored states, bf16 or fp32.
        device: where to compute.
    """
    root = workspace.folder("states")
    folder = root / key_of(version=VERSION, backbone=backbone.hash, rows=encoded.fingerprint, k=k, dtype=str(dtype))
    stored = np.dtype(np.uint16 if dtype == torch.bfloat16 else np.float32)
    shape = (encoded.n_tokens, backbone.hidden_size)
    size = stored.itemsize * shape[0] * shape[1]
    limit = number_of("ADAPTMTL_STATES_GIB", DEFAULT_LIMIT_GIB) * 2**30

    def recomputed(reason: str) -> States:
        workspace.reporter.say(
            f"states of {encoded.n_rows} rows take {size / 2**30:.1f} GiB, {reason}: recomputing them in every step"
        )
        return RecomputedStates(backbone, encoded, k, dtype, device)

    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError):  # another process evicted them just now
            if _valid(folder, shape, stored):
                return _opened(folder, shape, stored, encoded.offsets)
        if size > limit:
            return recomputed(f"more than the cache's {limit / 2**30:.1f} GiB (ADAPTMTL_STATES_GIB)")
        with alone(folder):
            if _valid(folder, shape, stored):  # another process has made them meanwhile
                continue
            _evict(root, int(limit - size), keep=folder)
            shutil.rmtree(folder, ignore_errors=True)
            try:
                with publish_folder(folder) as temporary:
                    _compute(temporary / "states.bin", workspace, backbone, encoded, k, dtype, device, shape, stored)
                    write_json(temporary / "states.json", {"shape": list(shape), "dtype": stored.name, "bytes": size})
            except FullDiskError:
                return recomputed(f"more than {root} has room for")
    raise StorageError(f"cached states in {folder} vanish as soon as they are made: raise ADAPTMTL_STATES_GIB")


def _opened(folder: Path, shape: tuple[int, int], stored: np.dtype, offsets: np.ndarray) -> CachedStates:
    with suppress(OSError):  # the cache may be on a read-only disk; only the order of eviction suffers
        os.utime(folder / "states.json")
    file = (folder / "states.bin").open("rb", buffering=0) if hasattr(os, "preadv") else None
    return CachedStates(np.memmap(folder / "states.bin", dtype=stored, mode="r", shape=shape), offsets, file)


def token_batches(lengths: np.ndarray, tokens: int | None = None) -> Iterator[np.ndarray]:
    """Yields feature indices in batches of similar length, longest first.

    Args:
        lengths: (features,) in tokens.
        tokens: of a batch, padded, at most; a number that suits the machine if None.
    """
    tokens = tokens or (_TOKENS_ON_GPU if torch.cuda.is_available() else _TOKENS_ON_CPU)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = padded_length(int(lengths[order[start]]))
        size = max(1, tokens // longest)
        yield order[start : start + size]
        start += size


def padded_length(length: int, dtype: torch.dtype | None = None) -> int:
    """Rounds a length up to 16 where a small set of shapes pays: products in bf16, and GPUs.

    In fp32 on a CPU a new shape costs nothing, and padding is work for nothing: there a length stays as it is.

    Args:
        length: in tokens.
        dtype: of the products; the machine's default if None.
    """
    if (dtype or default_dtype()) is torch.float32 and not torch.cuda.is_available():
        return max(1, length)
    return max(PAD_TO, -(-length // PAD_TO) * PAD_TO)


def pad_tokens(encoded: EncodedRows, features: np.ndarray, length: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns input_ids, attention_mask and token_type_ids of chosen features, each (features, length), int64."""
    positions = np.arange(length)[None, :]
    inside = positions < encoded.lengths[features][:, None]
    flat = (encoded.offsets[features][:, None] + positions)[inside]
    ids = np.zeros(inside.shape, dtype=np.int64)
    ids[inside] = encoded.input_ids[flat]
    types = None
    if encoded.token_type_ids is not None:
        types = np.zeros(inside.shape, dtype=np.int64)
        types[inside] = encoded.token_type_ids[flat]
    return (
        torch.from_numpy(ids),
        torch.from_numpy(inside.astype(np.int64)),
        None if types is None else torch.from_numpy(types),
    )


def _compute(
    path: Path, workspace: Workspace, backbone: Backbone, encoded: EncodedRows, k: int, dtype: torch.dtype,
    device: torch.device, shape: tuple[int, int], stored: np.dtype,
) -> None:  # fmt: skip
    _reserve(path, shape[0] * shape[1] * stored.itemsize)
    model = _lower(backbone, k, dtype, device)
    batches = list(token_batches(encoded.lengths))
    with path.open("r+b") as file:  # written, not mapped: pages of a map count as this process's memory
        for features in workspace.reporter.track(batches, f"states of {encoded.n_features} sequences"):
            length = padded_length(int(encoded.lengths[features].max()), dtype)
            hidden, _ = _forward(model, encoded, features, length, device)
            low = hidden.to(dtype).cpu()
            raw = low.view(torch.uint16).numpy() if dtype == torch.bfloat16 else low.numpy()
            for row, feature in enumerate(features):
                start, end = int(encoded.offsets[feature]), int(encoded.offsets[feature + 1])
                file.seek(start * shape[1] * stored.itemsize)
                file.write(np.ascontiguousarray(raw[row, : end - start]).data)


def _read(file: int, into: np.ndarray, offset: int) -> None:
    """Fills an array from a place in a file."""
    left = into.data.cast("B")
    while left:
        count = os.preadv(file, [left], offset)
        if count == 0:
            raise StorageError(
                f"cached states end before their last row, {offset:,} bytes into the file: "
                "remove the folder states below ADAPTMTL_HOME, they are made again"
            )
        left, offset = left[count:], offset + count


def _reserve(path: Path, size: int) -> None:
    """Makes a file whose blocks are all there: a full disk is an error here, not a crash while the file is mapped."""
    with path.open("wb") as file:
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        zeros = bytes(min(size, 1 << 20))  # macOS has no posix_fallocate
        for start in range(0, size, 1 << 20):
            file.write(zeros[: size - start])


def _lower(backbone: Backbone, k: int, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    model = lower_part(backbone.load_encoder(), backbone.anatomy, k)
    replace_linears(model, dtype)
    model.requires_grad_(False)
    return torch.nn.Module.to(model, device)


def _forward(
    model: torch.nn.Module, encoded: EncodedRows, features: np.ndarray, length: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    ids, mask, types = pad_tokens(encoded, features, length)
    extra = {} if types is None else {"token_type_ids": types.to(device)}
    with torch.inference_mode():
        out = model(input_ids=ids.to(device), attention_mask=mask.to(device), **extra)
    return out.last_hidden_state, mask


def _valid(folder: Path, shape: tuple[int, int], stored: np.dtype) -> bool:
    size = stored.itemsize * shape[0] * shape[1]
    if read_json(folder / "states.json") != {"shape": list(shape), "dtype": stored.name, "bytes": size}:
        return False
    file = folder / "states.bin"
    return file.is_file() and file.stat().st_size == size


def _evict(root: Path, room: int, keep: Path) -> None:
    """Removes least recently used folders until the rest takes at most ``room`` bytes."""
    entries: list[tuple[float, int, Path]] = []
    for folder in (path for path in root.iterdir() if path.is_dir()):
        with suppress(FileNotFoundError):  # another process may be evicting too, or publishing
            meta = folder / "states.json"
            modified = (meta if meta.exists() else folder).stat().st_mtime
            entries.append((modified, sum(file.stat().st_size for file in folder.iterdir()), folder))
    used = sum(size for _, size, folder in entries if folder != keep)
    for modified, size, folder in sorted(entries):
        if used <= room:
            break
        unfinished = folder.name.startswith(PARTIAL)  # counts, but may be another process's
        if folder != keep and not unfinished and time.time() - modified > 1.0:
            shutil.rmtree(folder, ignore_errors=True)
            used -= size
