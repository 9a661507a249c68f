"""One guesser per kind of task: given a table, the columns that would make it a task of that kind, or why none do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from adaptmtl.tasks.column_facts import Column, Table

SAID = (1.0, "as you said")
_LABELS = ("label", "labels", "target", "class", "category", "sentiment", "intent", "answer", "score", "similarity",
           "rating", "stars", "gold", "gold_label", "answerkey", "y", "tag", "emotion", "topic", "stance",
           "type")  # fmt: skip
_CLASSES = ("class", "category", "intent", "topic", "emotion", "stance", "type")
_SCALES = ("score", "similarity", "rating", "relatedness", "relatedness_score", "similarity_score", "value")
_FIRST = ("premise", "question", "question1", "query", "text", "sentence", "sentence1", "sentence_a", "text1", "review",
          "content", "body", "tweet", "comment", "utterance", "message", "title", "headline", "input")  # fmt: skip
_SECOND = ("sentence2", "sentence_b", "hypothesis", "passage", "context", "question2", "text2", "text_pair", "document",
           "answer", "response", "sentence", "paragraph")  # fmt: skip
_IDS = ("id", "idx", "index", "uid", "guid", "key", "url", "date", "timestamp", "qid", "pairid", "split")
_TOKENS, _TAGS = ("tokens", "words", "token"), ("tags", "ner_tags", "ner", "labels", "upos", "pos_tags", "slots", "tag")
_ANSWERS = ("answers", "answer", "answer_text", "answers_text")
_CHOICE_LISTS = ("choices", "options", "endings", "answers", "alternatives", "candidates")
_CHOICE = re.compile(r"^(choice|option|opt|answer|ending|sol|alternative|alt|candidate)s?_?([0-9]|[a-h])$")
_SEVERAL = ("labels", "tags", "topics", "categories", "emotions", "genres", "classes")
MOST_CLASSES, FEW_CLASSES = 200, 20


@dataclass(frozen=True)
class Wanted:
    """What a person said of the columns."""

    texts: tuple[str, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class Found:
    """The columns of a table that make it a task of some kind.

    Attributes:
        columns: as in a task file.
        label_column: the table's column that holds labels.
        sure: confidence in [0, 1] that it is of that kind, and why.
        parts: further decisions for people: what, confidence, why.
        separator: between the labels of a row, where the file holds them as one text.
    """

    columns: dict[str, Any]
    label_column: str | None
    sure: tuple[float, str]
    parts: tuple[tuple[str, float, str], ...]
    separator: str = " "


def question_answering(table: Table, wanted: Wanted, forced: bool) -> Found | str | None:
    """A question, a context, and an answer that stands in the context."""
    question = _given(table, wanted.texts, 0) or table.named("question", "query")
    context = _given(table, wanted.texts, 1) or table.named("context", "passage", "paragraph", "document", "text")
    answers = table.columns[wanted.label] if wanted.label else table.named(*_ANSWERS)
    if question is None or context is None or answers is None:
        return "a question answering task needs a question, a context and an answer column"
    columns: dict[str, Any] = {"question": question.name, "context": context.name, "answers": answers.name}
    if answers.is_struct("text", "answer_start"):
        confidence, why = 0.99, "the answers have text and answer_start"
    else:
        texts = [(row.get(answers.name), row.get(context.name)) for row in table.rows]
        given = [(a, c) for a, c in texts if isinstance(a, str) and a and isinstance(c, str)]
        inside = sum(_stands_in(a, c) for a, c in given) / len(given) if given else 0.0
        start = table.named("answer_start", "start", "answer_offset")
        starts = start is not None and start.numbers is not None
        labels = len(given) >= 50 and len(answers.counts) <= FEW_CLASSES  # few answers that come again and again
        if not forced and (inside < 0.9 or (labels and not starts)):
            return None
        confidence, why = inside, f"{inside:.0%} of the answers stand in the context"
        if start is not None and starts:
            columns["answers"] = [answers.name, start.name]
    sure = (confidence, why)
    texts_said = SAID if wanted.texts else (0.95, "by their names")
    parts = (
        (f"question: {question.name}, context: {context.name}", *texts_said),
        (f"answers: {' at '.join(_names(columns['answers']))}", *(SAID if wanted.label else (confidence, why))),
    )
    return Found(columns, answers.name, sure, parts)


def token_classification(table: Table, wanted: Wanted, forced: bool) -> Found | str | None:
    """Words and as many tags, in lists or in texts with blanks between them."""
    tokens = _given(table, wanted.texts, 0) or table.named(*_TOKENS)
    tags = table.columns[wanted.label] if wanted.label else table.named(*_TAGS)
    if tokens is None and forced:
        tokens = next((c for c in table.columns.values() if c.is_text and c is not tags), None)
    if tokens is None or tags is None or tokens is tags:
        return "a token classification task needs a column of words and one of tags"
    listed = tokens.lists is not None and tags.lists is not None
    words, marks = (one.lists or [str(v).split() for v in one.present] for one in (tokens, tags))
    fits = len(words) == len(marks) and all(len(a) == len(b) for a, b in zip(words, marks, strict=True))
    if not forced and not (fits and any(len(row) > 1 for row in words)):
        return None
    columns: dict[str, Any] = {"tokens": tokens.name, "tags": tags.name}
    if not listed:
        columns = {name: {"from": source, "split": " "} for name, source in columns.items()}
    confidence = 0.99 if listed and fits else 0.8 if fits else 0.3
    why = "as many tags as words in every row" if fits else "not as many tags as words in every row"
    named = 0.95 if tags.key != "tags" or len(table.columns) < 4 else 0.6  # which of several columns of a CoNLL file
    sure = (confidence, why)
    parts = (
        (f"tokens: {tokens.name}", *(SAID if wanted.texts else (0.95, "by its name"))),
        (f"tags: {tags.name}", *(SAID if wanted.label else (named, "by its name"))),
    )
    return Found(columns, tags.name, sure, parts)


def multiple_choice(table: Table, wanted: Wanted, forced: bool) -> Found | str | None:
    """A text, several choices in one column or in numbered ones, and which is right."""
    label = _label_of(table, wanted)
    choices, n_choices, given_texts = _choices(table, wanted, label)
    if choices is None or label is None or n_choices < 2:
        return "a multiple choice task needs a label and a list of choices, or columns such as choice1, choice2"
    coding = _coding(label, n_choices)
    texts_there = label.is_text and isinstance(choices, str)
    if coding is None and not texts_there and not forced:
        return None
    used = {label.name, *(_names(choices)), str(choices).split(".")[0]}
    texts = given_texts or [
        c.name for c in table.columns.values() if c.is_text and c.name not in used and not _is_id(c)
    ]
    if not texts:
        return "no column holds the text that the choices belong to"
    text = texts[0] if len(texts) == 1 else " ".join(f"{{{name}}}" for name in texts)
    values = {"from": label.name, "values": {label.name: coding}} if coding else label.name
    columns = {"text": text, "choices": choices, "label": values}
    sure = (0.9, f"{n_choices} choices and a place among them")
    parts = (
        (
            f"text: {' and '.join(texts)}",
            *(SAID if wanted.texts else (0.9 if len(texts) < 3 else 0.5, "the other texts")),
        ),
        (f"choices: {', '.join(_names(choices))}", *(SAID if wanted.texts else (0.95, "by their names"))),
        (f"label: {label.name}{_coded(coding)}", *(SAID if wanted.label else (0.9, "by its name"))),
    )
    return Found(columns, label.name, sure, parts)


def multi_label_classification(table: Table, wanted: Wanted, forced: bool) -> Found | str | None:
    """A text and a list of labels, or labels in one text with a comma, semicolon or bar between them."""
    label = table.columns[wanted.label] if wanted.label else table.named(*_SEVERAL)
    if label is None:
        return "a multi label task needs a column with a list of labels"
    separator = None
    if label.lists is None:
        separator = next((s for s in ("|", ";", ",") if any(s in str(value) for value in label.present)), None)
        pieces = {piece.strip() for value in label.present for piece in str(value).split(separator or "|")}
        if not forced and (separator is None or len(pieces) > min(MOST_CLASSES, len(label.counts))):
            return None
    texts = _texts(table, wanted, label)
    if not texts:
        return "no column holds a text"
    read: Any = label.name if label.lists is not None else {"from": label.name, "split": separator or "|"}
    why = "its values are lists" if separator is None else f"its values have {separator!r} between labels"
    sure = (0.95 if label.lists is not None else 0.75, why)
    parts = (
        *_text_parts(texts, wanted),
        (f"labels: {label.name}", *(SAID if wanted.label else (0.9, "by its name"))),
    )
    columns = {**_text_columns(texts), "labels": read}
    return Found(columns, label.name, sure, parts, separator or " ")


def regression(table: Table, wanted: Wanted, forced: bool) -> Found | str | None:
    """A text and a number: a fraction, or one of many."""
    label = _label_of(table, wanted)
    if label is None or label.numbers is None:
        return f"column {label.name!r} does not hold numbers" if label else "no column looks like a label"
    whole = all(number.is_integer() for number in label.numbers)
    many = len(label.counts) > FEW_CLASSES and not _is_coded(label)
    scale = label.key in _SCALES and len(label.counts) > 5
    if not forced and whole and not many and not scale:
        return None
    texts = _texts(table, wanted, label)
    if not texts:
        return "no column holds a text"
    scale_like = f"{len(label.counts)} different whole numbers; if they are classes: --kind sequence_classification"
    sure = (0.95, "the labels are fractions") if not whole else (0.6, scale_like)
    parts = (
        *_text_parts(texts, wanted),
        (f"label: {label.name}, {min(label.numbers):g} to {max(label.numbers):g}", *_label_sure(label, wanted)),
    )
    return Found({**_text_columns(texts), "label": label.name}, label.name, sure, parts)


def sequence_classification(table: Table, wanted: Wanted, forced: bool) -> Found | str | None:
    """A text and a label that repeats."""
    label = _label_of(table, wanted)
    if label is None:
        return "no column looks like a label (one whose values repeat)"
    texts = _texts(table, wanted, label)
    if not texts:
        return "no column holds a text"
    n = len(label.counts)
    if n > max(FEW_CLASSES, len(label.present) // 2) and not (forced or wanted.label):
        return f"column {label.name!r} has {n} different values in {len(label.present)} rows, too many for labels"
    if label.numbers is not None and n > 2:
        sure = (0.6, f"{n} whole numbers; if they are a scale: --kind regression")
    else:
        sure = (0.95, f"{n} different labels")
    parts = (
        *_text_parts(texts, wanted),
        (f"label: {label.name}", *_label_sure(label, wanted)),
    )
    return Found({**_text_columns(texts), "label": label.name}, label.name, sure, parts)


def _stands_in(answer: str, context: str) -> bool:
    """Whether an answer stands in a context, and not only as a part of longer words or numbers."""
    place = context.find(answer)
    while place >= 0:
        ends = ((context[place - 1 : place], answer[0]), (answer[-1], context[place + len(answer) :][:1]))
        if not any(len(pair := a + b) == 2 and pair.isascii() and pair.isalnum() for a, b in ends):
            return True
        place = context.find(answer, place + 1)
    return False


def _given(table: Table, names: tuple[str, ...], place: int) -> Column | None:
    return table.columns[names[place]] if len(names) > place else None


def _names(columns: Any) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns)


def is_usual(column: Column) -> bool:
    """Whether a column is called as columns usually are."""
    usual = (*_LABELS, *_FIRST, *_SECOND, *_IDS, *_TOKENS, *_TAGS, *_ANSWERS, *_CHOICE_LISTS, *_SEVERAL)
    return column.key in usual or bool(_CHOICE.match(column.key))


def _is_id(column: Column) -> bool:
    return column.key in _IDS or column.key.endswith("_id")


def _label_of(table: Table, wanted: Wanted) -> Column | None:
    if wanted.label:
        return table.columns[wanted.label]
    if (named := table.named(*_LABELS)) is not None and named.name not in wanted.texts and _repeats(named):
        return named
    others = [
        c for c in table.columns.values()
        if c.name not in wanted.texts and not _is_id(c) and _repeats(c) and len(c.counts) > 1
    ]  # fmt: skip
    return min(others, key=lambda column: (len(column.counts), column.words), default=None)


def _is_coded(column: Column) -> bool:
    """Whether the numbers are those of classes: again and again, every one from 0 or 1 on, or called so."""
    seen = set(column.numbers or ())
    n, first = len(seen), min(seen, default=-1.0)
    every = first in (0, 1) and seen == {first + place for place in range(n)}
    called = (every and column.key not in _SCALES) or column.key in _CLASSES
    return called and n <= MOST_CLASSES and len(column.present) >= 3 * n


def _repeats(column: Column) -> bool:
    if not column.present or not all(isinstance(value, str | int | float) for value in column.present):
        return False
    return column.numbers is not None or len(column.counts) <= max(2, len(column.present) // 2)


def _label_sure(label: Column, wanted: Wanted) -> tuple[float, str]:
    if wanted.label:
        return SAID
    if label.key in _LABELS:
        return 0.95 if _LABELS.index(label.key) < 7 else 0.8, "by its name"
    return 0.5, "the column with the fewest different values"


def _texts(table: Table, wanted: Wanted, label: Column) -> list[str]:
    """The columns of the first and the second text; a third and further ones only where a person named them."""
    if wanted.texts:
        return list(wanted.texts)
    texts = [c for c in table.columns.values() if c.is_text and c is not label and not _is_id(c)]
    long = [c for c in texts if c.words >= 2 or c.key in _FIRST or c.key in _SECOND] or texts
    first = next((c for hint in _FIRST for c in long if c.key == hint), None)
    second = next((c for hint in _SECOND for c in long if c.key == hint and c is not first), None)
    if first is not None and second is None:
        return [first.name]
    if first is not None and second is not None:
        return [first.name, second.name]
    return [column.name for column in long[:2]]


def _text_parts(texts: list[str], wanted: Wanted) -> list[tuple[str, float, str]]:
    shown = f"text: {texts[0]}" + (f", text_pair: {' and '.join(texts[1:])}" if texts[1:] else "")
    if wanted.texts:
        return [(shown, *SAID)]
    named = [name.strip().lower().replace(" ", "_").replace("-", "_") in (*_FIRST, *_SECOND) for name in texts]
    return [(shown, *((0.95, "by their names") if all(named) else (0.6, "the columns that hold texts")))]


def _text_columns(texts: list[str]) -> dict[str, Any]:
    columns: dict[str, Any] = {"text": texts[0]}
    if texts[1:]:
        columns["text_pair"] = texts[1] if len(texts) == 2 else " ".join(f"{{{name}}}" for name in texts[1:])
    return columns


def _choices(table: Table, wanted: Wanted, label: Column | None) -> tuple[Any, int, list[str]]:
    """Where the choices are, how many there are at most, and the text columns that a person named."""
    if len(wanted.texts) > 2:
        return list(wanted.texts[1:]), len(wanted.texts) - 1, [wanted.texts[0]]
    if len(wanted.texts) == 2:
        column = table.columns[wanted.texts[1]]
        return column.name, max(map(len, column.lists or [[]])), [wanted.texts[0]]
    for hint in _CHOICE_LISTS:
        column = table.named(hint)  # type: ignore[assignment]
        if column is None or column is label:
            continue
        if column.lists is not None and all(isinstance(one, str) for row in column.lists for one in row):
            return column.name, max(map(len, column.lists)), list(wanted.texts)
        if column.is_struct("text", "label"):
            return f"{column.name}.text", max(len(v["text"]) for v in column.present), list(wanted.texts)
    groups: dict[str, list[tuple[str, str]]] = {}
    for column in table.columns.values():
        if (match := _CHOICE.match(column.key)) and column is not label:
            groups.setdefault(match[1], []).append((match[2], column.name))
    best = max(groups.values(), key=len, default=[])
    if len(best) < 2 or [mark for mark, _ in sorted(best)] not in _runs(len(best)):
        return None, 0, []
    return [name for _, name in sorted(best)], len(best), list(wanted.texts)


def _runs(n: int) -> list[list[str]]:
    """0, 1, ... and 1, 2, ... and a, b, ..."""
    return [[str(i) for i in range(n)], [str(i + 1) for i in range(n)], [chr(ord("a") + i) for i in range(n)]]


def _coding(label: Column, n: int) -> dict[str, int] | None:
    """What each value of the label means: a place from 0; None where the values are texts."""
    seen = set(label.counts)
    upper = [chr(ord("A") + i) for i in range(n)]
    for names in ([str(i) for i in range(n)], [str(i + 1) for i in range(n)], upper, [name.lower() for name in upper]):
        if seen <= set(names):
            return {name: place for place, name in enumerate(names)}
    return None


def _coded(coding: dict[str, int] | None) -> str:
    return f" (from {next(iter(coding))})" if coding else " (the text of a choice)"
