"""CoNLL files: a word and its tags per line, a blank line after each sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from adaptmtl.errors import DataError
from adaptmtl.tasks.rows import Row

#: Endings of files that hold a word per line.
ENDINGS = (".conll", ".conllu", ".iob", ".iob2", ".bio", ".txt")
#: The ten columns of CoNLL-U (universaldependencies.org/format).
CONLLU = ("id", "tokens", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_DOCUMENT = "-DOCSTART-"


def read_conll(text: str, path: Path) -> list[Row]:
    """Reads sentences.

    Args:
        text: the file's content. Columns are separated by tabs where the first line has one, else by blanks.
        path: for messages; ``.conllu`` has the ten columns of CoNLL-U, whose ranges (1-2) and empty nodes (1.1) are
            left out.

    Returns:
        A row per sentence, a list per column: ``tokens`` (the first), ``tags`` (the last), ``column_2`` ... between
        them; of CoNLL-U the names of its columns.

    Raises:
        DataError: a line has another number of columns than the first, or an empty one; names file, row, line, column.
    """
    universal = path.suffix.lower() == ".conllu"
    rows: list[Row] = []
    names: tuple[str, ...] | None = None
    separator: str | None = None
    sentence: list[list[str]] = []
    for number, line in _lines(text):
        if not line.strip():
            _finish(sentence, names, rows)
            sentence = []
            continue
        if names is None:
            if universal and line.startswith("#"):
                continue
            separator = "\t" if "\t" in line else None
        fields = [field.strip() for field in line.split(separator)]
        if names is None and not _is_comment(line, fields, None):
            names = CONLLU if universal else _names(len(fields), number, path)
        if not sentence and _is_comment(line, fields, names):
            continue
        assert names is not None
        place = f"{path} row {len(rows) + 1} (line {number})"
        if len(fields) != len(names):
            column = min(len(fields), len(names)) + 1
            raise DataError(
                f"{place}, column {column}: {len(fields)} columns where the file has {len(names)}; give each word a "
                "line of its own with its tags, and a blank line after each sentence"
            )
        if "" in fields:
            empty = fields.index("")
            raise DataError(f"{place}, column {empty + 1} ({names[empty]!r}): it is empty; give every word a tag")
        if universal and not fields[0].isdecimal():
            continue  # a range of words or an empty node
        sentence.append(fields)
    _finish(sentence, names, rows)
    return rows


def _lines(text: str) -> Iterator[tuple[int, str]]:
    yield from enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1)


def _names(columns: int, line: int, path: Path) -> tuple[str, ...]:
    if columns < 2:
        raise DataError(
            f"{path} row 1 (line {line}), column 2: there is only one column; put a word and its tag on a line, with a "
            "tab or a blank between them"
        )
    return ("tokens", *(f"column_{i}" for i in range(2, columns)), "tags")


def _is_comment(line: str, fields: list[str], names: tuple[str, ...] | None) -> bool:
    """Whether a line before a sentence is none of its words; "#" may well be a word, with tags."""
    if not line.startswith("#"):
        return False
    return len(fields) != len(names) if names else len(fields) == 1 or " = " in line or len(fields) > 4


def _finish(sentence: list[list[str]], names: tuple[str, ...] | None, rows: list[Row]) -> None:
    if sentence and names and not (sentence[0][0] == _DOCUMENT and len(sentence) == 1):
        rows.append({name: [fields[i] for fields in sentence] for i, name in enumerate(names)})
