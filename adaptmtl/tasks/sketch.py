"""Small sketches of a split's texts, from which overlap between two splits is read without their rows.

Three things are kept of a text: a hash of the whole, hashes of its sentences, and a minhash signature of its character
5-grams (Broder 1997), whose equal places estimate the Jaccard similarity of two texts. Texts are compared after
lower-casing, without whitespace and punctuation.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adaptmtl.tasks.encode_layout import ranges
from adaptmtl.tasks.rows import Row, Split

#: Texts of fewer words ("yes", "How is the food?") occur in independent sets by chance and do not count.
MIN_WORDS = 4
#: Sentences of a longer text that have fewer words do not count.
MIN_SENTENCE_WORDS = 6
#: Characters of a shingle, values of a signature, values of one of its bands.
SHINGLE, SIGNATURE, BAND = 5, 48, 4
VERSION = 1
_CHARACTERS_AT_ONCE, _PAIRS_AT_ONCE, _MOST_RIVALS = 400_000, 50_000, 256
_NOT_WORD = re.compile(r"[\W_]+")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")
_SENTENCE = re.compile(r"(?<=[.!?\u3002\u0964])\s+|\n+")
_FACTORS = np.random.default_rng(13).integers(1, 2**63, size=SIGNATURE, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


@dataclass(frozen=True, eq=False)
class Sketch:
    """What is kept of a split's texts.

    Attributes:
        n_rows: rows of the split.
        row: (uses,) int32 row that a text stands in; a text may stand in several rows.
        text: (uses,) int32 which text.
        whole: (texts,) uint64 hash of the text.
        signature: (texts, 48) uint32 minhash.
        part_text: (sentences,) int32 which text the sentence is part of; only texts of two or more sentences.
        part: (sentences,) uint64 hash of the sentence.
    """

    n_rows: int
    row: np.ndarray
    text: np.ndarray
    whole: np.ndarray
    signature: np.ndarray
    part_text: np.ndarray
    part: np.ndarray

    def rows_with(self, texts: np.ndarray) -> np.ndarray:
        """Returns (rows,) whether a row holds one of the marked texts, given (texts,) marks."""
        held = np.zeros(self.n_rows, dtype=bool)
        held[self.row[texts[self.text]]] = True
        return held


def sketch(split: Split) -> Sketch:
    """Sketches all texts of a split that count."""
    index: dict[str, int] = {}
    rows: list[int] = []
    texts: list[int] = []
    parts: list[int] = []
    part_text: list[int] = []
    squeezed: list[str] = []
    seen: dict[str, int] = {}
    for number, row in enumerate(split.rows):
        for raw in texts_of(row):
            at = index.get(raw)
            if at is None:
                form = squeeze(raw)
                at = -1 if form is None else seen.setdefault(form, len(squeezed))
                index[raw] = at
                if form is not None and at == len(squeezed):
                    squeezed.append(form)
                    found = [digest(one) for one in sentences_of(raw)]
                    parts += found
                    part_text += [at] * len(found)
            if at >= 0:
                rows.append(number)
                texts.append(at)
    return Sketch(
        n_rows=len(split),
        row=np.array(rows, dtype=np.int32),
        text=np.array(texts, dtype=np.int32),
        whole=np.array([digest(form) for form in squeezed], dtype=np.uint64),
        signature=signatures(squeezed),
        part_text=np.array(part_text, dtype=np.int32),
        part=np.array(parts, dtype=np.uint64),
    )


def texts_of(row: Row) -> Iterator[str]:
    """Yields every text field of a row; the tokens of a tagged one joined with blanks."""
    for name in ("text", "text_pair", "question", "context"):
        if row.get(name):
            yield row[name]
    yield from row.get("choices", ())
    if "tokens" in row:
        yield " ".join(row["tokens"])


def squeeze(text: str, words: int = MIN_WORDS) -> str | None:
    """Returns the text in lower case without whitespace and punctuation, None where it is too short to count."""
    found = _NOT_WORD.sub(" ", text.lower()).split()
    if len(found) >= words or len(_UNSPACED.findall(text)) >= words * 2:
        return "".join(found)
    return None


def sentences_of(text: str) -> list[str]:
    """Returns the squeezed sentences of a text of two or more that are long enough to count."""
    pieces = [piece for piece in _SENTENCE.split(text) if piece.strip()]
    if len(pieces) < 2:
        return []
    return [form for piece in pieces if (form := squeeze(piece, MIN_SENTENCE_WORDS)) is not None]


def digest(form: str) -> int:
    """Returns a 64-bit hash of a squeezed text."""
    return int.from_bytes(hashlib.blake2b(form.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def signatures(forms: Sequence[str]) -> np.ndarray:
    """Returns (texts, 48) uint32: per permutation the least hash of the text's character 5-grams."""
    out = np.zeros((len(forms), SIGNATURE), dtype=np.uint32)
    start = 0
    while start < len(forms):
        end, size = start, 0
        while end < len(forms) and (end == start or size + len(forms[end]) <= _CHARACTERS_AT_ONCE):
            size += len(forms[end])
            end += 1
        out[start:end] = _signatures(forms[start:end])
        start = end
    return out


