"""What is saved of an adapter: a folder that plain peft loads, with a head, a signature and a manifest beside.

Weights are safetensors and every file's sha256 stands in the manifest. Nothing here unpickles or executes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from adaptmtl.adapters.manifest import MANIFEST, Manifest, parse_manifest
from adaptmtl.errors import AdapterError, BackboneError

CONFIG = "adapter_config.json"
ADAPTER = "adapter_model.safetensors"
HEAD = "head.safetensors"
SIGNATURE = "signature.safetensors"
CARD = "README.md"
#: Every file of an adapter's folder; all but the manifest itself and the card are named in the manifest.
FILES = (CONFIG, ADAPTER, HEAD, SIGNATURE, MANIFEST, CARD)

_REQUIRED = (CONFIG, ADAPTER, HEAD, SIGNATURE)
_SAFE_SUFFIXES = (".json", ".safetensors")
_REMEDY = "make or pull the adapter again"
_LORA_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.(?P<part>lora_A|lora_B)\.weight")
_MAGNITUDE_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_magnitude_vector(\.weight)?")
#: Settings of peft that change the base model, train something else than A and B, or import code named in the file.
_REFUSED = (
    "auto_mapping", "megatron_config", "modules_to_save", "layer_replication", "trainable_token_indices",
    "target_parameters", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config",
    "monteclora_config", "arrow_config", "kasa_config", "alora_invocation_tokens", "use_qalora", "use_bdlora",
    "lora_bias",
)  # fmt: skip
_PLAIN_STARTS = (True, False, "gaussian")


@dataclass(frozen=True)
class Bundle:
    """An adapter with everything that is saved of it.

    Attributes:
        manifest: what it is, what it depends on, what was measured.
        lora_config: peft's adapter_config.json.
        adapter: in peft's saved format, ``base_model.model.<module>.lora_A.weight`` (r, in) and ``lora_B`` (out, r).
        head: tensors of the output layer; never merged.
        signature: what estimators need to rank the adapter without its weights.
    """

    manifest: Manifest
    lora_config: dict[str, Any]
    adapter: dict[str, Tensor]
    head: dict[str, Tensor]
    signature: dict[str, Tensor]


def write_bundle(folder: Path, bundle: Bundle) -> Manifest:
    """Writes a bundle's files into a folder that is still temporary (:func:`adaptmtl.storage.publish_folder`).

    Args:
        folder: an existing folder.
        bundle: what to write; ``manifest.files`` is filled in here.

    Returns:
        The manifest as written, with the sha256 of every file.

    Raises:
        AdapterError: weights that are not finite or do not fit together, or settings that plain peft would not load.
    """
    config = _plain({**bundle.lora_config, "inference_mode": True})
    _check_config(config, CONFIG)
    _check_lora(bundle.adapter, config, ADAPTER)
    content = {CONFIG: _json(config, CONFIG)}
    for name, tensors in ((ADAPTER, bundle.adapter), (HEAD, bundle.head), (SIGNATURE, bundle.signature)):
        _check_finite(tensors, name)
        content[name] = tensors_to_bytes(
            {key: _own(tensors[key]) for key in sorted(tensors)}, metadata={"format": "pt"}
        )
    digests = {name: hashlib.sha256(raw).hexdigest() for name, raw in content.items()}
    manifest = bundle.manifest.model_copy(update={"files": digests})
    manifest_raw = _json(manifest.model_dump(mode="json"), MANIFEST)
    parse_manifest(manifest_raw, MANIFEST)
    for name, raw in content.items():
        (folder / name).write_bytes(raw)
    (folder / MANIFEST).write_bytes(manifest_raw)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Reads ``adaptmtl.json``.

    Raises:
        AdapterError: it is missing or not a valid manifest.
    """
    return parse_manifest(_read(folder, MANIFEST), str(folder / MANIFEST))


