"""``adaptmtl predict``: labels, values, spans or tags for new rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptmtl.cli import render
from adaptmtl.cli.options import General, with_options
from adaptmtl.errors import AdaptMTLError

if TYPE_CHECKING:
    from adaptmtl.tasks.columns import Expression

EXAMPLES = """
adaptmtl predict --adapter trec "How far is the moon?" "Who wrote Emma?"
adaptmtl predict --adapter boolq-fused "is sea water salty" --pair "Sea water holds 3.5% salt."
adaptmtl predict --adapter boolq-fused --file questions.csv --json
"""


@with_options
def predict(
    general: General,
    adapter: Annotated[
        str,
        typer.Option("--adapter", help="Adapter of the zoo: name, alias or key.", metavar="NAME", show_default=False),
    ],
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts, or questions; - reads JSON lines or one text per line from stdin.", metavar="TEXT"),
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option("--pair", help="Second text (passage, context) of each TEXT, or one for all.", metavar="TEXT"),
    ] = None,
    choices: Annotated[
        list[str] | None, typer.Option("--choice", help="An answer to choose from; repeat it.", metavar="TEXT")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            help="Rows with the task's columns (text, text_pair, choices, tokens, question, context), or those of the "
            "file that it was trained on: csv, tsv, jsonl, json or parquet; - for stdin.",
            metavar="PATH",
        ),
    ] = None,
    best: Annotated[
        int, typer.Option("--best", help="Answers to show of each question, the best first.", metavar="N")
    ] = 1,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="Where the adapter's backbone is, if not where it was.", metavar="NAME"),
    ] = None,
) -> None:
    """Apply an adapter to texts, or to the rows of a file."""
    from adaptmtl.cli.predict_rows import rows_from_arguments, rows_from_file
    from adaptmtl.evaluation.predict import load_predictor

    predictor = load_predictor(adapter, general.workspace(), backbone=backbone)
    kind, columns = predictor.spec.kind, predictor.columns
    if texts == ["-"]:
        file, texts = "-", None
    if file is not None:
        if pairs or choices:
            raise AdaptMTLError("--pair and --choice go with TEXT: put second texts and choices into the rows")
        rows = rows_from_file(file, kind, texts, columns, _own_columns(general, predictor.spec.name))
    else:
        rows = rows_from_arguments(kind, texts or [], pairs or [], choices or [], columns)
    predictions = predictor.predict(rows, best=best)
    if general.json:
        render.print_json(predictions)
    else:
        _print(rows, predictions)


def _own_columns(general: General, task: str) -> dict[str, Expression]:
    """Returns how the file of a task that was added to the workspace is read; empty for other tasks."""
    from adaptmtl.tasks.columns import parse_columns
    from adaptmtl.tasks.own import known_tasks

    known = known_tasks(general.workspace()).tasks.get(task)
    return next((parse_columns(one.columns) for one in known.rows if one.type == "file"), {}) if known else {}


def _print(rows: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]) -> None:
    console = render.console()
    if predictions and "tags" in predictions[0]:
        for one in predictions:
            console.print(_tagged(one["tokens"], one["tags"]), soft_wrap=True)
        return
    table = render.table("prediction", "score", "text", right=("score",), elastic="text")
    for row, one in zip(rows, predictions, strict=True):
        text = render.cut(str(row.get("text") or row.get("question") or ""), 200)
        answer, score = _answer(row, one)
        table.add_row(render.cut(answer, 48), score, text)
        for other in one.get("best", ())[1:]:
            table.add_row(*(render.cut(part, 48) for part in _answer(row, other)), "")
    console.print(table)


def _answer(row: Mapping[str, Any], one: Mapping[str, Any]) -> tuple[str, str]:
    """Returns what is predicted and how sure that is, as text."""
    if "value" in one:
        return f"{one['value']:.3f}", ""
    if "labels" in one:
        shares = [f"{one['probabilities'][label]:.3f}" for label in one["labels"]]
        return ", ".join(one["labels"]) or "(no label)", ", ".join(shares)
    if "answer" in one:
        return one["answer"] or "(no answer)", f"{one['score']:.3f}"
    if "choice" in one:
        return row["choices"][one["choice"]], f"{one['probabilities'][one['choice']]:.3f}"
    if "label" in one:
        return one["label"], f"{one['probabilities'][one['label']]:.3f}" if "probabilities" in one else ""
    return json.dumps(one, ensure_ascii=False), ""  # of a kind of another package


def _tagged(tokens: Sequence[str], tags: Sequence[str]) -> str:
    return " ".join(token if tag == "O" else f"{token}/{tag}" for token, tag in zip(tokens, tags, strict=True))
