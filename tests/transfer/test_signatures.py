"""Signatures of many adapters are packed once, only new ones are read, and the ranking is the plain cosine's."""

import contextlib
import importlib.util
import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy_tasks import toy_setup

import adaptmtl.transfer.signatures as module
from adaptmtl.errors import SelectionError
from adaptmtl.storage import key_of
from adaptmtl.transfer.signatures import pack_signatures, rank_by_signature
from adaptmtl.zoo.build import train_adapters
from adaptmtl.zoo.store import Zoo


@pytest.fixture(scope="module")
def template(tmp_path_factory, tiny_backbone):
    folder = tmp_path_factory.mktemp("signatures")
    setup = toy_setup(folder / "tasks", tiny_backbone, folder / "home", ["mood"])
    return train_adapters(setup, ["mood"])[0].load()


def add(zoo, template, number, embedding=None):
    vector = torch.from_numpy(np.random.default_rng(number).normal(size=32).astype(np.float32))
    signature = {"text_embedding": vector if embedding is None else embedding}
    key = key_of(number=number)
    manifest = template.manifest.model_copy(update={"key": key, "name": f"made-lora-{number}", "seed": number})
    return zoo.add(replace(template, manifest=manifest, signature=signature))


def test_ranking_is_the_plain_cosine(workspace, template):
    zoo = Zoo(workspace)
    entries = [add(zoo, template, number) for number in range(30)]
    packed = pack_signatures(workspace, template.manifest.backbone.hash)
    target = np.random.default_rng(99).normal(size=32)
    expected = {}
    for entry in entries:
        vector = entry.load().signature["text_embedding"].numpy()
        expected[entry.key] = float(vector @ target / np.linalg.norm(vector) / np.linalg.norm(target))
    found = rank_by_signature(packed, target)
    assert {entry.key: score for entry, score in found} == pytest.approx(expected, abs=1e-6)
    assert [entry.key for entry, _ in found] == sorted(expected, key=expected.get, reverse=True)
    assert rank_by_signature(packed, 5 * target, most=3) == found[:3]
    assert not packed.skipped


def test_only_new_adapters_are_read(workspace, template, monkeypatch):
    zoo, hash_of = Zoo(workspace), template.manifest.backbone.hash
    for number in range(5):
        add(zoo, template, number)
    before = pack_signatures(workspace, hash_of)
    read = []
    real = module.read_signature
    monkeypatch.setattr(module, "read_signature", lambda path: read.append(path) or real(path))
    assert pack_signatures(workspace, hash_of).vectors.tolist() == before.vectors.tolist() and not read
    fresh = add(zoo, template, 7)
    after = pack_signatures(workspace, hash_of)
    assert read == [fresh.path] and len(after.entries) == 6
    rows = {entry.key: row for entry, row in zip(after.entries, after.vectors.tolist(), strict=True)}
    assert all(rows[e.key] == row for e, row in zip(before.entries, before.vectors.tolist(), strict=True))
    zoo.remove(fresh.key)
    assert [entry.key for entry in pack_signatures(workspace, hash_of).entries] == [e.key for e in before.entries]
    assert len(read) == 1


def test_what_cannot_be_ranked_is_named(workspace, template):
    zoo, hash_of = Zoo(workspace), template.manifest.backbone.hash
    good = add(zoo, template, 0)
    narrow = add(zoo, template, 1, torch.ones(3))
    broken = add(zoo, template, 2)
    (broken.path / "signature.safetensors").write_bytes(b"no")
    packed = pack_signatures(workspace, hash_of)
    assert len(packed.entries) + len(packed.skipped) == 3
    assert "changed or truncated" in packed.skipped[broken.name]
    assert (good.name in packed.skipped) != (narrow.name in packed.skipped)
    with pytest.raises(SelectionError, match=r"\(7,\).*width"):
        rank_by_signature(packed, np.ones(7))
    with pytest.raises(SelectionError, match="length 0"):
        rank_by_signature(packed, np.zeros(packed.vectors.shape[1]))
    assert pack_signatures(workspace, "another").entries == ()


def test_a_damaged_matrix_is_made_again(workspace, template):
    zoo, hash_of = Zoo(workspace), template.manifest.backbone.hash
    for number in range(4):
        add(zoo, template, number)
    first = pack_signatures(workspace, hash_of).vectors.tolist()
    matrix = next(workspace.folder("signatures").rglob("vectors.f32"))
    os.truncate(matrix, 10)
    assert pack_signatures(workspace, hash_of).vectors.tolist() == first


def test_the_benchmark_ranks_a_made_up_zoo(monkeypatch, tmp_path):
    path = Path(__file__).parents[2] / "benchmarks" / "rank_signatures.py"
    spec = importlib.util.spec_from_file_location("rank_signatures", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    real = benchmark.fill
    monkeypatch.setattr(benchmark, "fill", lambda home, first, count: real(home, first, count // 10))

    def in_process(command, **_):
        monkeypatch.setattr(sys, "argv", ["-c", *command[3:]])
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(command[2], {})
        return SimpleNamespace(stdout=out.getvalue())

    monkeypatch.setattr(benchmark.subprocess, "run", in_process)
    monkeypatch.setattr(sys, "argv", ["rank_signatures", "--smoke", "--out", str(tmp_path / "out.json")])
    benchmark.main()
    result = json.loads((tmp_path / "out.json").read_text())
    assert [result[step]["adapters"] for step in ("first_packing", "packed", "after_adding")] == [20, 20, 21]
    target = np.random.default_rng(0).normal(size=benchmark.HIDDEN)
    vectors = [np.random.default_rng(number).normal(size=benchmark.HIDDEN).astype(np.float32) for number in range(20)]
    best = int(np.argmax([vector @ target / np.linalg.norm(vector) for vector in vectors]))
    assert result["packed"]["best"] == f"made-lora-{best}"
