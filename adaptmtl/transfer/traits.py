"""What estimators know of a source beside its weights: Fisher information and embedding space map.

Both come from the source's own training rows. They are read from the adapter's signature where it holds them
(``fisher.<module>``, ``space_map.down``, ``.up``, ``.shift``), else computed once and kept in the workspace.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from adaptmtl.adapters.bundle import Bundle
from adaptmtl.errors import AdaptMTLError, SelectionError
from adaptmtl.storage import write_atomic
from adaptmtl.tasks.sample import subsample
from adaptmtl.training.data import PreparedSplit
from adaptmtl.training.gradients import row_gradients
from adaptmtl.training.setup import Setup
from adaptmtl.transfer.contract import SpaceMap
from adaptmtl.transfer.esm_logme import fit_space_map
from adaptmtl.transfer.evidence import target_features
from adaptmtl.zoo.index import Entry

VERSION = 1
#: Training rows of a source that its traits are computed from.
TRAIT_ROWS = 256


@dataclass(frozen=True, eq=False)
class Traits:
    """Fisher information (module -> (out,)) and embedding space map of a source."""

    fisher: dict[str, np.ndarray]
    space_map: SpaceMap

    def tensors(self) -> dict[str, np.ndarray]:
        """Returns them under the names that a signature holds them by."""
        named = {f"fisher.{module}": values.astype(np.float32) for module, values in self.fisher.items()}
        return {**named, **{f"space_map.{part}": value for part, value in self.space_map._asdict().items()}}

    @classmethod
    def of(cls, tensors: dict[str, np.ndarray]) -> Traits | None:
        """Reads them from named tensors; None where a part is not there."""
        fisher = {name.removeprefix("fisher."): value for name, value in tensors.items() if name.startswith("fisher.")}
        parts = [tensors.get(f"space_map.{part}") for part in SpaceMap._fields]
        if not fisher or any(part is None for part in parts):
            return None
        return cls(fisher, SpaceMap(*parts))  # type: ignore[arg-type]


def traits_of(setup: Setup, entry: Entry, bundle: Bundle) -> Traits:
    """Returns a source's traits: from its signature, from the workspace, or computed from its training rows.

    Args:
        setup: backbone, recipe, workspace.
        entry: the source's adapter in the zoo.
        bundle: the same, loaded.

    Raises:
        SelectionError: they have to be computed and the source's rows are not at hand.
    """
    if (own := Traits.of({name: tensor.numpy() for name, tensor in bundle.signature.items()})) is not None:
        return own
    key = setup.key("traits", traits_version=VERSION, adapter=entry.key)
    path = setup.workspace.folder("traits", f"{key}.safetensors")
    if (held := _read(path)) is not None:
        return held
    try:
        data = setup.data(entry.task, entry.train_rows)
    except AdaptMTLError as error:
        raise SelectionError(
            f"source {entry.task!r} has no Fisher information and space map in its signature, and its rows are not at "
            f"hand ({error})"
        ) from error
    found = compute_traits(setup, data.train, bundle)
    write_atomic(path, save(found.tensors()))
    return found


def compute_traits(setup: Setup, train: PreparedSplit, bundle: Bundle) -> Traits:
    """Computes a source's traits from at most 256 of its training rows.

    Raises:
        DataError: too few rows, or one label only.
    """
    rows = train.rows
    if len(rows) > TRAIT_ROWS:
        rows = subsample(rows, TRAIT_ROWS, 0, train.spec)
    part = PreparedSplit(rows, train.spec, train.backbone, train.encoding)
    plain, adapted = (target_features(setup, part, source).x for source in (None, bundle))
    return Traits(row_gradients(setup, part).fisher, fit_space_map(plain, adapted))


def _read(path: Path) -> Traits | None:
    try:
        return Traits.of(load_file(path))
    except (FileNotFoundError, SafetensorError):  # a damaged file is made again
        return None
