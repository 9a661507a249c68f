"""Kind and columns of a person's own file are guessed with reasons; what a person says overrides the guess."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from adaptmtl.errors import DataError, UnknownNameError
from adaptmtl.tasks.catalogue import load_catalogue
from adaptmtl.tasks.infer import infer_task, task_name
from adaptmtl.tasks.load import load_rows
from adaptmtl.tasks.spec import HubRows

CONTEXT = "Ann lives in Rome. Bob lives in Oslo."
CONLL = "Ann B-PER\nsings O\n\nin O\nOslo B-LOC\n. O\n\n" * 5
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "1",
                            "question": "Where is Ann?",
                            "is_impossible": False,
                            "answers": [{"text": "Rome", "answer_start": 13}],
                        },
                        {"id": "2", "question": "Where is Eve?", "is_impossible": True, "answers": []},
                    ],
                },
                {
                    "context": "Eve is here. " + CONTEXT,
                    "qas": [{"id": "3", "question": "Where is Eve?", "answers": [{"text": "here", "answer_start": 7}]}],
                },
            ],
        }
    ],
}


def csv(header: str, *rows: str, repeat: int = 5) -> str:
    return "\n".join([header, *rows * repeat]) + "\n"


def jsonl(*rows: dict, repeat: int = 5) -> str:
    return "\n".join(json.dumps(row) for row in rows * repeat) + "\n"


CASES = {
    "topic.csv": (
        csv("id,question,passage,answer", "1,Is it so?,It is so.,yes", "2,Is it not?,It is so.,no"),
        "sequence_classification",
        {"text": "question", "text_pair": "passage", "label": "answer"},
    ),
    "scored.tsv": (
        csv("sentence1\tsentence2\tscore", "a b\tc d\t1.5", "a b\tc e\t2.25"),
        "regression",
        {"text": "sentence1", "text_pair": "sentence2", "label": "score"},
    ),
    "stars.csv": (
        csv("review,stars", "very good film,5", "bad film indeed,1", "fine enough film,3"),
        "sequence_classification",
        {"text": "review", "label": "stars"},
    ),
    "words.conll": (CONLL, "token_classification", {"tokens": "tokens", "tags": "tags"}),
    "words.jsonl": (
        jsonl({"tokens": ["Ann", "sings"], "ner_tags": ["B-PER", "O"]}),
        "token_classification",
        {"tokens": "tokens", "tags": "ner_tags"},
    ),
    "words.csv": (
        csv("words,tags", "Ann sings,B-PER O", "in Oslo now,O B-LOC O"),
        "token_classification",
        {"tokens": {"from": "words", "split": " "}, "tags": {"from": "tags", "split": " "}},
    ),
    "squad.json": (
        json.dumps(SQUAD),
        "question_answering",
        {"question": "question", "context": "context", "answers": "answers"},
    ),
    "asked.csv": (
        csv("question,context,answer,answer_start", f"Where is Ann?,{CONTEXT},lives,23", f"Where is Bob?,{CONTEXT},,"),
        "question_answering",
        {"question": "question", "context": "context", "answers": ["answer", "answer_start"]},
    ),
    "choice.csv": (
        csv("premise,choice1,choice2,label", "It fell over.,wind,rain,1", "It broke apart.,frost,sun,2"),
        "multiple_choice",
        {
            "text": "premise",
            "choices": ["choice1", "choice2"],
            "label": {"from": "label", "values": {"label": {"1": 0, "2": 1}}},
        },
    ),
    "options.jsonl": (
        jsonl(
            {"question": "Why did it fall?", "options": ["wind", "rain"], "answer": "B"},
            {"question": "Why did it break?", "options": ["sun", "frost", "you"], "answer": "C"},
        ),
        "multiple_choice",
        {
            "text": "question",
            "choices": "options",
            "label": {"from": "answer", "values": {"answer": {"A": 0, "B": 1, "C": 2}}},
        },
    ),
    "arc.jsonl": (
        jsonl(
            {"question": "Why did it fall?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"},
            {"question": "Why did it go?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
        ),
        "multiple_choice",
        {
            "text": "question",
            "choices": "choices.text",
            "label": {"from": "answerKey", "values": {"answerKey": {"A": 0, "B": 1}}},
        },
    ),
    "moods.jsonl": (
        jsonl({"text": "what a day", "labels": ["joy", "awe"]}, {"text": "oh no no", "labels": []}),
        "multi_label_classification",
        {"text": "text", "labels": "labels"},
    ),
    "topics.csv": (
        csv("text,topics", "good film today,film|art", "a new bank rate,money", "art market news,art|money"),
        "multi_label_classification",
        {"text": "text", "labels": {"from": "topics", "split": "|"}},
    ),
    "moods.csv": (
        csv("text,labels", 'what a day,"[""joy"", ""awe""]"', "oh no no,\"['fear']\""),
        "multi_label_classification",
        {"text": "text", "labels": "labels"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_kind_and_columns_are_inferred_and_load(name, tmp_path, workspace):
    text, kind, columns = CASES[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    guess = infer_task(tmp_path / name, validation=tmp_path / name)
    assert (guess.spec.kind, guess.spec.rows[0].columns) == (kind, columns)
    assert guess.spec.name == name.split(".")[0] and 0 < guess.confidence <= 1
    assert str(kind) in guess.lines()[0] and f"{guess.confidence:.2f}" in guess.lines()[0]
    loaded = load_rows(guess.spec, workspace)
    assert len(loaded.train) == len(loaded.validation) == guess.rows


def test_values_are_those_of_the_file(tmp_path, workspace):
    def rows(name):
        (tmp_path / name).write_text(CASES[name][0], encoding="utf-8")
        loaded = load_rows(infer_task(tmp_path / name, validation=tmp_path / name).spec, workspace)
        return loaded.spec, list(loaded.train.rows)

    spec, asked = rows("asked.csv")
    assert {str(row["answers"]) for row in asked} == {
        str({"text": ["lives"], "answer_start": [23]}),
        str({"text": [], "answer_start": []}),
    }
    spec, tagged = rows("words.conll")
    assert spec.label_names == ("O", "B-LOC", "B-PER") and {"tokens": ["Ann", "sings"], "tags": [2, 0]} in tagged
    spec, moods = rows("moods.csv")
    assert spec.label_names == ("awe", "fear", "joy") and {tuple(row["labels"]) for row in moods} == {(0, 2), (1,)}
    spec, squad = rows("squad.json")
    assert [row["answers"]["text"] for row in squad].count([]) == 1
    spec, choice = rows("choice.csv")
    assert {(row["choices"][row["label"]]) for row in choice} == {"wind", "sun"}


def test_what_a_person_says_overrides(tmp_path, workspace):
    path = tmp_path / "a.csv"
    path.write_text(csv("note,more,grade,label", "good one,so so,3,x", "bad one,la la,1,y", "fine one,da da,2,x"))
    assert infer_task(path).spec.kind == "sequence_classification"
    guess = infer_task(
        path, kind="regression", text_columns=["more", "note"], label_column="grade", name="mine", validation=path
    )
    assert guess.spec.rows[0].columns == {"text": "more", "text_pair": "note", "label": "grade"}
    assert guess.spec.kind == "regression" and guess.confidence == 1.0 and guess.spec.name == "mine"
    assert {row["label"] for row in load_rows(guess.spec, workspace).train.rows} == {1.0, 2.0, 3.0}
    three = infer_task(path, text_columns=["note", "more", "grade"], label_column="label").spec
    assert three.rows[0].columns["text_pair"] == "{more} {grade}"


def test_an_unsure_guess_says_so(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(csv("a,b", "some words here,x", "other words there,y"))
    guess = infer_task(path)
    assert guess.confidence == 0.5 and "--label-column" in guess.lines()[-1]
    assert guess.labels == {"x": 5, "y": 5}


def test_validation_file_and_label_names_of_parquet(tmp_path, workspace):
    features = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    table = pyarrow.table({"text": ["so good a film", "so bad a film"] * 4, "label": [1, 0] * 4})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "v.csv").write_text("text,label\nheld out text,pos\nanother held text,neg\n")
    loaded = load_rows(infer_task(tmp_path / "a.parquet", validation=tmp_path / "v.csv").spec, workspace)
    assert loaded.spec.label_names == ("neg", "pos") and len(loaded.train) == 8
    assert [row["label"] for row in loaded.validation.rows] == [1, 0]


@pytest.mark.parametrize(
    ("text", "more", "part"),
    [
        ("text,label\na b,x\nc d,y\n", {"label_column": "lable"}, "no column 'lable'; did you mean label"),
        ("text,label\na b,x\nc d,y\n", {"text_columns": ["text", "txt"]}, "no column 'txt'"),
        ("a,b\n" + "".join(f"word {i},thing {i}\n" for i in range(40)), {}, "no column looks like a label"),
        ("good film,1\nbad film,0\n", {}, r"row 0 \(line 1\), column 2: '1' looks like a value"),
        ("text,\na,b\n", {}, r"row 0 \(line 1\), column 2: the column has no name"),
        ("text,label\na b,x\nc d,y\n", {"kind": "regression"}, "'label' does not hold numbers"),
        ("text,label\na b,x\nc d,y\n", {"kind": "question_answering"}, "needs a question, a context"),
        ("n,label\n1,x\n2,y\n", {}, "no column holds a text"),
    ],
)
def test_what_cannot_be_a_task_is_named(tmp_path, text, more, part):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=part) as caught:
        infer_task(tmp_path / "a.csv", **more)
    assert "a.csv" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "row", "kind", "columns"),
    [
        ("message,spam", "text number {i},{word}", "sequence_classification", {"text": "message", "label": "spam"}),
        ("message,lang,verdict", "text number {i},en,{word}", "sequence_classification", {"label": "verdict"}),
        ("text,intent", "text number {i},{places}", "sequence_classification", {"label": "intent"}),
        ("text,intent", "text number {i},{gaps}", "sequence_classification", {"label": "intent"}),
        ("query,document,relevance", "is it {i},doc 012 has {i},{three}", "sequence_classification", {}),
        ("question,passage,option_a,option_b,answer", "is it {i},a doc b {i},x {i},y {i},{ab}", "multiple_choice", {}),
    ],
)  # fmt: skip
def test_what_looks_like_another_kind_is_not_taken_for_it(tmp_path, header, row, kind, columns):
    rows = [
        row.format(i=i, word=["ham", "spam"][i % 2], places=1 + i % 77, gaps=3 * (i % 30), three=i % 3, ab="ab"[i % 2])
        for i in range(300)
    ]
    (tmp_path / "a.csv").write_text("\n".join([header, *rows, ""]))
    label = "relevance" if "relevance" in header else None
    guess = infer_task(tmp_path / "a.csv", label_column=label)
    assert str(guess.spec.kind) == kind and columns.items() <= guess.spec.rows[0].columns.items()
    assert guess.confidence >= 0.7 or "--kind" in guess.lines()[-1]


def test_long_names_are_names_where_a_person_says_so(tmp_path):
    question = "How do you feel about the new office building today"
    (tmp_path / "a.csv").write_text(csv(f"{question},verdict", "good enough,yes", "not so good,no"))
    with pytest.raises(DataError, match="looks like a value, not like a name"):
        infer_task(tmp_path / "a.csv")
    spec = infer_task(tmp_path / "a.csv", text_columns=[question], label_column="verdict").spec
    assert spec.rows[0].columns == {"text": question, "label": "verdict"}


def validated(tmp_path, workspace, train, held):
    for name, labels in (("a", train), ("v", held)):
        lines = ["text,label", *(f"{name} row {i},{label}" for i, label in enumerate(labels)), ""]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    spec = infer_task(tmp_path / "a.csv", validation=tmp_path / "v.csv", kind="sequence_classification").spec
    loaded = load_rows(spec, workspace)
    return [loaded.spec.label_names[row["label"]] for row in loaded.validation.rows]


@pytest.mark.parametrize(
    ("train", "held", "unknown"),
    [
        ([2, 3, 4, 5], [1, 2], "1"), ([0, 2], [1, 2], "1"), ([1, 2, 3, 4, 5], [0, 1], "0"),
        (["fake", "real"], [1, 0], "1"),
    ],
)  # fmt: skip
def test_a_number_is_no_place_among_labels_that_were_read_off_the_rows(tmp_path, workspace, train, held, unknown):
    with pytest.raises(DataError, match=f"validation row 1, .*unknown label '{unknown}'.*; known labels: {train[0]}"):
        validated(tmp_path, workspace, train * 5, held)


def test_minus_one_is_a_label_where_it_stands_against_one(tmp_path, workspace):
    assert validated(tmp_path, workspace, [-1, 0, 1] * 5, [1, -1, 0]) == ["1", "-1", "0"]
    with pytest.raises(DataError, match="hold -1; the row is unlabelled"):
        validated(tmp_path, workspace, [0, 1, 2, 0, 1, 2, -1], [1, 0])


def test_class_names_of_either_file_count_for_its_own_numbers(tmp_path, workspace):
    def write(name, names, labels):
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = pyarrow.table({"text": [f"{name} text {i}" for i in range(len(labels))], "label": labels})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pyarrow.parquet.write_table(table, tmp_path / name)
        return tmp_path / name

    train = write("a.parquet", ["a", "b", "c"], [0, 1, 2] * 4)
    held = write("v.parquet", ["c", "a"], [0, 1, 0])
    rows = load_rows(infer_task(train, validation=held).spec, workspace).validation.rows
    assert [row["label"] for row in rows] == [2, 0, 2]
    digits = load_rows(infer_task(write("d.parquet", ["1", "2", "3"], [0, 1, 2] * 5)).spec, workspace)
    assert {(row["label"], int(row["text"].split()[-1]) % 3) for row in digits.train.rows} == {(0, 0), (1, 1), (2, 2)}


def test_texts_that_stand_on_both_sides_are_told(tmp_path, workspace):
    (tmp_path / "a.csv").write_text(csv("text,label", *(f"row {i} here,{'xy'[i % 2]}" for i in range(9)), repeat=1))
    (tmp_path / "v.csv").write_text("text,label\nRow 3  here,x\nnew words,y\n")
    loaded = load_rows(infer_task(tmp_path / "a.csv", validation=tmp_path / "v.csv").spec, workspace)
    assert loaded.notes == ("1 of 2 validation rows have a text that stands in train",)


def test_unknown_kind(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean regression"):
        infer_task(tmp_path / "a.csv", kind="regresion")


@pytest.mark.parametrize(
    ("path", "name"), [("My Reviews (2).csv", "my-reviews-2"), ("ÜÄ.csv", "mine"), ("a_b.x", "a_b")]
)
def test_names_of_tasks(path, name):
    assert task_name(Path(path)) == name


def test_conll_variants(tmp_path, workspace):
    columns = tmp_path / "four.conll"
    columns.write_text("-DOCSTART- -X- O O\n\n# NN O O\nAnn NNP B-NP B-PER\n\nOslo NNP B-NP B-LOC\n\n" * 4)
    guess = infer_task(columns)
    assert guess.rows == 8 and guess.confidence == 0.6
    chunk = load_rows(infer_task(columns, label_column="column_3", validation=columns).spec, workspace)
    assert chunk.spec.label_names == ("O", "B-NP")
    universal = tmp_path / "a.conllu"
    line = "\t_\tNOUN\t_\t_\t0\troot\t_\t_\n"
    one = f"# sent_id = 1\n# text = x\n1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n1\tde{line}2\tle{line}2.1\tx{line}\n"
    universal.write_text(one * 3 + f"1\t#{line}\n")
    guess = infer_task(universal)
    assert guess.spec.rows[0].columns == {"tokens": "tokens", "tags": "upos"} and guess.rows == 4


@pytest.mark.real
@pytest.mark.skipif(not os.environ.get("ADAPTMTL_TEST_MIRROR"), reason="NOT RUN: set ADAPTMTL_TEST_MIRROR to a mirror")
def test_kinds_of_real_sets_are_inferred():
    mirror, right, wrong = Path(os.environ["ADAPTMTL_TEST_MIRROR"]), [], []
    for task in load_catalogue().tasks.values():
        for rows in task.rows:
            if isinstance(rows, HubRows):
                path = mirror / rows.id / (rows.config or "default") / f"{rows.splits['train']}.parquet"
                if path.exists() and "slots" not in task.name and task.name != "qed":  # two tasks on a file; a struct
                    (right if infer_task(path).spec.kind is task.kind else wrong).append(task.name)
    assert len(right) > 85 and not wrong
