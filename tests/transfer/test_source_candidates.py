"""Which adapters can be sources; more of it is in tests/fusion/test_fuse.py, through fuse()."""

import json
from dataclasses import replace

from toy_tasks import toy_setup, write_rows, write_task

from adaptmtl.errors import SelectionError
from adaptmtl.tasks.catalogue import load_catalogue
from adaptmtl.transfer import sources
from adaptmtl.transfer.sources import doubts_in_words, find_sources
from adaptmtl.zoo.build import train_adapters
from adaptmtl.zoo.store import Zoo

import pytest  # isort: skip

NAMES = ("opinion", "mood", "colour")


@pytest.fixture
def setup(tmp_path, tiny_backbone):
    made = toy_setup(tmp_path / "tasks", tiny_backbone, tmp_path / "home", NAMES)
    train_adapters(made, ["mood", "colour"])
    return made


def test_sources_come_by_name_and_wanted_ones_in_the_same_order(setup):
    target = setup.data("opinion")
    assert [one.task for one in find_sources(setup, target).entries] == ["colour", "mood"]
    assert [one.task for one in find_sources(setup, target, ["mood", "colour"]).entries] == ["colour", "mood"]
    assert [one.task for one in find_sources(setup, target, ["mood"]).entries] == ["mood"]


def test_an_adapter_whose_rows_are_gone_is_a_source_with_a_word_about_it(setup, tmp_path):
    (tmp_path / "tasks" / "mood-train.jsonl").unlink()
    told = replace(setup, workspace=replace(setup.workspace, home=tmp_path / "home"), eval_rows=19)
    found = find_sources(told, told.data("opinion"))
    assert [one.task for one in found.entries] == ["colour", "mood"]
    assert found.unchecked == (("mood", "texts were not compared with those of opinion: the rows are not at hand"),)
    assert doubts_in_words(found.unchecked, ["colour"]) == ""
    assert doubts_in_words((("a", "so"), ("b", "so"), ("c", "not")), ["a", "b"]) == "; a, b are used although so"


def test_an_adapter_that_was_trained_on_other_rows_than_those_at_hand_is_not_compared(setup, tmp_path):
    path = tmp_path / "tasks" / "mood-train.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-10]))  # moved elsewhere, maybe to opinion
    told = replace(setup, eval_rows=17)  # a setup of its own: rows are kept per process
    found = find_sources(told, told.data("opinion"))
    assert [one.task for one in found.entries] == ["colour", "mood"]
    ((task, reason),) = found.unchecked
    assert task == "mood" and reason.endswith("the rows of that name here are not those it was trained on")


def test_only_the_rows_that_an_adapter_was_trained_on_count_as_overlap(tmp_path, tiny_backbone):
    setup = toy_setup(tmp_path / "tasks", tiny_backbone, tmp_path / "home", NAMES)
    held = (tmp_path / "tasks" / "opinion-held.jsonl").read_text().splitlines()
    leaked = [{"text": json.loads(line)["text"], "label": "red"} for line in held]
    clean = [
        {"text": f"a {number} in {name} for the year", "label": name}
        for number in range(20)
        for name in ("blue", "green")
    ]
    write_rows(tmp_path / "tasks" / "colour-train.jsonl", [*clean, *leaked])
    setup = replace(setup, eval_rows=18)  # a setup of its own: rows are kept per process
    train_adapters(setup, ["colour"])
    excluded = dict(find_sources(setup, setup.data("opinion")).excluded)
    assert excluded["colour"].startswith("100.0% of the evaluation rows of opinion")
    with pytest.raises(SelectionError, match=r"source 'colour' cannot be used for 'opinion': 100.0% of"):
        find_sources(setup, setup.data("opinion"), ["colour"])


def test_of_very_many_adapters_the_nearest_are_looked_at(setup, monkeypatch):
    monkeypatch.setattr(sources, "MOST_CHECKED", 1)
    target = setup.data("opinion")
    found = find_sources(setup, target)
    assert len(found.entries) == 1
    assert found.excluded[0][1] == "only the 1 adapters with the nearest texts are looked at"
    assert len(find_sources(setup, target, ["mood", "colour"]).entries) == 2, "those that are named are not left out"