def read_bundle(folder: Path, *, backbone_hash: str | None = None, backbone_name: str | None = None) -> Bundle:
    """Reads and verifies an adapter's folder.

    Args:
        folder: as written by :func:`write_bundle`.
        backbone_hash: hash of the backbone that it shall be used with; None to skip this check.
        backbone_name: that backbone's name, for the message.

    Raises:
        AdapterError: a file is missing, changed, truncated or a pickle, or tensors do not fit together.
        BackboneError: the adapter was trained on another backbone.
    """
    manifest = read_manifest(folder)
    if backbone_hash is not None and backbone_hash != manifest.backbone.hash:
        other = f"{backbone_name!r} (hash {backbone_hash})" if backbone_name else f"the one with hash {backbone_hash}"
        raise BackboneError(
            f"adapter {manifest.name} was trained on backbone {manifest.backbone.name!r} "
            f"(hash {manifest.backbone.hash}), not on {other}: use that backbone, or train the adapter on this one"
        )
    check_files(manifest, str(folder / MANIFEST))
    content = {name: _verified(folder, name, manifest) for name in manifest.files}
    config = _parse_config(content[CONFIG], str(folder / CONFIG))
    adapter, head, signature = (_tensors(content[name], folder / name) for name in (ADAPTER, HEAD, SIGNATURE))
    _check_lora(adapter, config, str(folder / ADAPTER))
    return Bundle(manifest, config, adapter, head, signature)


def read_signature(folder: Path) -> tuple[Manifest, dict[str, Tensor]]:
    """Reads and verifies only what estimators need to rank an adapter; its weights stay unread.

    Raises:
        AdapterError: the manifest or the signature is missing, changed or truncated.
    """
    manifest = read_manifest(folder)
    check_files(manifest, str(folder / MANIFEST))
    return manifest, _tensors(_verified(folder, SIGNATURE, manifest), folder / SIGNATURE)


def check_files(manifest: Manifest, where: str) -> None:
    """Checks that a manifest names all files of an adapter, and none that could hold code.

    Raises:
        AdapterError: a file is missing from the manifest, or is a pickle or of another unsafe type.
    """
    for name in manifest.files:
        if not name.endswith(_SAFE_SUFFIXES):
            raise AdapterError(
                f"{where} names {name}, which may hold code (only {', '.join(_SAFE_SUFFIXES)} are read): {_REMEDY}"
            )
    missing = [name for name in _REQUIRED if name not in manifest.files]
    if missing:
        raise AdapterError(f"{where} does not name {', '.join(missing)}: {_REMEDY}")


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        seen = "is missing" if folder.is_dir() else "is missing (the folder does not exist)"
    except OSError as error:
        seen = f"cannot be read ({error.strerror})"
    raise AdapterError(f"{folder / name} {seen}: {_REMEDY}")


def _verified(folder: Path, name: str, manifest: Manifest) -> bytes:
    raw = _read(folder, name)
    seen = hashlib.sha256(raw).hexdigest()
    if seen != manifest.files[name]:
        raise AdapterError(
            f"{folder / name} was changed or truncated: {len(raw)} bytes with sha256 {seen[:12]}..., "
            f"the manifest says {manifest.files[name][:12]}...; {_REMEDY}"
        )
    return raw


def _tensors(raw: bytes, where: Path) -> dict[str, Tensor]:
    try:
        tensors = tensors_from_bytes(raw)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise AdapterError(f"{where} is not a valid safetensors file ({reason}): {_REMEDY}") from error
    _check_finite(tensors, str(where))
    return tensors


def _parse_config(raw: bytes, where: str) -> dict[str, Any]:
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{where} is not JSON ({error}): {_REMEDY}") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{where} holds a {type(config).__name__}, not an object: {_REMEDY}")
    _check_config(config, where)
    return config


