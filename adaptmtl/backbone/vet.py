"""A backbone's configuration is checked before transformers reads it.

Some configuration keys make transformers import or download code (``auto_map``, attention kernels named by a Hub
repository). Only listed model types pass, and any key that can name code is refused, at every depth. So is what makes
transformers load other weights than those in the folder that were hashed: an adapter's configuration beside them, an
index that names files elsewhere or pickles.
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
        "_experts_implementation",
        "quantization_config",
        "use_kernels",
        "kernel_config",
        "device_map",
        "transformers_weights",
    }
)
#: Values of the attention keys that name code inside transformers itself.
BUILT_IN_ATTENTION = ("eager", "sdpa")
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".msgpack", ".h5")


def vet_folder(folder: Path, name: str) -> dict[str, Any]:
    """Checks a backbone folder and returns its parsed ``config.json``.

    Raises:
        BackboneError: no or broken config.json, an unsupported model type, a refused key, weights that are not
            safetensors, or files that lead transformers to other weights.
    """
    if (folder / "adapter_config.json").exists():
        raise BackboneError(
            f"backbone {name!r}: {folder} has an adapter_config.json, so transformers would load the model that it "
            "names; give the folder of the backbone itself"
        )
    config = _json(folder / "config.json", name)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ANATOMY:
        raise BackboneError(
            f"backbone {name!r}: model type {model_type!r} is not supported; supported: {', '.join(sorted(ANATOMY))}"
        )
    for file in ("config.json", "tokenizer_config.json"):
        if (folder / file).exists() and (found := _refused(_json(folder / file, name))):
            raise BackboneError(
                f"backbone {name!r}: {file} has the key {found!r}, which can run code; "
                "remove it if you trust the source"
            )
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
        seen = f"only {', '.join(pickled)}" if pickled else "no weights"
        raise BackboneError(
            f"backbone {name!r}: {seen} in {folder}; weights must be safetensors (convert and save again)"
        )
    for index in sorted(folder.glob("*.safetensors.index.json")):
        weight_map = _json(index, name).get("weight_map")
        names = weight_map.values() if isinstance(weight_map, dict) else [weight_map]
        if wrong := [one for one in names if not _is_shard(folder, one)]:
            raise BackboneError(
                f"backbone {name!r}: {index.name} names {wrong[0]!r}, which is no safetensors file of that folder; "
                "fetch or save the model again"
            )
    return config


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BackboneError(f"backbone {name!r}: {path} does not exist; is this a transformers model folder?") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BackboneError(f"backbone {name!r}: {path} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise BackboneError(f"backbone {name!r}: {path} holds a {type(value).__name__}, not an object")
    return value


def _is_shard(folder: Path, name: Any) -> bool:
    plain = isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name
    return plain and (folder / name).is_file()


def _refused(value: Any) -> str | None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in REFUSED_KEYS and inner not in (None, False, {}, [], *BUILT_IN_ATTENTION):
                return key
            if found := _refused(inner):
                return found
    elif isinstance(value, list):
        for inner in value:
            if found := _refused(inner):
                return found
    return None
