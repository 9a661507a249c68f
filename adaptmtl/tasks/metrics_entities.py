"""Entity counts per row, by seqeval's own rules (conlleval), over all words at once."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from adaptmtl.tasks.metrics_counts import divide

_CHUNK_TAG = re.compile(r"^(O|[BIESLU](-.*)?)$", re.DOTALL)
_AS_IN_SEQEVAL = {"L": "E", "U": "S"}  # BILOU's letters for the end of an entity and an entity of one word


def has_chunks(label_names: Sequence[str]) -> bool:
    """Whether the tags mark spans of words (BIO, IOB1, IOBES, BILOU); plain tags such as parts of speech do not."""
    return any(name != "O" for name in label_names) and all(_CHUNK_TAG.match(name) for name in label_names)


def entity_counts(
    row: np.ndarray, reference: np.ndarray, predicted: np.ndarray, n_rows: int, label_names: Sequence[str]
) -> np.ndarray:
    """Returns (rows, 3): entities that are right in type and both ends, predicted ones, true ones.

    Where tags are plain, every word that is not "O" is an entity of its own: without an "O" tag the F1 is then the
    accuracy over words.

    Args:
        row: (words,) row of each word, ascending.
        reference: (words,) true tag ids.
        predicted: (words,) predicted tag ids.
        n_rows: rows.
        label_names: names of the tag ids.
    """
    if not has_chunks(label_names):
        outside = np.array([name == "O" for name in label_names] or [False])
        found, true = ~outside[predicted], ~outside[reference]
        marks = [found & true & (predicted == reference), found, true]
    else:
        first, kind = _entities(row, predicted, label_names)
        true_first, true_kind = _entities(row, reference, label_names)
        found, true = kind >= 0, true_kind >= 0
        marks = [found & (first == true_first) & (kind == true_kind), found, true]
    return np.stack([np.bincount(row, weights=mark, minlength=n_rows) for mark in marks], axis=1)


def micro_f1(sums: np.ndarray) -> np.ndarray:
    """Returns the F1 of all entities: (..., 3) -> (...); 0 where there are none."""
    return divide(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def _entities(row: np.ndarray, tags: np.ndarray, label_names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(words,) the first word and (words,) the type id of the entity that ends at each word, -1 where none does."""
    from seqeval.metrics.sequence_labeling import end_of_chunk, start_of_chunk  # imports all of sklearn: 1 s

    letters = [_AS_IN_SEQEVAL.get(name[0], name[0]) for name in label_names] + ["O"]
    types = [name[1:].split("-", maxsplit=1)[-1] or "_" for name in label_names] + ["_"]
    ids = {name: i for i, name in enumerate(dict.fromkeys(types))}
    n = len(letters)
    ends, starts = np.empty((n, n), dtype=bool), np.empty((n, n), dtype=bool)
    for a in range(n):
        for b in range(n):
            ends[a, b] = end_of_chunk(letters[a], letters[b], types[a], types[b])
            starts[a, b] = start_of_chunk(letters[a], letters[b], types[a], types[b])
    same = row[1:] == row[:-1]
    before = np.concatenate([[n - 1], np.where(same, tags[:-1], n - 1)])[: len(tags)]
    after = np.concatenate([np.where(same, tags[1:], n - 1), [n - 1]])[: len(tags)]
    places = np.arange(len(tags))
    begins = np.maximum.accumulate(np.where(starts[before, tags], places, 0)) if len(tags) else places
    ending = ends[tags, after]
    return np.where(ending, begins, -1), np.where(ending, np.array([ids[t] for t in types])[tags], -1)
