"""Exact arithmetic on what LoRA adapters add to a backbone, module by module, without ever forming out x in matrices.

All factorisations run in float64 and return the dtype of their input, so that identities hold to float32 rounding.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptmtl.errors import AdapterError

PREFIX = "base_model.model."
#: Singular values below this share of the largest are rounding, not signal.
NEGLIGIBLE = 1e-12
#: Settings under which a LoRA is more, or other, than ``base + scale * B @ A``.
NOT_PLAIN = (
    "use_dora",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
)
#: Initialisations that change the base weights, so that B @ A is not relative to the backbone as published.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, eq=False)
class LowRank:
    """The update ``b @ a`` of one weight matrix; every scale is folded into ``b``.

    Attributes:
        a: (rank, in) float32 or float64.
        b: (out, rank), same dtype.
    """

    a: Tensor
    b: Tensor

    def __post_init__(self) -> None:
        if self.a.dim() != 2 or self.b.dim() != 2 or self.a.shape[0] != self.b.shape[1] or self.a.shape[0] == 0:
            raise ValueError(f"not factors of one matrix: a {tuple(self.a.shape)}, b {tuple(self.b.shape)}")
        if self.a.dtype != self.b.dtype or self.a.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"factors must both be float32 or float64, not {self.a.dtype} and {self.b.dtype}")

    @property
    def rank(self) -> int:
        """Columns of ``b``: an upper bound of the rank of ``b @ a``."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of ``b @ a``."""
        return self.b.shape[0], self.a.shape[1]


Delta = dict[str, LowRank]


