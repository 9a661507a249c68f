"""A saved adapter becomes a model again, and proves that it is the one that was saved."""

from __future__ import annotations

import copy
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from adaptmtl.adapters.bundle import Bundle
from adaptmtl.adapters.heads import Head, make_head
from adaptmtl.adapters.manifest import ProbeFacts
from adaptmtl.adapters.methods import LoraWeights, inject_lora, weights_from_peft
from adaptmtl.adapters.probe_inputs import probe_rows
from adaptmtl.backbone.load import Backbone
from adaptmtl.backbone.precision import default_dtype
from adaptmtl.backbone.segments import SegmentedEncoder
from adaptmtl.errors import AdapterError, BackboneError
from adaptmtl.tasks.encode import encode
from adaptmtl.tasks.kind import kinds
from adaptmtl.tasks.rows import Row, Split
from adaptmtl.tasks.spec import HubRows, TaskSpec
from adaptmtl.training.model import TaskModel, outputs_of
from adaptmtl.training.recipe import Encoding

PROBE_TOLERANCE = 2e-3
_CPU = torch.device("cpu")


def spec_of(bundle: Bundle) -> TaskSpec:
    """Returns the task that an adapter solves, as far as its manifest tells (it cannot load rows).

    Raises:
        AdapterError: the manifest's task is not one that can be declared.
    """
    facts = bundle.manifest.task
    if facts.kind not in kinds:
        raise AdapterError(
            f"adapter {bundle.manifest.name} is of kind {facts.kind!r}, which no installed package brings "
            f"(known: {', '.join(kinds)}); install the one that does"
        )
    try:
        return TaskSpec(
            name=facts.name, kind=facts.kind, language=facts.language, label_names=facts.label_names,
            metric=facts.metric, rows=(HubRows(id="unknown", columns={}),),
        )  # fmt: skip
    except ValidationError as error:
        raise AdapterError(
            f"manifest of {bundle.manifest.name}: its task is not valid ({error.errors()[0]['msg']}); "
            "make or pull the adapter again"
        ) from error


def restore(bundle: Bundle, backbone: Backbone, *, dtype: torch.dtype | None = None, verify: bool = True) -> TaskModel:
    """Builds the model of a saved adapter on its backbone, the whole encoder from the embeddings up.

    Args:
        bundle: what was saved.
        backbone: the same weights that it was trained on.
        dtype: of the matrix products; the machine's default if None.
        verify: run the probe inputs and compare.

    Raises:
        BackboneError: another backbone than the adapter's.
        AdapterError: the weights do not fit, or the probe outputs differ.
    """
    facts = bundle.manifest.backbone
    if facts.hash != backbone.hash:
        raise BackboneError(
            f"adapter {bundle.manifest.name} was trained on backbone {facts.name!r} ({facts.hash}), not on "
            f"{backbone.name!r} ({backbone.hash}); load it on the one it was trained on"
        )
    spec = spec_of(bundle)
    head = make_head(spec, backbone.hidden_size, None, 0)
    try:
        head.load_state_dict(bundle.head)
    except RuntimeError as error:
        raise AdapterError(
            f"head of {bundle.manifest.name} does not fit its task: {str(error).splitlines()[-1].strip()}"
        ) from error
    if verify:
        saved = bundle.manifest.probe
        model = build(bundle, backbone, head, torch.float32)
        outputs = probe_outputs(model, spec, backbone, _encoding(bundle), saved.rows)
        difference = _difference(outputs, saved.logits)
        if not difference <= saved.tolerance:
            raise AdapterError(
                f"adapter {bundle.manifest.name} does not reproduce its saved outputs: they differ by "
                f"{difference:.2g}, more than {saved.tolerance:.2g}; the file or the backbone was changed"
            )
    return build(bundle, backbone, head, dtype or default_dtype())


def build(bundle: Bundle, backbone: Backbone, head: Head, dtype: torch.dtype) -> TaskModel:
    """Builds the model of saved weights without checking them against the probe."""
    from peft import LoraConfig

    known = {name: value for name, value in bundle.lora_config.items() if name in LoraConfig.__dataclass_fields__}
    config = LoraConfig(**{**known, "inference_mode": False})
    return whole_model(backbone, config, weights_from_peft(bundle.adapter), head, dtype)


def whole_model(backbone: Backbone, config: Any, weights: LoraWeights, head: Head, dtype: torch.dtype) -> TaskModel:
    """Builds a model that runs from token ids, with given LoRA weights."""
    encoder = backbone.load_encoder()
    inject_lora(encoder, config, dtype, weights)
    model = TaskModel(SegmentedEncoder(encoder, backbone.anatomy, 0), head, frozen=True)
    return model.requires_grad_(False).eval()


def probe_outputs(
    model: TaskModel, spec: TaskSpec, backbone: Backbone, encoding: Encoding, rows: tuple[Row, ...]
) -> list[Any]:
    """Returns the fp32 outputs on the probe rows, a nested list per row."""
    split = Split(rows)
    encoded = encode(
        split, spec, backbone.tokenizer, max_length=encoding.max_length, stride=encoding.stride, labelled=False
    )
    outputs = outputs_of(model, encoded, None, _CPU)
    per_row: list[list[Any]] = [[] for _ in range(encoded.n_rows)]
    for feature, row in enumerate(encoded.feature_row):
        part = (
            slice(encoded.offsets[feature], encoded.offsets[feature + 1])
            if model.head.per_token
            else slice(feature, feature + 1)
        )
        per_row[int(row)].extend([[float(f"{value:.8g}") for value in one] for one in outputs[part].tolist()])
    return per_row


def probe_facts(
    config: Any, weights: LoraWeights, head: Head, spec: TaskSpec, backbone: Backbone, encoding: Encoding
) -> ProbeFacts:
    """Computes what the manifest says of the probe rows, in fp32 whatever the training used."""
    detached: dict[str, tuple[Tensor, Tensor]] = {
        n: (a.detach().cpu(), b.detach().cpu()) for n, (a, b) in weights.items()
    }
    own = copy.deepcopy(head).cpu()  # the caller's head stays on its device, and trainable
    rows = probe_rows(spec.kind)
    outputs = probe_outputs(whole_model(backbone, config, detached, own, torch.float32), spec, backbone, encoding, rows)
    return ProbeFacts(rows=rows, logits=tuple(outputs), tolerance=_tolerance(own))


def _tolerance(head: Head) -> float:
    """Returns what outputs may differ by: of values in the unit of their labels, and never less than their rounding."""
    zero, one = head.scale_outputs(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    return PROBE_TOLERANCE * abs(one - zero) + 8 * torch.finfo(torch.float32).eps * abs(zero)


def _difference(outputs: Any, saved: Any) -> float:
    """Returns the greatest absolute difference of two nested lists, infinite where their shapes differ."""
    if isinstance(outputs, list | tuple) and isinstance(saved, list | tuple):
        if len(outputs) != len(saved):
            return float("inf")
        return max((_difference(a, b) for a, b in zip(outputs, saved, strict=True)), default=0.0)
    if isinstance(outputs, list | tuple) or isinstance(saved, list | tuple):
        return float("inf")
    return abs(float(outputs) - float(saved))


def _encoding(bundle: Bundle) -> Encoding:
    return Encoding(bundle.manifest.encoding.max_length, bundle.manifest.encoding.stride)
