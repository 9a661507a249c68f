"""Tokens of many texts, and their layout into features: tokenised once in bulk, then only arithmetic on counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from adaptmtl.errors import BackboneError

_TEXTS_AT_ONCE, _CHARACTERS_AT_ONCE = 1000, 2_000_000  # bounds the memory that the tokenizer's own objects take
_PROBES = ("a", "A", "1", ".")


@dataclass(frozen=True)
class Pool:
    """Tokens of distinct texts end to end; text i of the caller is ``ids[starts[i]:starts[i] + lengths[i]]``."""

    ids: np.ndarray  # (tokens,) int32
    spans: np.ndarray | None  # (tokens, 2) int32, characters of the text
    starts: np.ndarray  # (texts,) int64
    lengths: np.ndarray  # (texts,) int64

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: Any, spans: bool = False) -> Pool:
        """Tokenises each distinct text once, without special tokens and whole; with ``spans`` also its characters."""
        distinct: dict[str, int] = {}
        which = np.fromiter((distinct.setdefault(text, len(distinct)) for text in texts), np.int64, len(texts))
        ids, offsets, lengths = [np.empty(0, np.int32)], [np.empty((0, 2), np.int32)], [np.empty(0, np.int64)]
        for chunk in _chunks(distinct):
            tokens = tokenizer(
                chunk,
                add_special_tokens=False,
                padding=False,
                truncation=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                return_offsets_mapping=spans,
                verbose=False,
            )
            lengths.append(np.array([len(row) for row in tokens["input_ids"]], dtype=np.int64))
            ids.append(np.array([token for row in tokens["input_ids"] for token in row], dtype=np.int32))
            if spans:
                pairs = [span for row in tokens["offset_mapping"] for span in row]
                offsets.append(np.array(pairs, dtype=np.int32).reshape(-1, 2))
        counts = np.concatenate(lengths)
        starts = cumulative(counts)[:-1]
        return cls(np.concatenate(ids), np.concatenate(offsets) if spans else None, starts[which], counts[which])


@dataclass(frozen=True)
class Template:
    """Where a tokenizer puts special tokens: alternating blocks of (ids, type) and places of the texts."""

    blocks: tuple[tuple[int | None, tuple[int, ...], tuple[int, ...]], ...]  # (text or None, ids, types)
    specials: int

    @classmethod
    def of(cls, tokenizer: Any, pair: bool, max_length: int) -> Template:
        """Finds it by tokenising a probe, since tokenizers do not state it.

        Raises:
            BackboneError: ``max_length`` leaves no room for text, or the vocabulary is broken.
        """
        wanted = (0, 1) if pair else (0,)
        for probe in _PROBES:
            tokens = tokenizer(
                probe, probe if pair else None, return_token_type_ids=True, padding=False, truncation=False
            )
            of_text = tokens.sequence_ids(0)
            if all(text in of_text for text in wanted):
                break
        else:
            raise BackboneError(
                f"tokenizer {type(tokenizer).__name__} gives no token for {_PROBES}: its vocabulary is broken"
            )
        blocks = []
        for text, group in groupby(
            zip(of_text, tokens["input_ids"], tokens["token_type_ids"], strict=True), lambda g: g[0]
        ):
            members = list(group)
            blocks.append((text, tuple(m[1] for m in members), tuple(m[2] for m in members)))
        specials = sum(text is None for text in of_text)
        if max_length < specials + 2:
            raise BackboneError(
                f"max_length {max_length} leaves no room for text beside {specials} special tokens: "
                f"use {specials + 2} or more"
            )
        return cls(tuple(blocks), specials)


@dataclass(frozen=True)
class Layout:
    """Flat arrays of features, and where in them each text begins."""

    input_ids: np.ndarray  # (total_tokens,) int32
    token_type_ids: np.ndarray | None  # (total_tokens,) int8
    offsets: np.ndarray  # (features + 1,) int64
    begins: np.ndarray  # (2, features) int64 into the flat arrays

    @classmethod
    def single(cls, pool: Pool, tokenizer: Any, max_length: int) -> Layout:
        """Features of one text each."""
        one, nothing = Template.of(tokenizer, False, max_length), np.zeros_like(pool.starts)
        starts, kept = np.stack([pool.starts, nothing]), np.stack([pool.lengths, nothing])
        return cls.of(pool, starts, kept, np.zeros(len(nothing), dtype=bool), one, one, tokenizer)

    @classmethod
    def of(
        cls,
        pool: Pool,
        starts: np.ndarray,
        kept: np.ndarray,
        paired: np.ndarray,
        one: Template,
        two: Template,
        tokenizer: Any,
    ) -> Layout:
        """Lays out ``kept`` (2, features) of the pool's tokens from ``starts`` (2, features) on."""
        offsets = cumulative(kept.sum(axis=0) + np.where(paired, two.specials, one.specials))
        ids = np.empty(offsets[-1], dtype=np.int32)
        types = np.zeros(offsets[-1], dtype=np.int8)
        begins = np.zeros_like(starts)
        for template, features in ((one, np.flatnonzero(~paired)), (two, np.flatnonzero(paired))):
            at = offsets[features]
            for text, special, block_types in template.blocks:
                if text is None:
                    places = at[:, None] + np.arange(len(special))
                    ids[places], types[places] = special, block_types
                    at = at + len(special)
                else:
                    length = kept[text, features]
                    places = ranges(at, length)
                    ids[places] = pool.ids[ranges(starts[text, features], length)]
                    types[places] = block_types[0]
                    begins[text, features] = at
                    at = at + length
        has_types = "token_type_ids" in tokenizer.model_input_names
        return cls(ids, types if has_types else None, offsets, begins)

    def place(self, values: np.ndarray, starts: np.ndarray, kept: np.ndarray, text: int, fill: int) -> np.ndarray:
        """Puts values that run along the pool's tokens where those tokens went; ``fill`` everywhere else."""
        placed = np.full((self.offsets[-1], *values.shape[1:]), fill, dtype=values.dtype)
        placed[ranges(self.begins[text], kept)] = values[ranges(starts, kept)]
        return placed


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    characters = 0
    for text in texts:
        chunk.append(text)
        characters += len(text)
        if len(chunk) == _TEXTS_AT_ONCE or characters >= _CHARACTERS_AT_ONCE:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def cumulative(lengths: np.ndarray) -> np.ndarray:
    """(n,) -> (n + 1,) int64 boundaries."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenates ``arange(start, start + length)`` of all ranges."""
    bounds = cumulative(lengths)
    return np.repeat(starts - bounds[:-1], lengths) + np.arange(bounds[-1])
