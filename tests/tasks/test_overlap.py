"""Shared texts are found whatever their case, blanks and punctuation; short ones do not count."""

from __future__ import annotations

import pytest

from adaptmtl.tasks.catalogue import load_catalogue
from adaptmtl.tasks.overlap import declared_overlap, overlap, overlapping
from adaptmtl.tasks.rows import Split


def split(*rows: dict) -> Split:
    return Split(rows)


def text(value: str, pair: str | None = None) -> dict:
    return {"text": value, "text_pair": pair, "label": 0}


def test_share_of_target_rows():
    source = split(text("A stirring, funny film!"), text("Something else entirely is here"))
    target = split(text("a stirring , funny  FILM"), text("nothing in common with that"), text("funny film"), text("b"))
    assert overlap(source, target) == 0.25


def test_direction_matters():
    source, target = split(text("one two three four")), split(*[text("one two three four")] * 3, text("a b c d e"))
    assert overlap(source, target) == 0.75 and overlap(target, source) == 1.0


def test_short_texts_do_not_count():
    assert overlap(split(text("how is it")), split(text("how is it"))) == 0.0


def test_every_field_counts_and_a_row_counts_once():
    passage = "The Normans were a people of the north"
    qa = {"question": "Who were the Normans then?", "context": passage, "answers": {"text": [], "answer_start": []}}
    tagged = {"tokens": passage.split(), "tags": [0] * 8}
    choice = {"text": "x", "choices": ["y", passage + "."], "label": 1}
    assert overlap(split(text("q", passage)), split(qa)) == 1.0
    assert overlap(split(tagged), split(text(passage))) == 1.0
    assert overlap(split(choice), split(qa, qa)) == 1.0


def test_unspaced_scripts_count_by_length():
    long, short = "黑豹队的防守只丢了分在联赛中排名", "防守"
    assert overlap(split(text(long)), split(text(long))) == 1.0
    assert overlap(split(text(short)), split(text(short))) == 0.0


def test_empty_target():
    assert overlap(split(text("one two three four")), split()) == 0.0


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("rotten_tomatoes", "sst2"),
        ("sst5", "subj"),
        ("wnli", "wsc"),
        ("mrpc", "stsb"),
        ("copa", "balanced_copa"),
        ("squad", "xquad-de"),
        ("qnli", "squad_addsent"),
        ("disfl_qa", "squad_v2"),
        ("vader_movie", "rotten_tomatoes"),
        ("optimus_ner", "wnut17"),
        ("atis_slots", "atis_intent"),
        ("boolq", "boolq"),
    ],
)
def test_known_overlaps_are_declared_both_ways(source, target):
    tasks = load_catalogue().tasks
    assert declared_overlap(tasks[source], tasks[target]) and declared_overlap(tasks[target], tasks[source])


def test_overlapping_lists_names_without_the_target():
    tasks = load_catalogue().tasks
    assert overlapping(tasks["sst2"], tasks) == ("rotten_tomatoes", "sst5", "subj", "vader_movie")
    assert overlapping(tasks["boolq"], tasks) == ()
