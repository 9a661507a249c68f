"""Rows to tokens: every kind of task is tokenised once, in bulk, and laid out as flat arrays.

Each distinct text is tokenised once, without special tokens and without truncation; cutting, windows and special tokens
are then arithmetic on token counts. The result equals what the tokenizer gives for each row with
``truncation="longest_first"``, and the number of rows that lost text is exact.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from adaptmtl.errors import BackboneError, DataError
from adaptmtl.tasks.encode_layout import Layout, Pool, Template, cumulative, ranges
from adaptmtl.tasks.encoded import EncodedRows
from adaptmtl.tasks.rows import Split
from adaptmtl.tasks.spec import Kind, TaskSpec

IGNORED = -100  # label of a token that no loss is computed on
_SURROGATES = re.compile("[\ud800-\udfff]")


def encode(
    split: Split,
    spec: TaskSpec,
    tokenizer: Any,
    *,
    max_length: int,
    stride: int | None = None,
    labelled: bool = True,
) -> EncodedRows:
    """Tokenises the rows of a split.

    Args:
        split: rows in the columns of the task's kind.
        spec: the task; ``label_names`` bounds the labels.
        tokenizer: a fast Hugging Face tokenizer.
        max_length: tokens that a feature has at most, special ones included. Of a pair the longer text is cut first;
            a question is cut to half of it, a context is never cut but spread over windows.
        stride: question answering: tokens that neighbouring windows share, at most half a window; a quarter of
            ``max_length`` by default.
        labelled: False leaves ``labels`` out; then rows need none.

    Returns:
        The encoded rows, in the order of the split.

    Raises:
        BackboneError: the tokenizer is a slow one, or ``max_length`` leaves no room for text.
        DataError: a column is missing, or a label does not fit the task.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise BackboneError(f"tokenizer {type(tokenizer).__name__} is not a fast one: load it with use_fast=True")
    if stride is not None and not 0 <= stride < max_length:
        raise DataError(f"stride {stride} is not in 0..{max_length - 1}: it counts the tokens that windows share")
    if spec.kind is Kind.QUESTION_ANSWERING:
        return _encode_questions(split, tokenizer, max_length, max_length // 4 if stride is None else stride, labelled)
    if spec.kind is Kind.TOKEN_CLASSIFICATION:
        return _encode_words(split, spec, tokenizer, max_length, labelled)
    if spec.kind is Kind.MULTIPLE_CHOICE:
        return _encode_choices(split, tokenizer, max_length, labelled)
    return _encode_texts(split, spec, tokenizer, max_length, labelled)


def _encode_texts(split: Split, spec: TaskSpec, tokenizer: Any, max_length: int, labelled: bool) -> EncodedRows:
    pairs = [row.get("text_pair") for row in split.rows]
    paired = np.array([pair is not None for pair in pairs], dtype=bool)
    seconds = [_text("" if pair is None else pair, "text_pair", i) for i, pair in enumerate(pairs)]
    pool = Pool.of(_texts(split, "text") + seconds, tokenizer)
    labels = None
    if labelled and spec.kind is Kind.REGRESSION:
        labels = _numbers(_column(split, "label"))
    elif labelled and spec.kind is Kind.MULTI_LABEL_CLASSIFICATION:
        labels = _marks(_column(split, "labels"), len(spec.label_names or ()))
    elif labelled:
        labels = _integers(_column(split, "label"), _bounds(spec, len(split)), "label")
    rows = np.arange(len(split))
    return _lay_out_texts(
        spec.kind, pool, rows, rows + len(split), paired, np.ones_like(rows), tokenizer, max_length, labels
    )


def _encode_choices(split: Split, tokenizer: Any, max_length: int, labelled: bool) -> EncodedRows:
    choices = _column(split, "choices")
    counts = np.array([len(row) for row in choices], dtype=np.int64)
    if (counts == 0).any():
        raise DataError(f"row {int(np.argmin(counts))} has no choices: remove it or give it at least two")
    seconds = [_text(choice, "choices", i) for i, row in enumerate(choices) for choice in row]
    pool = Pool.of(_texts(split, "text") + seconds, tokenizer)
    labels = _integers(_column(split, "label"), counts, "label") if labelled else None
    texts, features = np.repeat(np.arange(len(split)), counts), int(counts.sum())
    paired, second = np.ones(features, dtype=bool), len(split) + np.arange(features)
    return _lay_out_texts(Kind.MULTIPLE_CHOICE, pool, texts, second, paired, counts, tokenizer, max_length, labels)


def _lay_out_texts(
    kind: Kind,
    pool: Pool,
    first: np.ndarray,
    second: np.ndarray,
    paired: np.ndarray,
    per_unit: np.ndarray,
    tokenizer: Any,
    max_length: int,
    labels: np.ndarray | None,
) -> EncodedRows:
    """Features of the pool's texts ``first[i]`` and, where ``paired``, ``second[i]``; ``per_unit`` of them a row."""
    one, two = (Template.of(tokenizer, pair, max_length) for pair in (False, True))
    room = np.where(paired, max_length - two.specials, max_length - one.specials)
    lengths = np.stack([pool.lengths[first], np.where(paired, pool.lengths[second], 0)])  # (2, features)
    # The rule of the tokenizers library: the shorter text is kept as far as half the room goes.
    short = np.minimum(lengths.min(axis=0), np.where(paired, room // 2, 0))
    long = np.minimum(lengths.max(axis=0), room - short)
    kept = np.where(lengths[0] <= lengths[1], np.stack([short, long]), np.stack([long, short]))
    starts = np.stack([pool.starts[first], pool.starts[second]]) + _cut_in_front(tokenizer, lengths - kept)
    layout = Layout.of(pool, starts, kept, paired, one, two, tokenizer)
    rows = np.repeat(np.arange(len(per_unit)), per_unit)
    return EncodedRows(
        kind=kind,
        n_rows=len(per_unit),
        input_ids=layout.input_ids,
        token_type_ids=layout.token_type_ids,
        offsets=layout.offsets,
        unit_offsets=cumulative(per_unit),
        feature_row=rows.astype(np.int64),
        labels=labels,
        truncated=len(np.unique(rows[(kept < lengths).any(axis=0)])),
    )


def _encode_words(split: Split, spec: TaskSpec, tokenizer: Any, max_length: int, labelled: bool) -> EncodedRows:
    words = _column(split, "tokens")
    counts = np.array([len(row) for row in words], dtype=np.int64)
    space = _space_between_words(tokenizer)
    pool = Pool.of([space + _text(word, "tokens", i) for i, row in enumerate(words) for word in row], tokenizer)
    # A word that gives no token has length 0 here and so takes no place, without moving the words after it.
    sources = ranges(pool.starts, pool.lengths)
    lengths = np.diff(cumulative(pool.lengths)[cumulative(counts)])  # (rows,)
    kept = np.minimum(lengths, max_length - Template.of(tokenizer, False, max_length).specials)
    starts = cumulative(lengths)[:-1] + _cut_in_front(tokenizer, lengths - kept)
    running = Pool(pool.ids[sources], None, starts, kept)
    layout = Layout.single(running, tokenizer, max_length)
    word_in_row = np.repeat(ranges(np.zeros_like(counts), counts), pool.lengths)
    begins = ranges(np.zeros_like(pool.lengths), pool.lengths) == 0
    placed = layout.place(np.where(begins, word_in_row, -1).astype(np.int32), starts, kept, 0, -1)
    labels = None
    if labelled:
        tags = _column(split, "tags")
        for i, (row, count) in enumerate(zip(tags, counts, strict=True)):
            if len(row) != count:
                raise DataError(f"row {i} has {count} tokens and {len(row)} tags: they must be as many")
        flat = _integers([tag for row in tags for tag in row], _bounds(spec, int(counts.sum())), "tag")
        starting = np.where(begins, np.repeat(flat, pool.lengths), IGNORED)
        labels = layout.place(starting, starts, kept, 0, IGNORED)
    return EncodedRows(
        kind=spec.kind,
        n_rows=len(split),
        input_ids=layout.input_ids,
        token_type_ids=layout.token_type_ids,
        offsets=layout.offsets,
        unit_offsets=np.arange(len(split) + 1),
        feature_row=np.arange(len(split)),
        labels=labels,
        words=placed,
        truncated=int((kept < lengths).sum()),
    )


def _encode_questions(split: Split, tokenizer: Any, max_length: int, stride: int, labelled: bool) -> EncodedRows:
    n = len(split)
    pool = Pool.of(_texts(split, "question") + _texts(split, "context"), tokenizer, spans=True)
    one, two = (Template.of(tokenizer, pair, max_length) for pair in (False, True))
    asked, context_lengths = pool.lengths[:n], pool.lengths[n:]
    questions = np.minimum(asked, min(max_length // 2, max_length - two.specials - 1))
    room = max_length - two.specials - questions  # context tokens of a window, at least 1
    step = room - np.minimum(stride, room // 2)
    windows = 1 + -(-np.maximum(context_lengths - room, 0) // step)  # (rows,)
    row = np.repeat(np.arange(n), windows)
    begin = ranges(np.zeros_like(windows), windows) * step[row]  # first context token of each window
    kept = np.stack([questions[row], np.minimum(room[row], context_lengths[row] - begin)])
    starts = np.stack([pool.starts[:n][row], pool.starts[n:][row] + begin])
    layout = Layout.of(pool, starts, kept, np.ones(len(row), dtype=bool), one, two, tokenizer)
    assert pool.spans is not None
    spans = layout.place(pool.spans, starts[1], kept[1], 1, -1)
    labels = None
    if labelled:
        answers = _answer_tokens(split, pool)[row]  # (features, 2) tokens of the whole context
        inside = (answers[:, 0] >= begin) & (answers[:, 1] < begin + kept[1])
        at = (layout.begins[1] - layout.offsets[:-1] - begin)[:, None]
        labels = np.where(inside[:, None], answers + at, 0)
    return EncodedRows(
        kind=Kind.QUESTION_ANSWERING,
        n_rows=n,
        input_ids=layout.input_ids,
        token_type_ids=layout.token_type_ids,
        offsets=layout.offsets,
        unit_offsets=np.arange(len(row) + 1),
        feature_row=row,
        labels=labels,
        spans=spans,
        truncated=int((questions < asked).sum()),
    )


def _answer_tokens(split: Split, pool: Pool) -> np.ndarray:
    """(rows, 2) first and last context token that the row's first answer touches, (-1, -1) where there is none."""
    found = np.full((len(split), 2), -1, dtype=np.int64)
    assert pool.spans is not None
    for i, answers in enumerate(_column(split, "answers")):
        if not answers["text"] or not answers["text"][0]:
            continue
        begin = int(answers["answer_start"][0])
        end = begin + len(answers["text"][0])
        if not 0 <= begin < end <= len(split.rows[i]["context"]):
            raise DataError(f"row {i}: answer at characters {begin}..{end} lies outside its context; mend answer_start")
        start = pool.starts[len(split) + i]
        spans = pool.spans[start : start + pool.lengths[len(split) + i]]
        touched = np.flatnonzero((spans[:, 0] < end) & (spans[:, 1] > begin))
        if len(touched):
            found[i] = touched[0], touched[-1]
    return found


def _cut_in_front(tokenizer: Any, lost: np.ndarray) -> np.ndarray | int:
    """How far a cut text's first kept token moves: the tokenizer says at which side texts are cut."""
    return lost if tokenizer.truncation_side == "left" else 0


def _space_between_words(tokenizer: Any) -> str:
    """What must stand before a word for it to be tokenised as in running text (byte-level BPE: a space)."""
    first, running, alone, spaced = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", "a b", "b", " b")
    )
    rest = running[len(first) :]
    return " " if rest == spaced and rest != alone else ""


def _bounds(spec: TaskSpec, n: int) -> np.ndarray:
    return np.full(n, len(spec.label_names) if spec.label_names else np.iinfo(np.int64).max)


def _texts(split: Split, name: str) -> list[str]:
    return [_text(value, name, i) for i, value in enumerate(_column(split, name))]


def _column(split: Split, name: str) -> list[Any]:
    values = []
    for i, row in enumerate(split.rows):
        if row.get(name) is None:
            raise DataError(
                f"row {i} has no {name!r} (it has {', '.join(map(repr, row))}): map that column in the task file"
            )
        values.append(row[name])
    return values


def _text(value: Any, column: str, row: int) -> str:
    """The text with lone surrogates, which no encoder takes, replaced one for one: character positions stay."""
    if not isinstance(value, str):
        raise DataError(f"row {row}: {column!r} holds {value!r}, not a text: correct the column in the task file")
    return value if value.isascii() else _SURROGATES.sub("\ufffd", value)


def _integers(values: list[Any], bounds: np.ndarray, what: str) -> np.ndarray:
    """Labels as (n,) int64, each checked to be a whole number below its bound."""
    labels = np.asarray(values if values else np.empty(0, np.int64))
    if labels.dtype.kind not in "biuf":
        raise DataError(f"{what}s such as {values[0]!r} are not integers: list the names as label_names of the task")
    bad = np.flatnonzero((labels != np.floor(labels)) | (labels < 0) | (labels >= bounds))
    if len(bad):
        seen, bound = values[bad[0]], int(bounds[bad[0]])
        raise DataError(f"{what} {seen!r} at position {bad[0]} is not in 0..{bound - 1}: remove rows without a label")
    return labels.astype(np.int64)


def _marks(values: list[list[Any]], n_labels: int) -> np.ndarray:
    """Lists of labels as (n, labels) float32, 1 where a row has the label."""
    counts = np.array([len(row) for row in values], dtype=np.int64)
    flat = _integers([label for row in values for label in row], np.full(int(counts.sum()), n_labels), "label")
    marks = np.zeros((len(values), n_labels), dtype=np.float32)
    marks[np.repeat(np.arange(len(values)), counts), flat] = 1.0
    return marks


def _numbers(values: list[Any]) -> np.ndarray:
    """Labels as (n,) float32."""
    labels = np.asarray(values if values else np.empty(0))
    if labels.dtype.kind not in "biuf" or not np.isfinite(labels).all():
        seen = next((v for v in values if not isinstance(v, int | float) or not np.isfinite(v)), None)
        raise DataError(f"label {seen!r} is not a finite number: remove rows without a label")
    return labels.astype(np.float32)