def _check_config(config: Mapping[str, Any], where: str) -> None:
    wanted: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("peft_type", ("LORA",)),
        ("task_type", ("FEATURE_EXTRACTION",)),
        ("inference_mode", (True,)),
        ("bias", ("none", None)),
        ("init_lora_weights", (*_PLAIN_STARTS, None)),
    )
    for key, accepted in wanted:
        if config.get(key) not in accepted:
            raise AdapterError(f"{where}: {key} is {config.get(key)!r}, expected {accepted[0]!r}: {_REMEDY}")
    for key in _REFUSED:
        if config.get(key):
            raise AdapterError(
                f"{where}: {key} is set, and is refused because it reaches beyond the adapter: {_REMEDY}"
            )
    if type(config.get("r")) is not int or config["r"] < 1:
        raise AdapterError(f"{where}: r is {config.get('r')!r}, expected a positive whole number: {_REMEDY}")
    targets = config.get("target_modules")
    named = isinstance(targets, list) and all(isinstance(one, str) for one in targets)
    if not (targets and (named or isinstance(targets, str))):
        raise AdapterError(f"{where}: target_modules is {targets!r}, expected module names: {_REMEDY}")
    for key in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(key) or {}
        if not isinstance(pattern, dict) or not all(type(one) in (int, float) for one in pattern.values()):
            raise AdapterError(f"{where}: {key} is {pattern!r}, expected module names with numbers: {_REMEDY}")


def _check_lora(adapter: Mapping[str, Tensor], config: Mapping[str, Any], where: str) -> None:
    pairs: dict[str, dict[str, Tensor]] = {}
    magnitudes = set()
    for key, tensor in adapter.items():
        if match := _LORA_KEY.fullmatch(key):
            pairs.setdefault(match["module"], {})[match["part"]] = tensor
        elif config.get("use_dora") and (match := _MAGNITUDE_KEY.fullmatch(key)):
            magnitudes.add(match["module"])
        else:
            raise AdapterError(
                f"{where}: unexpected tensor {key!r}, expected base_model.model.<module>.lora_A|lora_B.weight"
            )
    if not pairs:
        raise AdapterError(f"{where} holds no LoRA weights: {_REMEDY}")
    if stray := sorted(magnitudes - set(pairs)):
        raise AdapterError(f"{where}: {stray[0]} has a magnitude but no lora_A and lora_B: {_REMEDY}")
    ranks = {config["r"], *(config.get("rank_pattern") or {}).values()}
    for module, pair in pairs.items():
        if set(pair) != {"lora_A", "lora_B"}:
            raise AdapterError(f"{where}: {module} has {next(iter(pair))} only: {_REMEDY}")
        a, b = pair["lora_A"], pair["lora_B"]
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise AdapterError(
                f"{where}: {module} has A {tuple(a.shape)} and B {tuple(b.shape)}, "
                f"expected (r, in) and (out, r): {_REMEDY}"
            )
        if not (a.is_floating_point() and b.is_floating_point()):
            raise AdapterError(f"{where}: {module} holds {a.dtype} and {b.dtype}, not floating point: {_REMEDY}")
        if a.shape[0] not in ranks:
            raise AdapterError(
                f"{where}: {module} has rank {a.shape[0]}, but {CONFIG} says {_listed(ranks)}: {_REMEDY}"
            )
        if not _is_target(module, config["target_modules"]):
            raise AdapterError(
                f"{where}: {module} is none of the target_modules in {CONFIG}, so peft would drop it: {_REMEDY}"
            )


def _check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and (bad := int((~torch.isfinite(tensor.float())).sum())):
            raise AdapterError(
                f"{where}: {bad} of {tensor.numel()} values in {key} are not finite: "
                "train again with a lower learning rate"
            )


def _is_target(module: str, targets: list[str] | str) -> bool:
    if isinstance(targets, str):  # a pattern of the file's author: peft's to run, not ours
        return True
    return any(module == one or module.endswith("." + one) for one in targets)


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu").contiguous().clone()


def _plain(value: Any) -> Any:
    """Turns peft's configuration into what JSON holds: sets become sorted lists, enums their values."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(one) for one in value)
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return _plain(value.value) if isinstance(value, Enum) else value


def _json(value: Any, where: str) -> bytes:
    try:
        return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise AdapterError(f"{where} cannot be written as JSON: {error}") from error


def _listed(values: set[Any]) -> str:
    return " or ".join(sorted(map(str, values)))