def _signatures(forms: Sequence[str]) -> np.ndarray:
    padded = "".join(form.ljust(SHINGLE, "\0") for form in forms)
    codes = np.frombuffer(padded.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    lengths = np.array([max(len(form), SHINGLE) for form in forms], dtype=np.int64)
    rolled = np.zeros(len(codes) - SHINGLE + 1, dtype=np.uint64)
    for place in range(SHINGLE):
        rolled = rolled * np.uint64(1_000_003) + codes[place : place + len(rolled)]
    ends = np.cumsum(lengths)
    counts = lengths - SHINGLE + 1
    first = np.cumsum(counts) - counts
    inside = np.repeat(ends - lengths - first, counts) + np.arange(counts.sum())  # windows within one text
    hashed = _mixed(rolled[inside])
    out = np.empty((len(forms), SIGNATURE), dtype=np.uint32)
    for i, factor in enumerate(_FACTORS):
        out[:, i] = np.minimum.reduceat(((hashed * factor) >> np.uint64(32)).astype(np.uint32), first)
    return out


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of the result depends on every bit of the value."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def similar(one: np.ndarray, other: np.ndarray, least: float) -> np.ndarray:
    """Returns which texts have a near duplicate.

    Args:
        one: (texts, 48) signatures of the texts that are asked about.
        other: (others, 48) signatures that they are compared with.
        least: Jaccard similarity of character 5-grams that counts, as the signatures estimate it (standard error 0.06).

    Returns:
        (texts,) bool. Two texts are compared where one of 12 bands of 4 values agrees: of pairs with similarity 0.8 all
        but 0.2%, of pairs with 0.7 all but 4%.
    """
    found = np.zeros(len(one), dtype=bool)
    if not len(one) or not len(other):
        return found
    for start in range(0, SIGNATURE, BAND):
        left = np.flatnonzero(~found)
        mine, theirs = _band(one[left], start), _band(other, start)
        order = np.argsort(theirs, kind="stable")
        ordered = theirs[order]
        low = np.searchsorted(ordered, mine, side="left")
        rivals = np.minimum(np.searchsorted(ordered, mine, side="right") - low, _MOST_RIVALS)
        for part in _pieces(rivals):
            asked = np.repeat(left[part], rivals[part])
            compared = order[ranges(low[part], rivals[part])]
            alike = (one[asked] == other[compared]).mean(axis=1) >= least
            found[asked[alike]] = True
    return found


def _pieces(counts: np.ndarray) -> Iterator[slice]:
    """Stretches of texts with at most so many pairs that comparing them takes little memory."""
    total = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = total[start - 1] if start else 0
        end = max(int(np.searchsorted(total, before + _PAIRS_AT_ONCE, side="right")), start + 1)
        yield slice(start, end)
        start = end


def _band(signature: np.ndarray, start: int) -> np.ndarray:
    key = np.zeros(len(signature), dtype=np.uint64)
    for place in range(start, start + BAND):
        key = _mixed(key ^ signature[:, place].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    return key
