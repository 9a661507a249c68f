"""Files in the JSON layout of SQuAD 1.1 and 2.0: articles, paragraphs, questions, answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adaptmtl.errors import DataError
from adaptmtl.tasks.rows import Row


def is_squad(value: object) -> bool:
    """Whether parsed JSON looks like a SQuAD file: an object whose ``data`` is a list of articles."""
    return isinstance(value, dict) and isinstance(value.get("data"), list)


def read_squad(value: Any, path: Path) -> list[Row]:
    """Turns parsed JSON into rows.

    Args:
        value: the file's content (see :func:`is_squad`).
        path: for messages.

    Returns:
        Rows with ``id``, ``title``, ``question``, ``context`` and ``answers`` (lists ``text`` and ``answer_start``,
        empty where ``is_impossible``).

    Raises:
        DataError: a part is missing or of another type; names file, row, the place in the file, and column.
    """
    rows: list[Row] = []
    for a, article in enumerate(value["data"]):
        title = article.get("title", "") if isinstance(article, dict) else ""
        for p, paragraph in enumerate(_list(article, "paragraphs", f"data.{a}", rows, path)):
            where = f"data.{a}.paragraphs.{p}"
            context = _of(paragraph, "context", str, where, rows, path)
            for q, question in enumerate(_list(paragraph, "qas", where, rows, path)):
                place = f"{where}.qas.{q}"
                rows.append(
                    {
                        "id": str(question.get("id", "")) if isinstance(question, dict) else "",
                        "title": str(title),
                        "question": _of(question, "question", str, place, rows, path),
                        "context": context,
                        "answers": _answers(question, place, rows, path),
                    }
                )
    return rows


def _answers(question: Any, where: str, rows: list[Row], path: Path) -> dict[str, list[Any]]:
    if question.get("is_impossible") is True:
        return {"text": [], "answer_start": []}
    answers = _list(question, "answers", where, rows, path)
    texts = [_of(one, "text", str, f"{where}.answers.{i}", rows, path) for i, one in enumerate(answers)]
    starts = [_of(one, "answer_start", int, f"{where}.answers.{i}", rows, path) for i, one in enumerate(answers)]
    return {"text": texts, "answer_start": starts}


def _list(value: Any, name: str, where: str, rows: list[Row], path: Path) -> list[Any]:
    return _of(value, name, list, where, rows, path)


def _of(value: Any, name: str, wanted: type, where: str, rows: list[Row], path: Path) -> Any:
    place = f"{path} row {len(rows) + 1} ({where}), column {name!r}"
    if not isinstance(value, dict):
        raise DataError(f"{place}: saw {type(value).__name__} where an object is expected; give the layout of SQuAD")
    if name not in value:
        raise DataError(f"{place}: missing; it has {', '.join(map(repr, value)) or 'nothing'}")
    found = value[name]
    if not isinstance(found, wanted) or isinstance(found, bool):
        raise DataError(f"{place}: saw {type(found).__name__}, not {wanted.__name__}; mend the file")
    return found
