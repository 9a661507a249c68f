"""Adapters of the LoRA family, made by peft and run by the engine's own layers.

peft decides what an adapter is (configuration, names, saved format); for training, its layers are exchanged for
:class:`~adaptmtl.backbone.precision.LowRankLinear`, which compute the same function from the same tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adaptmtl.backbone.load import Backbone
from adaptmtl.backbone.precision import LowRankLinear, replace_linears
from adaptmtl.errors import AdapterError, suggest

if TYPE_CHECKING:  # peft and transformers take 3 s to import, and a command whose products are at hand does without
    from peft import LoraConfig
    from transformers import PreTrainedModel

ADAPTER = "default"
#: A is drawn from the same seed for every adapter: adapters that share it merge with less loss.
INITIAL_A_SEED = 0
TARGETS = ("attention", "all")


@dataclass(frozen=True)
class LoraMethod:
    """Low-rank adaptation (Hu et al. 2021): each chosen matrix W becomes W + (alpha / rank) B A.

    Attributes:
        rank: inner dimension r.
        alpha: numerator of the scale.
        targets: "attention" (query and value), or "all" (query, value and both feed-forward matrices).
    """

    rank: int = 8
    alpha: float = 16.0
    targets: str = "all"

    def __post_init__(self) -> None:
        if self.targets not in TARGETS:
            raise AdapterError(f"LoRA targets {self.targets!r}{suggest(self.targets, TARGETS)}; give attention or all")
        if self.rank < 1 or not self.alpha > 0:
            raise AdapterError(f"LoRA rank {self.rank} and alpha {self.alpha:g} must both be above 0")

    def modules(self, backbone: Backbone, lower_layers: int) -> list[str]:
        """Returns the full names of the adapted modules, those of layer ``lower_layers`` and above."""
        anatomy = backbone.anatomy
        leaves = anatomy.attention + (anatomy.feed_forward if self.targets == "all" else ())
        layers = range(lower_layers, backbone.n_layers)
        return [f"{anatomy.layers}.{layer}.{leaf}" for layer in layers for leaf in leaves]

    def config(self, backbone: Backbone, lower_layers: int) -> LoraConfig:
        """Returns peft's configuration of this adapter on this backbone."""
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            target_modules=self.modules(backbone, lower_layers),
            lora_dropout=0.0,
            bias="none",
            task_type="FEATURE_EXTRACTION",
            base_model_name_or_path=backbone.hub_id or backbone.name,
            inference_mode=False,
        )

    def to_dict(self) -> dict[str, object]:
        """Returns the fields, for keys and manifests."""
        return {"method": "lora", **asdict(self)}


#: module name -> (A (rank, in), B (out, rank)), the scale not folded in
LoraWeights = dict[str, tuple[Tensor, Tensor]]


def inject_lora(
    model: PreTrainedModel, config: LoraConfig, dtype: torch.dtype, start: LoraWeights | None = None
) -> LoraWeights:
    """Adds a trainable LoRA to an encoder in place and readies it for the engine.

    Args:
        model: a whole fp32 encoder.
        config: from :meth:`LoraMethod.config`.
        dtype: of the matrix products.
        start: weights to begin from; without them A is random (one seed for all adapters) and B zero.

    Returns:
        The trainable tensors by module name; they stay shared with the model.

    Raises:
        AdapterError: ``start`` does not fit the configuration.
    """
    from peft import inject_adapter_in_model
    from peft.tuners.lora import Linear

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(INITIAL_A_SEED)
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    weights: LoraWeights = {}
    for name, module in list(model.named_modules()):
        if not isinstance(module, Linear):
            continue
        a, b = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
        assert isinstance(a, nn.Parameter) and isinstance(b, nn.Parameter)
        if start is not None:
            _copy_into(name, a, b, start)
        weights[name] = (a, b)
        layer = LowRankLinear(module.base_layer, a, b, module.scaling[ADAPTER], dtype)  # type: ignore[arg-type]
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)
    if start is not None and set(start) - set(weights):
        raise AdapterError(
            f"adapter has weights for modules the backbone lacks: {', '.join(sorted(set(start) - set(weights))[:3])}"
        )
    replace_linears(model, dtype)
    model.requires_grad_(False)
    for a, b in weights.values():
        a.requires_grad_(True)
        b.requires_grad_(True)
    return weights


def peft_state(weights: LoraWeights) -> dict[str, Tensor]:
    """Returns the weights under the names that peft saves them by."""
    state: dict[str, Tensor] = {}
    for name, (a, b) in weights.items():
        state[f"base_model.model.{name}.lora_A.weight"] = a.detach().float().cpu().contiguous().clone()
        state[f"base_model.model.{name}.lora_B.weight"] = b.detach().float().cpu().contiguous().clone()
    return state


def one_scale(config: Mapping[str, Any]) -> bool:
    """Whether all layers of a LoRA, given by peft's configuration, have its rank r and the scale alpha / r."""
    return not (config.get("use_rslora") or config.get("rank_pattern") or config.get("alpha_pattern"))


def weights_from_peft(state: dict[str, Tensor]) -> LoraWeights:
    """Reads weights back from peft's names.

    Raises:
        AdapterError: a key that is not a LoRA matrix, or an A without its B.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        name, _, half = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        if half not in ("lora_A", "lora_B"):
            raise AdapterError(f"adapter weight {key!r} is not a LoRA matrix; only LoRA adapters can be used here")
        halves.setdefault(name, {})[half] = value
    if incomplete := [name for name, pair in halves.items() if len(pair) != 2]:
        raise AdapterError(f"adapter lacks one of the two LoRA matrices of {incomplete[0]!r}; the file is damaged")
    return {name: (pair["lora_A"], pair["lora_B"]) for name, pair in halves.items()}


def _copy_into(name: str, a: nn.Parameter, b: nn.Parameter, start: LoraWeights) -> None:
    if name not in start:
        raise AdapterError(f"starting weights lack module {name!r}; they were made with other layers or targets")
    given_a, given_b = start[name]
    if given_a.shape != a.shape or given_b.shape != b.shape:
        raise AdapterError(f"starting weights of {name!r} have shapes {tuple(given_a.shape)}, {tuple(given_b.shape)}; "
                           f"expected {tuple(a.shape)}, {tuple(b.shape)}")  # fmt: skip
    with torch.no_grad():
        a.copy_(given_a)
        b.copy_(given_b)
