"""A real but tiny backbone in a folder: a random BERT of 4 layers and width 32, with a WordPiece tokenizer."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, BertTokenizerFast

LAYERS, HIDDEN, MAX_LENGTH = 4, 32, 128
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "the", "a", "an", "of", "to", "and", "in", "is", "it", "that", "was", "for", "on", "are", "with", "as", "at",
    "by", "from", "this", "not", "good", "bad", "great", "poor", "happy", "sad", "yes", "no", "who", "what",
    "when", "where", "why", "how", "which", "red", "green", "blue", "dog", "cat", "house", "river", "city",
    "song", "book", "film", "game", "team", "won", "lost", "day", "year", "first", "second", "one", "two",
    "three", "four", "five", "big", "small", "old", "new", "up", "down", "left", "right",
]  # fmt: skip


def vocabulary() -> dict[str, int]:
    """Special tokens, every ASCII letter, digit and mark (alone and inside a word), and common words."""
    marks = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [*SPECIAL, *marks, *(f"##{one}" for one in string.ascii_lowercase + string.digits), *WORDS]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


def tiny_tokenizer() -> BertTokenizerFast:
    inner = Tokenizer(models.WordPiece(vocabulary(), unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    ids = [(name, SPECIAL.index(name)) for name in ("[CLS]", "[SEP]")]
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return BertTokenizerFast(tokenizer_object=inner)


def write_tiny_backbone(folder: Path, seed: int = 0) -> Path:
    """Writes config.json, model.safetensors and the tokenizer; equal seeds give equal weights."""
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=MAX_LENGTH,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config, add_pooling_layer=False)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder
