"""Encoded rows that were written in chunks, or streamed from a file, are those that are made at once."""

from __future__ import annotations

import dataclasses
import json
import random

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from tiny_tokenizers import bert, roberta
from toy_tasks import KINDS, opinion, write_task

from adaptmtl.errors import DataError
from adaptmtl.tasks import encoded_files
from adaptmtl.tasks.encode import encode
from adaptmtl.tasks.encoded_files import encode_kept, read_encoded, stream_encoded, stream_rows
from adaptmtl.tasks.load import load_rows
from adaptmtl.tasks.own import known_tasks
from adaptmtl.tasks.spec import FileRows, TaskSpec

SIX = ("opinion", "remarks", "size", "right-word", "nouns", "where")


def same(one, other):
    for field in dataclasses.fields(one):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype and np.array_equal(left, right), field.name
        else:
            assert left == right, field.name
    assert one.fingerprint == other.fingerprint


def loaded(tmp_path, workspace, name):
    (tmp_path / "tasks").mkdir()
    write_task(tmp_path / "tasks", name)
    return load_rows(known_tasks(workspace, tmp_path / "tasks").task(name), workspace)


@pytest.mark.parametrize("tokenizer", [bert, roberta])
@pytest.mark.parametrize("kind", SIX)
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_make_the_whole(tmp_path, workspace, monkeypatch, kind, tokenizer, chunk):
    monkeypatch.setattr(encoded_files, "CHUNK_ROWS", chunk)
    rows = loaded(tmp_path, workspace, kind)
    how = {"max_length": 16, "stride": 4}
    whole = encode(rows.train, rows.spec, tokenizer(), **how)
    kept = encode_kept(workspace, rows.train, rows.spec, tokenizer, "key", **how)
    same(kept, whole)
    monkeypatch.setattr(encoded_files, "encode", None)  # a second time nothing is tokenised
    same(encode_kept(workspace, rows.train, rows.spec, tokenizer, "key", **how), whole)
    with pytest.raises(TypeError):  # but with another tokenizer, length or label order it is
        encode_kept(workspace, rows.train, rows.spec, tokenizer, "other", **how)
    with pytest.raises(TypeError):
        encode_kept(workspace, rows.train, rows.spec, tokenizer, "key", max_length=17, stride=4)


def test_a_damaged_product_is_made_again(tmp_path, workspace):
    rows = loaded(tmp_path, workspace, "nouns")
    made = encode_kept(workspace, rows.train, rows.spec, bert, "key", max_length=16)
    folder = next(workspace.folder("encoded").iterdir())
    (folder / "input_ids.bin").write_bytes(b"short")
    assert read_encoded(folder) is None
    again = encode_kept(workspace, rows.train, rows.spec, bert, "key", max_length=16)
    whole = encode(rows.train, rows.spec, bert(), max_length=16)
    same(again, whole)
    assert made.kind == again.kind


def test_training_uses_what_is_kept(tmp_path, tiny_backbone, monkeypatch):
    from toy_tasks import toy_setup

    setup = toy_setup(tmp_path / "tasks", tiny_backbone, tmp_path / "home", ["opinion"])
    split = setup.data("opinion", 30).train
    assert split.encoded.n_rows == 30
    assert len(list((tmp_path / "home" / "encoded").iterdir())) == 1
    monkeypatch.setattr(encoded_files, "encode", None)
    again = dataclasses.replace(split)
    same(again.encoded, split.encoded)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_streamed_files_equal_loaded_ones(tmp_path, workspace, monkeypatch, ending):
    monkeypatch.setattr(encoded_files, "CHUNK_ROWS", 10)
    draw = random.Random(0)
    rows = [opinion(draw, i) for i in range(41)]  # the last chunk holds one row
    rows[3]["text"] = 'it "said", then\nleft\ttoday'
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif ending == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        mark = "," if ending == "csv" else "\t"
        quoted = [mark.join('"' + str(value).replace('"', '""') + '"' for value in row.values()) for row in rows]
        path.write_text("\ufeff" + "\n".join([mark.join(rows[0]), *quoted]))
    source = FileRows(train=str(path), validation=str(path), columns={"text": "text", "label": "label"})
    task = TaskSpec(name="mine", kind=KINDS["opinion"][0], rows=(source,), label_names=("bad", "good"))
    assert [{**row} for row in stream_rows(path)] == rows
    streamed = stream_encoded(source, task, bert(), tmp_path / "out", max_length=16)
    same(streamed, encode(load_rows(task, workspace).train, task, bert(), max_length=16))
    assert isinstance(streamed.input_ids, np.memmap)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.csv", b"text,label\n" + b"some text,good\n" * 30 + b",bad\n", r"train row 31, column 'text'"),
        ("a.csv", b"text,label\n" + b"some text,good\n" * 30 + b"one\n", r"row 31 \(line 32\), column 'label'"),
        ("a.jsonl", b'{"text": "a b", "label": "bad"}\n' * 25 + b"{\n", r"line 26"),
        ("a.csv", b"text,label\n" + b"some text,good\n" * 30 + b"\xff,bad\n", r"line 32, byte 1: 0xff"),
        ("a.parquet", b"nothing", "not a readable parquet"),
    ],
)
def test_a_bad_row_far_down_is_named_and_nothing_stays(tmp_path, monkeypatch, name, content, part):
    monkeypatch.setattr(encoded_files, "CHUNK_ROWS", 10)
    (tmp_path / name).write_bytes(content)
    source = FileRows(train=str(tmp_path / name), columns={"text": "text", "label": "label"})
    task = TaskSpec(name="mine", kind="sequence_classification", rows=(source,), label_names=("bad", "good"))
    with pytest.raises(DataError, match=part):
        stream_encoded(source, task, bert(), tmp_path / "out" / "rows", max_length=16)
    assert list((tmp_path / "out").iterdir()) == []
