"""A saved adapter's answers on new rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from adaptmtl.adapters.bundle import Bundle
from adaptmtl.backbone.load import Backbone, resolve
from adaptmtl.errors import BackboneError, DataError, UnknownNameError
from adaptmtl.tasks.decode import MAX_ANSWER_TOKENS, Predictions, decode
from adaptmtl.tasks.encode import encode
from adaptmtl.tasks.rows import Row, Split
from adaptmtl.tasks.spec import Kind, TaskSpec
from adaptmtl.training.loop import accelerator
from adaptmtl.training.model import TaskModel, outputs_of
from adaptmtl.training.restore import restore, spec_of
from adaptmtl.workspace import Workspace
from adaptmtl.zoo.store import Zoo

#: Columns that a row to predict on has, by kind; an optional one ends with "?".
INPUT_COLUMNS: dict[Kind, tuple[str, ...]] = {
    Kind.SEQUENCE_CLASSIFICATION: ("text", "text_pair?"),
    Kind.MULTI_LABEL_CLASSIFICATION: ("text", "text_pair?"),
    Kind.REGRESSION: ("text", "text_pair?"),
    Kind.MULTIPLE_CHOICE: ("text", "choices"),
    Kind.TOKEN_CLASSIFICATION: ("tokens",),
    Kind.QUESTION_ANSWERING: ("question", "context"),
}


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
        """Columns of the rows to predict on; an optional one ends with "?"."""
        return INPUT_COLUMNS[self.spec.kind]

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Predicts on rows.

        Args:
            rows: dicts with :attr:`columns`.

        Returns:
            By kind: ``{"label", "probabilities"}``, ``{"labels", "probabilities"}``, ``{"value"}``,
            ``{"choice", "text", "probabilities"}``, ``{"tokens", "tags"}``, or ``{"answer", "start", "end", "score"}``
            (characters of the context).

        Raises:
            DataError: a row lacks a column, or a text is empty or no text.
        """
        if not rows:
            return []
        split = Split(tuple(self._checked(row, number) for number, row in enumerate(rows, start=1)))
        facts = self.bundle.manifest.encoding
        encoded = encode(
            split, self.spec, self.backbone.tokenizer, max_length=facts.max_length, stride=facts.stride, labelled=False
        )
        outputs = outputs_of(self.model, encoded, None, accelerator().device)
        found = decode(
            encoded,
            outputs,
            split,
            self.spec,
            null_answers=facts.null_answers,
            null_threshold=facts.null_threshold,
            max_answer_tokens=facts.max_answer_tokens or MAX_ANSWER_TOKENS,
        )
        return [self._answer(found, index, row) for index, row in enumerate(split.rows)]

    def _checked(self, row: Mapping[str, Any], number: int) -> Row:
        out: Row = {}
        for column in self.columns:
            name, optional = column.removesuffix("?"), column.endswith("?")
            value = row.get(name)
            if value is None and optional:
                out[name] = None
                continue
            if value is None:
                raise DataError(
                    f"row {number}: column {name!r} is missing; a {self.spec.kind} row has {', '.join(self.columns)}"
                )
            listed = name in ("choices", "tokens")
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
        if self.spec.kind is Kind.QUESTION_ANSWERING:
            out["answers"] = {"text": [], "answer_start": []}
        return out

    def _answer(self, found: Predictions, index: int, row: Row) -> dict[str, Any]:
        label, kind = found.labels[index], self.spec.kind
        names = self.spec.label_names or ()
        shares = [round(float(p), 6) for p in found.probabilities[index]] if found.probabilities is not None else []
        if kind is Kind.SEQUENCE_CLASSIFICATION:
            return {"label": names[label], "probabilities": dict(zip(names, shares, strict=True))}
        if kind is Kind.MULTI_LABEL_CLASSIFICATION:
            return {"labels": [names[i] for i in label], "probabilities": dict(zip(names, shares, strict=True))}
        if kind is Kind.REGRESSION:
            return {"value": float(label)}
        if kind is Kind.MULTIPLE_CHOICE:
            return {"choice": int(label), "text": row["choices"][label], "probabilities": shares}
        if kind is Kind.TOKEN_CLASSIFICATION:
            return {"tokens": row["tokens"], "tags": [names[tag] for tag in label]}
        assert found.spans is not None and found.scores is not None
        start, end = found.spans[index]
        return {"answer": label, "start": int(start), "end": int(end), "score": float(found.scores[index])}


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