def from_peft(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Delta:
    """Reads a saved PEFT LoRA; half-precision weights become float32, ``modules_to_save`` (heads) are left out.

    Args:
        state: tensors of ``adapter_model.safetensors``.
        config: content of ``adapter_config.json``; rank and alpha patterns and rsLoRA are honoured.

    Raises:
        AdapterError: not a plain LoRA, or tensors that are missing, misshapen, not finite or not known.
    """
    _check_plain(config)
    kept_whole = tuple(config.get("modules_to_save") or ())
    factors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        match = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.lora_([AB])\.weight", key)
        if match:
            factors.setdefault(match[1], {})[match[2]] = tensor
        elif not any(f".{name}." in f".{key}." for name in kept_whole):
            raise AdapterError(f"adapter holds {key!r}, which is no linear LoRA weight: only plain LoRA can be merged")
    if not factors:
        raise AdapterError(f"adapter holds no '{PREFIX}<module>.lora_A.weight': is it a PEFT LoRA folder?")
    return {module: _read_module(module, parts, config) for module, parts in factors.items()}


def to_peft(delta: Delta) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Writes a delta as a PEFT LoRA whose scale is 1 in every module.

    Returns:
        The state to save (float32, contiguous), and the settings that must replace those of any LoraConfig it is
        saved with.

    Raises:
        AdapterError: the delta has no modules.
    """
    if not delta:
        raise AdapterError("cannot save an adapter without modules: merge at least one source that has weights")
    state = {}
    for module, update in delta.items():
        state[f"{PREFIX}{module}.lora_A.weight"] = update.a.detach().to("cpu", torch.float32, copy=True).contiguous()
        state[f"{PREFIX}{module}.lora_B.weight"] = update.b.detach().to("cpu", torch.float32, copy=True).contiguous()
    r = Counter(update.rank for update in delta.values()).most_common(1)[0][0]
    # "^" and escaping: PEFT matches patterns as suffixes, and "layer.1" would also match "layer.11".
    pattern = {f"^{re.escape(module)}": update.rank for module, update in delta.items() if update.rank != r}
    return state, {
        "r": r,
        "lora_alpha": r,
        "rank_pattern": pattern,
        "alpha_pattern": dict(pattern),
        "target_modules": sorted(delta),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "use_rslora": False,
        "init_lora_weights": True,
    }


def shapes(deltas: Sequence[Delta]) -> dict[str, tuple[int, int]]:
    """Returns (out, in) of every module that any of the deltas updates, sorted by name.

    Raises:
        AdapterError: two deltas disagree, so they cannot belong to one backbone.
    """
    seen: dict[str, tuple[int, int]] = {}
    for delta in deltas:
        for module, update in delta.items():
            if seen.setdefault(module, update.shape) != update.shape:
                raise AdapterError(
                    f"module {module!r} is {seen[module]} in one source and {update.shape} in another: "
                    "sources must be trained on the same backbone"
                )
    return dict(sorted(seen.items()))


def scale(delta: Delta, weight: float) -> Delta:
    """Returns ``weight * delta``."""
    return {module: LowRank(update.a, update.b * weight) for module, update in delta.items()}


def scale_outputs(delta: Delta, vectors: Mapping[str, Tensor]) -> Delta:
    """Multiplies each module's output features: ``diag(v) b @ a`` (the fold of ScaLearn, Frohmann et al. 2024).

    Args:
        delta: what to scale.
        vectors: (out,) of every module of ``delta``.

    Raises:
        AdapterError: a module without vector, a vector without module, or a vector of another size.
    """
    if unmatched := sorted(set(delta) ^ set(vectors)):
        raise AdapterError(
            f"scaling vectors and adapter differ in modules {', '.join(unmatched[:3])}: give one vector each"
        )
    result: Delta = {}
    for module, update in delta.items():
        vector = vectors[module]
        if tuple(vector.shape) != (update.shape[0],):
            raise AdapterError(
                f"scaling vector of {module!r} is {tuple(vector.shape)}, its output is ({update.shape[0]},)"
            )
        result[module] = LowRank(update.a, vector.to(update.b)[:, None] * update.b)
    return result


def add(deltas: Sequence[Delta], weights: Sequence[float]) -> Delta:
    """Returns ``sum_s weights[s] * deltas[s]`` exactly: ranks add up, a missing module counts as zero.

    Raises:
        AdapterError: shapes differ between the deltas.
    """
    if len(deltas) != len(weights):
        raise ValueError(f"{len(deltas)} deltas but {len(weights)} weights")
    result: Delta = {}
    for module in shapes(deltas):
        parts = [(delta[module], weight) for delta, weight in zip(deltas, weights, strict=True) if module in delta]
        a = torch.cat([update.a for update, _ in parts])  # (sum of ranks, in)
        b = torch.cat([update.b * weight for update, weight in parts], dim=1)  # (out, sum of ranks)
        result[module] = LowRank(a, b)
    return result


def compress(delta: Delta, rank: int) -> tuple[Delta, dict[str, float]]:
    """Returns the closest delta of at most ``rank`` per module, and per module the share of squared norm it keeps.

    Args:
        delta: modules whose rank is small enough already are returned as they are.
        rank: at least 1.

    Raises:
        AdapterError: the rank is below 1.
    """
    check_rank(rank)
    pairs = {module: _truncate(update, rank) for module, update in delta.items()}
    return {module: pair[0] for module, pair in pairs.items()}, {module: pair[1] for module, pair in pairs.items()}


def factorise(matrix: Tensor, rank: int) -> tuple[LowRank, float]:
    """Returns the closest factors of a dense (out, in) matrix, and the share of squared norm they keep."""
    check_rank(rank)
    u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    return _keep(u, s, vt, rank, matrix.dtype)


def check_rank(rank: int) -> None:
    """Raises AdapterError unless ``rank`` is at least 1."""
    if rank < 1:
        raise AdapterError(f"rank must be at least 1, not {rank}")


def dense(update: LowRank) -> Tensor:
    """Returns the (out, in) matrix ``b @ a``."""
    return update.b @ update.a


def inner(first: Delta, second: Delta) -> float:
    """Frobenius inner product, through the (rank, rank) products of factors."""
    total = 0.0
    for module in sorted(first.keys() & second.keys()):
        x, y = first[module], second[module]
        total += float(((x.b.double().T @ y.b.double()) * (x.a.double() @ y.a.double().T)).sum())
    return total


def norm(delta: Delta) -> float:
    """Frobenius norm over all modules; factors that cancel out are resolved to float64 rounding."""
    return math.sqrt(sum(float(_core(update)[1].square().sum()) for update in delta.values()))


def cosine(first: Delta, second: Delta) -> float:
    """Cosine between two deltas as flat vectors, 0 when one of them is zero."""
    size = norm(first) * norm(second)
    return inner(first, second) / size if size else 0.0


def relative_error(delta: Delta, reference: Delta) -> float:
    """``|delta - reference| / |reference|``; infinite when only the reference is zero."""
    distance, size = norm(add([delta, reference], [1.0, -1.0])), norm(reference)
    return distance / size if size else (math.inf if distance else 0.0)


def _core(update: LowRank) -> tuple[Tensor, Tensor, Tensor]:
    """QR of both factors: ``b @ a = q_out @ core @ q_in.T`` with a core of at most (rank, rank)."""
    q_out, r_out = torch.linalg.qr(update.b.double())  # (out, k), (k, rank)
    q_in, r_in = torch.linalg.qr(update.a.double().T)  # (in, l), (l, rank)
    return q_out, r_out @ r_in.T, q_in


def _truncate(update: LowRank, rank: int) -> tuple[LowRank, float]:
    if update.rank <= rank:
        return update, 1.0
    q_out, core, q_in = _core(update)
    u, s, vt = torch.linalg.svd(core, full_matrices=False)
    return _keep(q_out @ u, s, vt @ q_in.T, rank, update.a.dtype)


def _keep(u: Tensor, s: Tensor, vt: Tensor, rank: int, dtype: torch.dtype) -> tuple[LowRank, float]:
    """Cuts a singular value decomposition; both factors get the root of s, so that training treats them alike."""
    signal = int((s > s[0] * NEGLIGIBLE).sum())
    kept = max(1, min(rank, signal))
    root = s[:kept].sqrt()
    total = float(s.square().sum())
    energy = float(s[:kept].square().sum()) / total if total else 1.0
    return LowRank((root[:, None] * vt[:kept]).to(dtype), (u[:, :kept] * root).to(dtype)), energy


def _check_plain(config: Mapping[str, Any]) -> None:
    if config.get("peft_type", "LORA") != "LORA":
        raise AdapterError(f"adapter is of type {config['peft_type']}: only LoRA can be merged")
    for name in NOT_PLAIN:
        if config.get(name):
            raise AdapterError(f"adapter was trained with {name}={config[name]!r}: only plain LoRA can be merged")
    if config.get("bias", "none") != "none":
        raise AdapterError(f"adapter was trained with bias={config['bias']!r}: retrain it with bias='none' to merge it")
    init = str(config.get("init_lora_weights", True)).lower()
    if init.startswith(CHANGES_BASE):
        raise AdapterError(
            f"adapter was initialised with {init!r}, which changes the backbone: save it again with "
            "path_initial_model_for_weight_conversion to merge it"
        )


def _read_module(module: str, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> LowRank:
    if missing := {"A", "B"} - parts.keys():
        raise AdapterError(f"module {module!r} has no lora_{missing.pop()}: the adapter file is incomplete")
    for letter, tensor in parts.items():
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise AdapterError(f"lora_{letter} of {module!r} holds values that are not finite: train the adapter again")
    rank = _pattern_value("rank_pattern", module, config, config.get("r", 8))
    alpha = _pattern_value("alpha_pattern", module, config, config.get("lora_alpha", 8))
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise AdapterError(
            f"module {module!r} has rank {rank!r} and alpha {alpha!r} in adapter_config.json: need numbers"
        )
    a, b = parts["A"], parts["B"]
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != rank or b.shape[1] != rank:
        raise AdapterError(
            f"module {module!r} has lora_A {tuple(a.shape)} and lora_B {tuple(b.shape)}, "
            f"but adapter_config.json says rank {rank}: the folder's files do not belong together"
        )
    dtype = torch.float64 if torch.float64 in (a.dtype, b.dtype) else torch.float32
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return LowRank(a.detach().to(dtype), b.detach().to(dtype) * scaling)


def _pattern_value(name: str, module: str, config: Mapping[str, Any], default: Any) -> Any:
    """The first pattern that matches the end of the module's name wins, as in PEFT's ``get_pattern_key``."""
    patterns = config.get(name) or {}
    if not isinstance(patterns, Mapping):
        raise AdapterError(f"{name} in adapter_config.json is {patterns!r}: need a mapping of module pattern to number")
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            raise AdapterError(f"{name} in adapter_config.json has the broken pattern {pattern!r}: {error}") from error
    return default
