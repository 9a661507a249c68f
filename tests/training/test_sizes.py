"""Sizes of a split are those of its tokens, and are counted once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toy_tasks import KINDS, toy_setup

from adaptmtl.training import sizes as module
from adaptmtl.training.batches import training_units
from adaptmtl.training.sizes import Sizes, sizes_of


@pytest.fixture
def count(monkeypatch):
    """The splits that were tokenised to be counted."""
    counted, real = [], module._count
    monkeypatch.setattr(module, "_count", lambda split: counted.append(split) or real(split))
    return counted


@pytest.mark.parametrize("name", sorted({kind: name for name, (kind, _) in KINDS.items()}.values()))
def test_sizes_are_those_of_the_tokens_and_are_counted_once(tmp_path, tiny_backbone, count, name):
    split = toy_setup(tmp_path / "tasks", tiny_backbone, tmp_path / "home", (name,)).data(name).train
    expected = Sizes(split.encoded.n_tokens, len(training_units(split.encoded)))
    assert sizes_of(split) == sizes_of(replace(split)) == expected and len(count) == 1
    assert sizes_of(replace(split, workspace=None)) == expected and len(count) == 2


def test_other_rows_lengths_and_damage_are_counted_again(tmp_path, tiny_backbone, count):
    split = toy_setup(tmp_path / "tasks", tiny_backbone, tmp_path / "home", ("opinion",)).data("opinion").train
    whole = sizes_of(split)
    part = sizes_of(replace(split, rows=split.rows.take(range(10))))
    short = sizes_of(replace(split, encoding=replace(split.encoding, max_length=6)))
    assert part.units == 10 and short.units == whole.units and short.tokens < whole.tokens
    for path in split.workspace.folder("sizes").iterdir():
        path.write_bytes(path.read_bytes()[:9])
    assert sizes_of(split) == whole and len(count) == 4