def test_adapters_that_cannot_be_used_take_no_place_of_those_that_are_looked_at(setup, monkeypatch):
    train_adapters(replace(setup, recipe=replace(setup.recipe, lower_layers=1)), ["mood"])  # on other layers as well
    for entry in Zoo(setup.workspace).find(task="mood"):
        if entry.manifest().recipe["lower_layers"] != 1:
            Zoo(setup.workspace).remove(entry.name)
    monkeypatch.setattr(sources, "MOST_CHECKED", 1)
    monkeypatch.setattr(sources, "nearest_texts", lambda _, __, entries: [e.key for e in entries if e.task == "mood"] +
                        [e.key for e in entries if e.task != "mood"])  # fmt: skip
    found = find_sources(setup, setup.data("opinion"))
    assert [one.task for one in found.entries] == ["colour"]
    assert [why[:28] for _, why in found.excluded] == ["its adapter sits on other la"]
    with pytest.raises(SelectionError, match=r"sits on other layers \(.*\)$"):
        find_sources(setup, setup.data("opinion"), ["mood"])


def test_fused_adapters_are_no_sources(setup):
    from adaptmtl.fusion.fuse import fuse

    made = fuse(setup, "opinion", sources=["mood"])
    assert made.entry.method == "fused" and len(Zoo(setup.workspace).entries()) == 3
    assert [one.task for one in find_sources(setup, setup.data("mood")).entries] == ["colour"]


def test_a_source_that_leaks_is_used_where_that_is_allowed_and_every_output_says_so(tmp_path, tiny_backbone):
    from adaptmtl.fusion.fuse import fuse
    from adaptmtl.selection.reading import rank_sources

    setup = toy_setup(tmp_path / "tasks", tiny_backbone, tmp_path / "home", NAMES)
    write_task(tmp_path / "tasks", "mood", more="overlaps: [opinion]\n")
    setup = replace(setup, catalogue=load_catalogue(tmp_path / "tasks"))
    train_adapters(setup, ["mood", "colour"])
    told = replace(setup, allow_overlap=True)
    reason = "it shares rows with opinion"
    assert [one.task for one in find_sources(setup, setup.data("opinion")).entries] == ["colour"]
    found = find_sources(told, told.data("opinion"))
    assert [one.task for one in found.entries] == ["colour", "mood"]
    assert found.excluded == () and found.overlapping == (("mood", reason),)
    table = rank_sources(told, "opinion")
    assert table.to_dict()["overlapping"] == (("mood", reason),)
    assert table.summary.endswith(f"; mood is used although {reason}")
    assert "although" not in rank_sources(setup, "opinion").summary
    made = fuse(told, "opinion", sources=["mood"])
    assert made.summary == f"sources as asked for: mood; mood is used although {reason}"
    with pytest.raises(SelectionError, match=f"'mood' cannot be used for 'opinion': {reason}; leave it out, or use"):
        fuse(setup, "opinion", sources=["mood"])


def test_sources_with_a_refused_licence_are_left_out_by_name(tmp_path, tiny_backbone):
    setup = toy_setup(tmp_path / "tasks", tiny_backbone, tmp_path / "home", NAMES)
    write_task(tmp_path / "tasks", "mood", more="licence: CC-BY-NC-4.0 licence\n")
    write_task(tmp_path / "tasks", "colour", more="licence: a licence that is free\n")
    setup = replace(setup, catalogue=load_catalogue(tmp_path / "tasks"))
    train_adapters(setup, ["mood", "colour"])
    found = find_sources(replace(setup, refused_licences=("nc",)), setup.data("opinion"))
    assert [one.task for one in found.entries] == ["colour"], "a part of a word is no part of a licence"
    assert found.excluded == (("mood", "the licence of its data is refused (CC-BY-NC-4.0 licence)"),)
    both = find_sources(replace(setup, refused_licences=("by-nc", "FREE")), setup.data("opinion"))
    assert both.entries == () and len(both.excluded) == 2
    with pytest.raises(SelectionError, match="licence of its data is refused"):
        find_sources(replace(setup, refused_licences=("nc",)), setup.data("opinion"), ["mood"])


def test_adapters_of_another_backbone_are_named_as_left_out(setup, tmp_path, tiny_backbone):
    other = toy_setup(tmp_path / "tasks2", tiny_backbone, tmp_path / "home", NAMES)
    other = replace(other, backbone=replace(other.backbone, hash="0" * 20))
    found = find_sources(other, other.data("opinion"))
    assert found.entries == () and [task for task, _ in found.excluded] == ["colour", "mood"]
    assert all("its adapter is for another backbone" in why for _, why in found.excluded)
