"""Rows to predict, from arguments, lines and files, for every kind."""

import io
import json

import pytest

from adaptmtl.cli.predict_rows import checked, rows_from_arguments, rows_from_file, rows_from_lines
from adaptmtl.errors import AdaptMTLError, DataError
from adaptmtl.tasks.columns import parse_columns
from adaptmtl.tasks.kind import kinds

CLASSES, CHOICE, TAGS, QA = (
    kinds["sequence_classification"],
    kinds["multiple_choice"],
    kinds["token_classification"],
    kinds["question_answering"],
)


@pytest.mark.parametrize(
    ("kind", "texts", "pairs", "choices", "rows"),
    [
        (CLASSES, ["a", "b"], [], [], [{"text": "a"}, {"text": "b"}]),
        (CLASSES, ["a", "b"], ["p"], [], [{"text": "a", "text_pair": "p"}, {"text": "b", "text_pair": "p"}]),
        (CLASSES, ["a", "b"], ["p", "q"], [], [{"text": "a", "text_pair": "p"}, {"text": "b", "text_pair": "q"}]),
        (kinds["regression"], ["a"], [], [], [{"text": "a"}]),
        (CHOICE, ["a"], [], ["x", "y"], [{"text": "a", "choices": ["x", "y"]}]),
        (TAGS, ["Anna  lives here"], [], [], [{"tokens": ["Anna", "lives", "here"]}]),
        (QA, ["who?"], ["Anna did."], [], [{"question": "who?", "context": "Anna did."}]),
    ],
)
def test_arguments(kind, texts, pairs, choices, rows):
    assert rows_from_arguments(kind, texts, pairs, choices) == rows


@pytest.mark.parametrize(
    ("kind", "texts", "pairs", "choices", "said"),
    [
        (CLASSES, [], [], [], "nothing to predict"),
        (CLASSES, ["a", "b", "c"], ["p", "q"], [], "3 texts but 2 of --pair"),
        (CLASSES, ["a"], [], ["x"], "has no answers to choose from"),
        (CHOICE, ["a"], [], [], "needs answers to choose from"),
        (TAGS, ["a"], ["b"], [], "takes no second text"),
        (QA, ["who?"], [], [], "give it with --pair"),
        (CLASSES, ["a", ""], [], [], "text 2: no text"),
    ],
)
def test_arguments_that_do_not_fit(kind, texts, pairs, choices, said):
    with pytest.raises(AdaptMTLError, match=said):
        rows_from_arguments(kind, texts, pairs, choices)


def test_lines_are_texts_pairs_or_json():
    text = 'plain\n\nfirst\tsecond\n{"text": "a", "text_pair": "b", "id": 7}\n'
    assert rows_from_lines(text, CLASSES) == [
        {"text": "plain"},
        {"text": "first", "text_pair": "second"},
        {"text": "a", "text_pair": "b"},
    ]


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("\n \n", CLASSES, "no rows"),
        ("a\n{broken", CLASSES, "line 2: not JSON"),
        ("a\tb", TAGS, "line 1: holds a tab"),
        ("who?", QA, "line 1: no context; the adapter reads question, context; columns seen: question"),
    ],
)
def test_lines_that_do_not_fit(text, kind, said):
    with pytest.raises(AdaptMTLError, match=said):
        rows_from_lines(text, kind)


def test_files_of_every_ending_give_the_same_rows(tmp_path):
    (tmp_path / "a.csv").write_text('id,text,choices\n1,which,"[""x"", ""y""]"\n')
    (tmp_path / "a.tsv").write_text('id\ttext\tchoices\n1\twhich\t"[""x"", ""y""]"\n')
    (tmp_path / "a.jsonl").write_text('{"text": "which", "choices": ["x", "y"]}\n')
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        assert rows_from_file(str(tmp_path / name), CHOICE) == [{"text": "which", "choices": ["x", "y"]}]


def test_an_adapter_that_was_trained_on_two_texts_is_given_two():
    pair = ("text", "text_pair")
    with pytest.raises(AdaptMTLError, match="the adapter reads a second text, the text_pair: give it with --pair"):
        rows_from_arguments(CLASSES, ["a"], [], [], pair)
    with pytest.raises(DataError, match="line 1: no text_pair; the adapter reads text, text_pair"):
        rows_from_lines("a\n", CLASSES, pair)
    assert rows_from_lines("a\tb\n", CLASSES, pair) == [{"text": "a", "text_pair": "b"}]
    with pytest.raises(AdaptMTLError, match="--pair does not fit: the adapter takes no second text"):
        rows_from_arguments(CLASSES, ["a"], ["b"], [], ("text",))
    with pytest.raises(DataError, match="holds a tab, but the adapter takes no second text"):
        rows_from_lines("a\tb\n", CLASSES, ("text",))


def test_a_file_like_the_one_that_was_trained_on_is_read_like_it(tmp_path):
    (tmp_path / "new.csv").write_text("message,from\nhello there,Anna\n")
    own = parse_columns({"text": "{from}: {message}", "label": "verdict"})
    assert rows_from_file(str(tmp_path / "new.csv"), CLASSES, None, ("text",), own) == [{"text": "Anna: hello there"}]
    (tmp_path / "usual.csv").write_text("text,message\nhello,there\n")
    assert rows_from_file(str(tmp_path / "usual.csv"), CLASSES, None, ("text",), own) == [{"text": "hello"}]
    (tmp_path / "other.csv").write_text("words\nhello\n")
    with pytest.raises(DataError, match=r"row 1: no text; the adapter reads text; columns seen: words"):
        rows_from_file(str(tmp_path / "other.csv"), CLASSES, None, ("text",), own)


def test_lines_of_stdin_end_where_lines_of_files_end(monkeypatch):
    def given(raw):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="latin-1"))
        return rows_from_file("-", CLASSES)

    text = "one\u2028two\x85three"
    assert given(f"\ufeff{text}\r\nnext\r\n".encode()) == [{"text": text}, {"text": "next"}]
    assert given(json.dumps({"text": text}, ensure_ascii=False).encode()) == [{"text": text}]
    with pytest.raises(DataError, match="stdin is not UTF-8 at byte 2"):
        given("caf\xe9"[1:].encode("latin-1"))


def test_stdin_stands_for_a_file(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("a\nb\n"))
    assert rows_from_file("-", CLASSES) == [{"text": "a"}, {"text": "b"}]


def test_text_and_file_exclude_each_other():
    with pytest.raises(AdaptMTLError, match="exclude each other"):
        rows_from_file("rows.csv", CLASSES, ["text"])


def test_tokens_that_begin_with_a_bracket_are_tokens():
    assert checked({"tokens": "[ sic ]"}, TAGS, "row 1") == {"tokens": ["[", "sic", "]"]}


def test_choices_that_are_no_list_are_refused():
    with pytest.raises(DataError, match="row 1: choices is 'x or y'; give a list"):
        checked({"text": "a", "choices": "x or y"}, CHOICE, "row 1")
