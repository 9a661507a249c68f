"""A backbone's configuration is checked before transformers reads it.

Some configuration keys make transformers import or download code (``auto_map``, attention kernels named by a Hub
repository). Only listed model types pass, and any key that can name code is refused, at every depth.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adaptmtl.backbone.anatomy import ANATOMY
from adaptmtl.errors import BackboneError

REFUSED_KEYS = frozenset(
    {
        "auto_map",
        "custom_pipelines",
        "trust_remote_code",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "_attn_implementation_autoset",
        "_experts_implementation",
        "quantization_config",
        "use_kernels",
        "kernel_config",
        "device_map",
    }
)
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".msgpack", ".h5")


def vet_folder(folder: Path, name: str) -> dict[str, Any]:
    """Checks a backbone folder and returns its parsed ``config.json``.

    Raises:
        BackboneError: no or broken config.json, an unsupported model type, a refused key, weights that are not
            safetensors.
    """
    config = _json(folder / "config.json", name)
    model_type = config.get("model_type")
    if model_type not in ANATOMY:
        raise BackboneError(
            f"backbone {name!r}: model type {model_type!r} is not supported; supported: {', '.join(sorted(ANATOMY))}"
        )
    for file in ("config.json", "tokenizer_config.json"):
        if (folder / file).exists() and (found := _refused(_json(folder / file, name))):
            raise BackboneError(
                f"backbone {name!r}: {file} has the key {found!r}, which can run code; remove it if you trust the source"
            )
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
        seen = f"only {', '.join(pickled)}" if pickled else "no weights"
        raise BackboneError(
            f"backbone {name!r}: {seen} in {folder}; weights must be safetensors (convert and save again)"
        )
    return config


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BackboneError(f"backbone {name!r}: {path} does not exist; is this a transformers model folder?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BackboneError(f"backbone {name!r}: {path} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise BackboneError(f"backbone {name!r}: {path} holds a {type(value).__name__}, not an object")
    return value


def _refused(value: Any) -> str | None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in REFUSED_KEYS and inner not in (None, False, {}, []):
                return key
            if found := _refused(inner):
                return found
    elif isinstance(value, list):
        for inner in value:
            if found := _refused(inner):
                return found
    return None
