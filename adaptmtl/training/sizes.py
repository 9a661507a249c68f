"""How many tokens and units a split has, kept in the workspace: to count them takes a tokenizer, seconds to import."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from adaptmtl.storage import key_of, read_json, write_json
from adaptmtl.tasks.encoded_files import VERSION
from adaptmtl.training.batches import training_units
from adaptmtl.training.data import PreparedSplit


@dataclass(frozen=True)
class Sizes:
    """Counts of a tokenised split.

    Attributes:
        tokens: of all features, special ones included.
        units: to train on, see :func:`adaptmtl.training.batches.training_units`.
    """

    tokens: int
    units: int


def sizes_of(split: PreparedSplit) -> Sizes:
    """Returns a split's sizes, from its workspace where it was counted before."""
    if split.workspace is None:
        return _count(split)
    key = key_of(
        step="sizes", version=VERSION, rows=split.rows.fingerprint, kind=split.spec.kind, labels=split.spec.label_names,
        backbone=split.backbone.hash, max_length=split.encoding.max_length, stride=split.encoding.stride,
        labelled=split.labelled,
    )  # fmt: skip
    path = split.workspace.folder("sizes", f"{key}.json")
    if (held := read_json(path)) is not None:
        return Sizes(**held)
    counted = _count(split)
    write_json(path, asdict(counted))
    return counted


def _count(split: PreparedSplit) -> Sizes:
    return Sizes(split.encoded.n_tokens, len(training_units(split.encoded)))
