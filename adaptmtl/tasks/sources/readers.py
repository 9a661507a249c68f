"""Readers of the files inside package archives: pure functions from bytes to rows."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable

from adaptmtl.errors import DataError
from adaptmtl.registry import Registry
from adaptmtl.tasks.rows import Row

Reader = Callable[..., list[Row]]

#: A reader takes the bytes of one file (or of several that belong together) and keyword options, and gives rows. A row
#: may carry ``split`` ("train" or "validation"), which then decides where it goes.
readers: Registry[Reader] = Registry("archive reader", "adaptmtl.readers")

_OPTION = re.compile(r"(?:^|\n)([A-Z])\. ")


@readers.register("jsonl")
def jsonl(data: bytes, *, keep: list[str] | None = None) -> list[Row]:
    """One JSON object per line; ``keep`` leaves out objects that lack one of these keys."""
    rows = [json.loads(line) for line in data.decode().splitlines() if line.strip()]
    return [row for row in rows if all(key in row for key in keep or ())]


@readers.register("csv")
def csv_rows(data: bytes, *, encoding: str = "utf-8", join_rest: str | None = None) -> list[Row]:
    """Comma-separated rows under a header; ``join_rest`` names a column that takes all further fields."""
    table = list(csv.reader(io.StringIO(data.decode(encoding), newline="")))
    header, rows = table[0], []
    for fields in table[1:]:
        row: Row = dict(zip(header, fields, strict=False))
        if join_rest is not None:
            row[join_rest] = ",".join(fields[header.index(join_rest) :]).rstrip(",")
        rows.append(row)
    return rows


@readers.register("tsv")
def tsv(data: bytes) -> list[Row]:
    """Tab-separated rows under a header, line by line, quotes as they stand."""
    lines = [line for line in data.decode().replace("\r\n", "\n").split("\n") if line.strip()]
    header = lines[0].split("\t")
    return [dict(zip(header, line.split("\t"), strict=True)) for line in lines[1:]]


@readers.register("orange_tab")
def orange_tab(data: bytes) -> list[Row]:
    """Orange's .tab: names, types and roles in three lines, then rows; read line by line, since texts hold quotes."""
    lines = data.decode().replace("\r\n", "\n").split("\n")
    header = lines[0].split("\t")
    return [dict(zip(header, line.split("\t"), strict=True)) for line in lines[3:] if line.strip()]


@readers.register("conll")
def conll(data: bytes, *, separator: str = "\t") -> list[Row]:
    """Two columns, token and tag; a line without a token ends a sentence."""
    rows: list[Row] = []
    tokens: list[str] = []
    tags: list[str] = []
    for line in [*data.decode().replace("\r\n", "\n").split("\n"), ""]:
        token, _, tag = line.partition(separator)
        if token.strip():
            tokens.append(token.strip())
            tags.append(tag.strip())
        elif tokens:
            rows.append({"tokens": tokens, "tags": tags})
            tokens, tags = [], []
    return rows


@readers.register("trec")
def trec(data: bytes) -> list[Row]:
    """Lines "COARSE:fine question", as in the TREC question sets."""
    rows = []
    for line in data.decode().split("\n"):
        label, _, text = line.strip().partition(" ")
        if text:
            coarse, _, fine = label.partition(":")
            rows.append({"label": coarse, "fine_label": fine, "text": text})
    return rows


@readers.register("lettered_choices")
def lettered_choices(*data: bytes) -> list[Row]:
    r"""JSON lines whose ``options`` read "A. x\nB. y" and whose ``answer`` reads "B. y".

    A row whose options and answer do not fit together (the files hold a few torn ones) is left out.
    """
    rows = []
    for row in (row for part in data for row in jsonl(part)):
        parts = _OPTION.split("\n" + row["options"].strip())
        letters, texts = parts[1::2], [text.strip() for text in parts[2::2]]
        answer = row.get("answer", "")
        position = letters.index(answer[0]) if answer[:1] in letters else -1
        complete = letters == [chr(ord("A") + i) for i in range(len(letters))] and all(texts)
        if complete and position >= 0 and texts[position] == answer[3:].strip():
            rows.append({**row, "choices": texts, "label": position})
    return rows


@readers.register("boolq")
def boolq(combined: bytes, dev: bytes) -> list[Row]:
    """BoolQ's labelled rows; those that the published dev file holds are validation, the others train."""
    held = {_squeeze(f"{row['question']}\n{row['title']} -- {row['passage']}") for row in jsonl(dev)}
    rows = jsonl(combined, keep=["label"])
    for row in rows:
        in_dev = _squeeze(f"{row['question']}\n{row['passage']}") in held
        row["split"] = "validation" if in_dev else "train"
    return rows


@readers.register("located_answers")
def located_answers(data: bytes, *, unanswerable: str = "unknown") -> list[Row]:
    """JSON lines with ``passage``, ``question`` and ``answer`` as text; the answer's place is looked up.

    The passage may be tokenised where the answer is not ("40 , 000"): blanks do not count in the search, and the answer
    is taken as it stands in the passage. A row whose answer is not in the passage is left out.
    """
    rows = []
    for row in jsonl(data):
        answers: dict[str, list] = {"text": [], "answer_start": []}
        if row["answer"] != unanswerable:
            letters = [re.escape(letter) for letter in row["answer"] if not letter.isspace()]
            place = re.search(r"(?<!\w)" + r"\s*".join(letters) + r"(?!\w)", row["passage"]) if letters else None
            if place is None:
                continue
            answers = {"text": [place[0]], "answer_start": [place.start()]}
        rows.append({**row, "answers": answers})
    return rows


def read_with(name: str, data: list[bytes], options: dict, place: str) -> list[Row]:
    """Runs a reader.

    Raises:
        UnknownNameError: no reader has that name.
        DataError: the bytes are not what the reader expects.
    """
    reader = readers[name]
    try:
        return reader(*data, **options)
    except (ValueError, KeyError, IndexError, TypeError, csv.Error) as error:
        raise DataError(f"{place}: reader {name!r} cannot read it ({type(error).__name__}: {error})") from error


def _squeeze(text: str) -> str:
    return " ".join(text.split())
