"""A saved adapter's answers on new rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from adaptmtl.adapters.bundle import Bundle
from adaptmtl.backbone.load import Backbone, resolve
from adaptmtl.errors import AdaptMTLError, BackboneError, DataError, UnknownNameError
from adaptmtl.tasks.decode import decode
from adaptmtl.tasks.encode import encode
from adaptmtl.tasks.rows import Row, Split
from adaptmtl.tasks.spec import TaskSpec
from adaptmtl.training.loop import accelerator
from adaptmtl.training.model import TaskModel, outputs_of
from adaptmtl.training.restore import restore, spec_of
from adaptmtl.workspace import Workspace
from adaptmtl.zoo.store import Zoo


@dataclass(frozen=True)
class Predictor:
    """A loaded adapter with its backbone and head.

    Attributes:
        bundle: what was saved.
        backbone: what it sits on.
        model: ready to run.
        spec: the task, as far as the manifest tells.
    """

    bundle: Bundle
    backbone: Backbone
    model: TaskModel
    spec: TaskSpec

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of rows to predict on: those it was trained on; where that is not known, "?" ends an optional one."""
        return self.bundle.manifest.task.inputs or self.spec.kind.inputs

    def predict(self, rows: Sequence[Mapping[str, Any] | str], *, best: int = 1) -> list[dict[str, Any]]:
        """Predicts on rows.

        Args:
            rows: dicts with :attr:`columns`; where that is one column of texts, texts will do.
            best: question answering: how many answers of each row are given, under "best", what is predicted first.

        Returns:
            By kind: ``{"label", "probabilities"}`` and ``{"labels", "probabilities"}`` (by label, a dict),
            ``{"value"}`` (in the labels' unit), ``{"choice", "text", "probabilities"}`` (in the order of the choices, a
            list), ``{"tokens", "tags"}``, or ``{"answer", "start", "end", "score"}`` (characters of the context, a sum
            of logits).

        Raises:
            DataError: a row lacks a column, or a text is empty or no text.
            AdaptMTLError: more than one answer is wanted of a kind that has one.
        """
        if best < 1 or (best > 1 and not self.spec.kind.ranks_answers):
            have = "give 1 or more" if best < 1 else f"{self.spec.kind} gives one answer per row; leave it out"
            raise AdaptMTLError(f"the {best} best answers were asked for: {have}")
        if isinstance(rows, str | Mapping):
            raise DataError(f"rows is {str(rows)[:60]!r}; give a list of rows, of one as well")
        if not rows:
            return []
        split = Split(tuple(self._checked(row, number) for number, row in enumerate(rows, start=1)))
        facts = self.bundle.manifest.encoding
        encoded = encode(
            split, self.spec, self.backbone.tokenizer, max_length=facts.max_length, stride=facts.stride, labelled=False
        )
        outputs = outputs_of(self.model, encoded, None, accelerator().device)
        asked = {"best": best} if best > 1 else {}
        found = decode(encoded, outputs, split, self.spec, **{**self.bundle.manifest.settings, **asked})
        names = self.spec.label_names or ()
        return [self.spec.kind.prediction(found, index, row, names) for index, row in enumerate(split.rows)]

    def _checked(self, row: Mapping[str, Any] | str, number: int) -> Row:
        out: Row = {}
        if isinstance(row, str) and len(self.columns) == 1 and self.columns[0] not in self.spec.kind.lists:
            row = {self.columns[0]: row}
        if not isinstance(row, Mapping):
            raise DataError(f"row {number} is {str(row)[:60]!r}; give a dict of {', '.join(self.columns)}")
        for column in self.columns:
            name, optional = column.removesuffix("?"), column.endswith("?")
            value = row.get(name)
            if value is None and optional:
                out[name] = None
                continue
            if value is None:
                raise DataError(
                    f"row {number}: column {name!r} is missing; {self.bundle.manifest.name} reads "
                    f"{', '.join(self.columns)}"
                )
            listed = name in self.spec.kind.lists
            texts = value if listed else [value]
            good = (
                isinstance(texts, (list, tuple))
                and texts
                and all(isinstance(t, str) and (t.strip() or listed) for t in texts)
            )
            if not good:
                wanted = "a list of texts" if listed else "a text"
                raise DataError(f"row {number}: column {name!r} is {str(value)[:60]!r}; give {wanted}")
            out[name] = list(texts) if listed else value
        return out


def load_predictor(adapter: str, workspace: Workspace | None = None, *, backbone: str | None = None) -> Predictor:
    """Loads an adapter of the zoo for prediction, verifying files, backbone and probe outputs.

    Args:
        adapter: name, alias, key, or the beginning of one.
        workspace: whose zoo.
        backbone: name, folder or Hub id of the backbone, where it is not the one the adapter names.

    Raises:
        UnknownNameError: no such adapter.
        AdapterError: its files are damaged or do not reproduce its outputs.
        BackboneError: the backbone is gone, or is not the one it was trained on.
    """
    workspace = workspace or Workspace()
    bundle = Zoo(workspace).get(adapter).load()
    facts = bundle.manifest.backbone
    try:
        found = resolve(backbone or facts.name, workspace)
    except UnknownNameError as error:
        if backbone is not None:
            raise
        raise BackboneError(
            f"adapter {bundle.manifest.name} was trained on backbone {facts.name!r}, which is not found from here; "
            "say where it is with --backbone"
        ) from error
    if found.hash != facts.hash:
        raise BackboneError(
            f"adapter {bundle.manifest.name} was trained on backbone {facts.name!r} ({facts.hash}); "
            f"{found.name!r} here is another one ({found.hash}); name the right one with --backbone"
        )
    model = restore(bundle, found).to(torch.device(accelerator().device))
    return Predictor(bundle, found, model, spec_of(bundle))
