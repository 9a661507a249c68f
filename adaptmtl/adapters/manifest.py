"""What an adapter says about itself: ``adaptmtl.json`` in the adapter's folder."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from adaptmtl.errors import AdapterError
from adaptmtl.storage import KEY_LENGTH

FORMAT_VERSION: Literal[1] = 1
#: Name of the manifest's file in an adapter's folder.
MANIFEST = "adaptmtl.json"

_NAME = r"^[a-z0-9][a-z0-9_.\-]{0,127}$"


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class TaskFacts(_Facts):
    """The task that the adapter solves; ``label_names`` in the order of the head's outputs, ``metric`` the main one.

    ``kind`` is a name: whether a package that knows it is installed shows when the adapter is used. ``inputs`` are the
    columns that the model was given; the first adapters do not say.
    """

    name: str = Field(pattern=_NAME)
    kind: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    label_names: tuple[str, ...] | None = None
    metric: str
    language: str = "en"
    inputs: tuple[str, ...] | None = None


class BackboneFacts(_Facts):
    """The frozen encoder under the adapter; ``hash`` is over its weights, configuration and tokenizer files.

    Attributes:
        hub_id: where the same weights stand on the Hub, when that is not the name.
    """

    name: str = Field(min_length=1)
    hub_id: str | None = None
    hash: str = Field(min_length=1)
    model_type: str
    hidden_size: int = Field(gt=0)
    n_layers: int = Field(gt=0)


class Figure(_Facts):
    """A measured value over ``n`` rows, with the ends of its 95% interval where one was computed."""

    value: float
    n: int = Field(ge=0)
    low: float | None = None
    high: float | None = None


class DataFacts(_Facts):
    """The rows behind the adapter: where from, what content (sha256), how many, under which licence.

    ``train_rows`` counts those that settings were chosen on, too, so that asking for as many gives the same rows.
    """

    origin: str
    train_fingerprint: str
    validation_fingerprint: str
    train_rows: int = Field(ge=0)
    validation_rows: int = Field(ge=0)
    licence: str = "unstated"


class SourceFacts(_Facts):
    """One adapter that went into a fused one; what it shares with the target's evaluation rows, if it was used so."""

    name: str
    key: str
    weight: float
    overlap: str | None = None


class CostFacts(_Facts):
    """What making the adapter took."""

    seconds: float = Field(ge=0)
    peak_memory_mib: float = Field(ge=0)
    steps: int = Field(ge=0)
    examples_seen: int = Field(ge=0)
    trained_parameters: int = Field(ge=0)


class EncodingFacts(_Facts):
    """How rows were tokenised.

    Attributes:
        max_length: tokens per feature.
        stride: tokens that neighbouring windows of a question share.
        null_answers, null_threshold, max_answer_tokens: read, never written: where the first adapters have settings.
    """

    max_length: int = Field(gt=0)
    stride: int | None = Field(None, ge=0)
    null_answers: bool | None = Field(None, exclude=True)
    null_threshold: float | None = Field(None, exclude=True)
    max_answer_tokens: int | None = Field(None, gt=0, exclude=True)


class HeadFacts(_Facts):
    """The output layer in ``head.safetensors``.

    Attributes:
        kind: of the task.
        config: its width as "outputs", and as "settings" what decoding must know of the training rows.
    """

    kind: str
    config: dict[str, Any] = {}


