"""Four made-up rows per kind of task, whose outputs a saved adapter must reproduce when it is loaded."""

from __future__ import annotations

from typing import Any

from adaptmtl.tasks.spec import Kind

_SENTENCES = (
    "The ferry leaves at noon, and the museum on the other shore closes at five.",
    "Nobody in the village could say who had painted the old lighthouse red.",
    "Prices rose by 3.5% in March; wages did not.",
    "What a dull, overlong film!",
)
_QUESTIONS = (
    "When does the ferry leave?",
    "Which colour is the lighthouse?",
    "How much did prices rise?",
    "Was it good?",
)

PROBE_ROWS: dict[Kind, tuple[dict[str, Any], ...]] = {
    Kind.SEQUENCE_CLASSIFICATION: tuple(
        {"text": q, "text_pair": s} for q, s in zip(_QUESTIONS, _SENTENCES, strict=True)
    ),
    Kind.MULTI_LABEL_CLASSIFICATION: tuple(
        {"text": q, "text_pair": s} for q, s in zip(_QUESTIONS, _SENTENCES, strict=True)
    ),
    Kind.REGRESSION: tuple({"text": q, "text_pair": s} for q, s in zip(_QUESTIONS, _SENTENCES, strict=True)),
    Kind.MULTIPLE_CHOICE: tuple(
        {"text": s, "choices": ["It is late.", "It is cheap.", "It is far away."]} for s in _SENTENCES
    ),
    Kind.TOKEN_CLASSIFICATION: tuple({"tokens": s.split()} for s in _SENTENCES),
    Kind.QUESTION_ANSWERING: tuple(
        {"question": q, "context": s, "answers": {"text": [], "answer_start": []}}
        for q, s in zip(_QUESTIONS, _SENTENCES, strict=True)
    ),
}
