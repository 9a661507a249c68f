"""A task's rows, tokenised for one backbone, with the states that training starts from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from adaptmtl.backbone.load import Backbone
from adaptmtl.backbone.states import States, states_of
from adaptmtl.errors import DataError
from adaptmtl.tasks.encode import encode
from adaptmtl.tasks.encoded import EncodedRows
from adaptmtl.tasks.encoded_files import encode_kept
from adaptmtl.tasks.load import load_rows
from adaptmtl.tasks.rows import Split
from adaptmtl.tasks.sample import hold_out, subsample
from adaptmtl.tasks.spec import TaskSpec
from adaptmtl.training.recipe import Encoding
from adaptmtl.workspace import Workspace

#: Part of the training rows that settings of decoding are chosen on, where there are any to choose.
TUNING_SHARE = 0.1
LEAST_TUNING, MOST_TUNING = 50, 1000


@dataclass(frozen=True)
class PreparedSplit:
    """Rows of a split; tokenised, and run through the lower layers, when first asked for."""

    rows: Split
    spec: TaskSpec
    backbone: Backbone
    encoding: Encoding
    labelled: bool = True
    workspace: Workspace | None = None
    _states: dict[tuple[int, torch.dtype], States] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def encoded(self) -> EncodedRows:
        """The tokens, from the workspace where these rows were tokenised before."""
        how: dict[str, Any] = {
            "max_length": self.encoding.max_length, "stride": self.encoding.stride, "labelled": self.labelled
        }  # fmt: skip
        if self.workspace is None:
            return encode(self.rows, self.spec, self.backbone.tokenizer, **how)
        backbone = self.backbone
        return encode_kept(self.workspace, self.rows, self.spec, lambda: backbone.tokenizer, backbone.hash, **how)

    def states(self, workspace: Workspace, k: int, dtype: torch.dtype, device: torch.device) -> States | None:
        """Returns the states after the lowest ``k`` layers, or None when k is 0 and the whole encoder runs."""
        if k == 0:
            return None
        if (k, dtype) not in self._states:
            self._states[k, dtype] = states_of(workspace, self.backbone, self.encoded, k, dtype, device)
        return self._states[k, dtype]


@dataclass(frozen=True)
class TaskData:
    """A task, ready for one backbone.

    Attributes:
        spec: the task.
        train: rows for anything.
        validation: rows for reported figures only; read once, at the end.
        origin: where the rows came from.
        notes: what was left out or cut, for people.
        tuning: rows cut from the training rows, on which a trained model's settings are chosen; None where the kind has
            nothing to choose, or there are too few.
    """

    spec: TaskSpec
    train: PreparedSplit
    validation: PreparedSplit
    origin: str
    notes: tuple[str, ...] = ()
    tuning: PreparedSplit | None = None

    @property
    def encoding(self) -> Encoding:
        """How rows become tokens."""
        return self.train.encoding

    @property
    def n_train(self) -> int:
        """Training rows, those that settings are chosen on included: so many were asked for, or are there."""
        return len(self.train.rows) + (len(self.tuning.rows) if self.tuning is not None else 0)

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What identifies the rows: the content hash of each split."""
        return {"train": self.train.rows.fingerprint, "validation": self.validation.rows.fingerprint}

    @property
    def train_identity(self) -> dict[str, Any]:
        """What a training on this task depends on: the training rows' content, and what their labels mean."""
        tuning = {"tuning": self.tuning.rows.fingerprint} if self.tuning is not None else {}
        facts = {"train": self.fingerprint["train"], "kind": self.spec.kind, "label_names": self.spec.label_names}
        return {**facts, **tuning}

    @property
    def identity(self) -> dict[str, Any]:
        """What a training and its figures depend on."""
        return {**self.train_identity, **self.fingerprint, "metric": self.spec.main_metric}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decoding must know of the training rows."""
        return self.spec.kind.settings(self.train.rows, self.train.encoded)

    def hold_out(self, share: float, most: int, seed: int) -> TaskData:
        """Cuts a part of the training rows off, for choices: the result's ``validation`` are training rows of this."""
        kept, held = hold_out(self.train.rows.rows, self.spec, share, most, seed)
        return replace(
            self,
            train=replace(self.train, rows=self.train.rows.take(kept), _states={}),
            validation=replace(self.train, rows=self.train.rows.take(held), _states={}),
            tuning=None,
        )

    def with_tuning(self) -> TaskData:
        """Cuts rows to tune on off the training rows, where the kind of task has a use for them."""
        rows = self.train.rows.rows
        if len(rows) * TUNING_SHARE < LEAST_TUNING or not self.spec.kind.tunes(rows):
            return self
        part = self.hold_out(TUNING_SHARE, MOST_TUNING, seed=0)
        note = f"{len(part.validation.rows)} training rows are held out to choose when there is no answer"
        return replace(part, validation=self.validation, tuning=part.validation, notes=(*self.notes, note))


def prepare_task(
    workspace: Workspace,
    backbone: Backbone,
    spec: TaskSpec,
    encoding: Encoding,
    *,
    rows: int | None = None,
    eval_rows: int | None = None,
    source: str = "auto",
    seed: int = 0,
) -> TaskData:
    """Loads a task for a backbone.

    Args:
        workspace: where rows may come from.
        backbone: whose tokenizer.
        spec: the task.
        encoding: lengths.
        rows: at most so many training rows, drawn by ``seed``, stratified and nested.
        eval_rows: at most so many validation rows (all by default).
        source: which row source to use, see :func:`adaptmtl.tasks.load.load_rows`.
        seed: of the draw of rows.

    Raises:
        DataError: rows are missing or malformed.
    """
    for name, value in (("training", rows), ("evaluation", eval_rows)):
        if value is not None and value < 2:
            raise DataError(f"task {spec.name!r}: {value} {name} rows were asked for; at least 2 are needed")
    loaded = load_rows(spec, workspace, source)
    train, validation = loaded.train, loaded.validation
    if rows is not None and rows < len(train):
        train = subsample(train, rows, seed, loaded.spec)
    if eval_rows is not None and eval_rows < len(validation):
        validation = subsample(validation, eval_rows, seed, loaded.spec)
    encoding = encoding.fitted(backbone)
    return TaskData(
        spec=loaded.spec,
        train=PreparedSplit(train, loaded.spec, backbone, encoding, workspace=workspace),
        validation=PreparedSplit(validation, loaded.spec, backbone, encoding, workspace=workspace),
        origin=loaded.origin,
        notes=loaded.notes,
    ).with_tuning()
