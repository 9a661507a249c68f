"""An encoder cut into embed | lower k layers | upper layers, for every supported architecture.

The model classes of transformers are used as they are: for the upper part the embeddings are replaced by a module
that hands out given states, and the layer list is cut. So masks, relative positions and rotary embeddings are computed
by the architecture's own code. Frozen layers of BERT's shape take a shorter way over the same weights
(:mod:`adaptmtl.backbone.post_norm`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from adaptmtl.backbone.anatomy import Anatomy
from adaptmtl.backbone.post_norm import PostNormLayers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class GivenStates(nn.Module):
    """Takes the place of the embeddings and returns the states it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.states: Tensor | None = None

    def forward(self, *_: object, **__: object) -> Tensor:
        """Returns the states, (features, tokens, hidden)."""
        assert self.states is not None
        return self.states


class _Unchanged(nn.Module):
    """Takes the place of a module whose work is already done."""

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        return x


class SegmentedEncoder(nn.Module):
    """The layers from ``first`` up of an encoder, fed with the states below them.

    Args:
        model: a whole encoder; it is changed in place.
        anatomy: where its parts lie.
        first: lower layers to cut off; 0 keeps the whole encoder, which then takes token ids.
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy, first: int):
        super().__init__()
        self.first = first
        self.given = GivenStates()
        if first:
            _set(model, anatomy.embeddings[0], self.given)
            for path in anatomy.embeddings[1:]:
                if _has(model, path):
                    _set(model, path, _Unchanged())
            _set(model, anatomy.layers, nn.ModuleList(_layers(model, anatomy)[first:]))
            for path in anatomy.first_layer_only:
                if _has(model, path):
                    _set(model, path, None)
        self.model = model
        self.anatomy = anatomy
        self.short = _short_way(model, anatomy)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None, states: Tensor | None
    ) -> Tensor:
        """Runs the layers.

        Args:
            input_ids: (features, tokens) token ids; only their shape counts where states are given.
            attention_mask: (features, tokens), 1 for tokens and 0 for padding.
            token_type_ids: (features, tokens) or None.
            states: (features, tokens, hidden) fp32 output of layer ``first``; None when ``first`` is 0.

        Returns:
            Hidden states of the last layer, (features, tokens, hidden), fp32.
        """
        extra = {} if token_type_ids is None or self.first else {"token_type_ids": token_type_ids}
        if self.short is not None and self.short.fits():
            hidden = states
            if hidden is None:
                hidden = self._embeddings(input_ids, extra)
            return self.short(hidden, attention_mask)
        self.given.states = states
        try:
            return self.model(input_ids=input_ids, attention_mask=attention_mask, **extra).last_hidden_state
        finally:
            self.given.states = None

    def _embeddings(self, input_ids: Tensor, extra: dict[str, Tensor]) -> Tensor:
        first, *rest = (path for path in self.anatomy.embeddings if _has(self.model, path))
        hidden = self.model.get_submodule(first)(input_ids=input_ids, **extra)
        for path in rest:
            hidden = self.model.get_submodule(path)(hidden)
        return hidden


def _short_way(model: PreTrainedModel, anatomy: Anatomy) -> PostNormLayers | None:
    """Returns the layers as :class:`PostNormLayers` where the configuration is BERT's own, else None."""
    config = model.config
    usual = (
        getattr(config, "hidden_act", None) or getattr(config, "activation", None),
        getattr(config, "position_embedding_type", "absolute"),
        bool(getattr(config, "is_decoder", False)),
        bool(getattr(config, "output_attentions", False)),
    ) == ("gelu", "absolute", False, False)
    if anatomy.post_norm is None or not usual:
        return None
    return PostNormLayers(_layers(model, anatomy), anatomy.post_norm, config.num_attention_heads)


def lower_part(model: PreTrainedModel, anatomy: Anatomy, k: int) -> PreTrainedModel:
    """Cuts a whole encoder, in place, down to the embeddings and the lowest ``k`` layers; its output are the states."""
    _set(model, anatomy.layers, nn.ModuleList(_layers(model, anatomy)[:k]))
    for path in anatomy.final:
        _set(model, path, _Unchanged())
    return model


def attention_dropout_off(module: nn.Module) -> None:
    """Turns attention-probability dropout off, which has no fast kernel on CPUs; hidden dropout stays."""
    for child in module.modules():
        for name in ("dropout_prob", "attention_dropout"):
            if isinstance(getattr(child, name, None), float):
                setattr(child, name, 0.0)
        dropout = getattr(child, "dropout", None)
        if type(child).__name__.endswith("SelfAttention") and isinstance(dropout, nn.Dropout):
            dropout.p = 0.0


def _layers(model: nn.Module, anatomy: Anatomy) -> list[nn.Module]:
    layers = model.get_submodule(anatomy.layers)
    assert isinstance(layers, nn.ModuleList)
    return list(layers)


def _has(model: nn.Module, path: str) -> bool:
    parent, _, leaf = path.rpartition(".")
    return getattr(model.get_submodule(parent) if parent else model, leaf, None) is not None


def _set(model: nn.Module, path: str, module: nn.Module | None) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent) if parent else model, leaf, module)
