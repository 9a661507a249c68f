"""Where the parts of each supported architecture lie: a table instead of an if-chain."""

from __future__ import annotations

from dataclasses import dataclass

from adaptmtl.errors import BackboneError


@dataclass(frozen=True)
class PostNorm:
    """Parts of a layer that adds and normalises after attention and after the feed-forward part (Vaswani et al. 2017).

    Attributes:
        linears: query, key, value, output projection, first and second feed-forward matrix.
        norms: after attention, after the feed-forward part.
    """

    linears: tuple[str, str, str, str, str, str]
    norms: tuple[str, str]


@dataclass(frozen=True)
class Anatomy:
    """Module paths inside ``AutoModel`` of one architecture.

    Attributes:
        embeddings: modules between the token ids and the first layer, in order; the first takes the ids.
        layers: the ModuleList of transformer layers.
        final: modules after the last layer that belong to the hidden states (a final norm), if any.
        attention: query and value projections inside a layer, the standard places for LoRA (Hu et al. 2021).
        feed_forward: both feed-forward matrices inside a layer.
        first_layer_only: modules that the encoder applies after its first layer and never again.
        post_norm: parts of a layer where it has BERT's shape, and nothing else is added to the attention scores.
    """

    embeddings: tuple[str, ...]
    layers: str
    attention: tuple[str, ...]
    feed_forward: tuple[str, ...]
    final: tuple[str, ...] = ()
    first_layer_only: tuple[str, ...] = ()
    post_norm: PostNorm | None = None


_BERT = Anatomy(
    embeddings=("embeddings",),
    layers="encoder.layer",
    attention=("attention.self.query", "attention.self.value"),
    feed_forward=("intermediate.dense", "output.dense"),
    post_norm=PostNorm(
        linears=(
            *("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
            *("intermediate.dense", "output.dense"),
        ),
        norms=("attention.output.LayerNorm", "output.LayerNorm"),
    ),
)

ANATOMY: dict[str, Anatomy] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": Anatomy(
        embeddings=("embeddings", "embeddings_project"),
        layers=_BERT.layers,
        attention=_BERT.attention,
        feed_forward=_BERT.feed_forward,
        post_norm=_BERT.post_norm,
    ),
    "distilbert": Anatomy(
        embeddings=("embeddings",),
        layers="transformer.layer",
        attention=("attention.q_lin", "attention.v_lin"),
        feed_forward=("ffn.lin1", "ffn.lin2"),
        post_norm=PostNorm(
            linears=(
                *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
                *("ffn.lin1", "ffn.lin2"),
            ),
            norms=("sa_layer_norm", "output_layer_norm"),
        ),
    ),
    "mpnet": Anatomy(
        embeddings=("embeddings",),
        layers="encoder.layer",
        attention=("attention.attn.q", "attention.attn.v"),
        feed_forward=("intermediate.dense", "output.dense"),
    ),
    "deberta-v2": Anatomy(
        embeddings=("embeddings",),
        layers="encoder.layer",
        attention=("attention.self.query_proj", "attention.self.value_proj"),
        feed_forward=("intermediate.dense", "output.dense"),
        first_layer_only=("encoder.conv",),
    ),
    "modernbert": Anatomy(
        embeddings=("embeddings",),
        layers="layers",
        attention=("attn.Wqkv",),
        feed_forward=("mlp.Wi", "mlp.Wo"),
        final=("final_norm",),
    ),
}


def anatomy_of(model_type: str) -> Anatomy:
    """Returns the table row of an architecture.

    Raises:
        BackboneError: the architecture is not supported.
    """
    if model_type not in ANATOMY:
        raise BackboneError(f"model type {model_type!r} is not supported; supported: {', '.join(sorted(ANATOMY))}")
    return ANATOMY[model_type]