class ProbeFacts(_Facts):
    """Raw rows with the logits that loading must reproduce.

    Attributes:
        rows: raw rows, normalised to the columns of the task's kind.
        logits: one nested list of numbers per row.
        tolerance: greatest absolute difference that counts as equal.
    """

    rows: tuple[dict[str, Any], ...] = Field(min_length=1, max_length=64)
    logits: tuple[Any, ...]
    tolerance: float = Field(gt=0)

    @field_validator("logits")
    @classmethod
    def _finite(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if any(not _is_numbers(row) for row in value):
            raise ValueError("logits must be nested lists of finite numbers")
        return value

    @model_validator(mode="after")
    def _one_per_row(self) -> ProbeFacts:
        if len(self.rows) != len(self.logits):
            raise ValueError(f"{len(self.rows)} probe rows but {len(self.logits)} logits")
        return self


class Manifest(_Facts):
    """All that is known about an adapter besides its weights.

    Attributes:
        key: hash of everything the adapter depends on (:func:`adaptmtl.storage.key_of`); names its folder in the zoo.
        name: for people, unique in practice ("boolq-lora-1a2b3c4d"); see :func:`adapter_name`.
        method: how it was made ("lora", "fused", ...).
        recipe: the settings it was made with.
        metrics: by metric name, on validation rows that no choice has looked at.
        sources: for a fused adapter, what it was fused from, with weights.
        files: sha256 of every other file in the folder except README.md; filled in by ``write_bundle``.
        provenance: :func:`adaptmtl.provenance.record`.
    """

    format_version: Literal[1] = FORMAT_VERSION
    key: str = Field(pattern=rf"^[0-9a-f]{{{KEY_LENGTH}}}$")
    name: str = Field(pattern=_NAME)
    task: TaskFacts
    method: str = Field(pattern=r"^[a-z][a-z0-9_\-]*$")
    backbone: BackboneFacts
    recipe: dict[str, Any]
    seed: int
    metrics: dict[str, Figure]
    data: DataFacts
    sources: tuple[SourceFacts, ...] = ()
    cost: CostFacts
    encoding: EncodingFacts
    head: HeadFacts
    probe: ProbeFacts
    files: dict[str, str] = {}
    provenance: dict[str, Any]

    @field_validator("files")
    @classmethod
    def _plain_files(cls, value: dict[str, str]) -> dict[str, str]:
        for name, digest in value.items():
            if not name or name in (".", "..", MANIFEST) or "/" in name or "\\" in name or "\0" in name:
                raise ValueError(f"{name!r} is not a plain file name")
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise ValueError(f"{name}: {digest!r} is not a sha256")
        return value

    @model_validator(mode="after")
    def _is_json(self) -> Manifest:
        free = {
            "recipe": self.recipe,
            "provenance": self.provenance,
            "head": self.head.config,
            "probe": self.probe.rows,
        }
        if wrong := [name for name, value in free.items() if _holds_infinity(value)]:
            raise ValueError(f"{', '.join(wrong)} holds NaN or infinity, which JSON has no word for")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What decoding must know of the training rows (:meth:`adaptmtl.tasks.kind.Kind.settings`)."""
        first = ("null_answers", "null_threshold", "max_answer_tokens")
        older = {name: value for name in first if (value := getattr(self.encoding, name)) is not None}
        return self.head.config.get("settings", older)

    @property
    def main_figure(self) -> Figure | None:
        """The figure of the task's main metric, or None where it was not measured."""
        return self.metrics.get(self.task.metric)


def adapter_name(task: str, method: str, key: str) -> str:
    """Returns the usual name of an adapter: ``boolq-lora-1a2b3c4d``."""
    return f"{task}-{method}-{key[:8]}"


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """Reads a manifest's bytes; unknown fields are errors.

    Args:
        raw: content of an ``adaptmtl.json``.
        where: path for the message.

    Raises:
        AdapterError: not JSON, of another format version, or fields that are missing, unknown or wrong (all are named).
    """
    try:
        return Manifest.model_validate_json(raw, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
    problems = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'file'}: {one['msg']}" for one in found[:8])
    more = f" (and {len(found) - 8} more)" if len(found) > 8 else ""
    if any(one["loc"] == ("format_version",) for one in found):
        remedy = f"this version reads format {FORMAT_VERSION}: update adaptmtl, or make the adapter again"
    else:
        remedy = "make or pull the adapter again"
    line = " ".join(f"{problems}{more}".split())
    raise AdapterError(f"{where} is not a valid adapter manifest: {line}; {remedy}")


def _holds_infinity(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_infinity, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_holds_infinity, value))
    return isinstance(value, float) and not math.isfinite(value)


def _is_numbers(value: Any, depth: int = 0) -> bool:
    if isinstance(value, (list, tuple)):
        return depth < 4 and all(_is_numbers(one, depth + 1) for one in value)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
