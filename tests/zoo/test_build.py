"""Adapters are trained once, saved whole, and say where they came from."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from tiny import write_tiny_backbone
from toy_tasks import FIVE_KINDS, RECIPE, Spoken, toy_setup, write_rows, write_task

import adaptmtl.zoo.build as build
from adaptmtl.adapters.bundle import ADAPTER, HEAD
from adaptmtl.errors import StorageError, UnknownNameError
from adaptmtl.zoo.build import train_adapters
from adaptmtl.zoo.store import Zoo


@pytest.fixture
def setup(tmp_path, tiny_backbone):
    return toy_setup(tmp_path / "tasks", tiny_backbone, tmp_path / "home", FIVE_KINDS)


@pytest.fixture
def trainings(monkeypatch):
    """Names of the tasks that were really trained."""
    done = []
    train = build.train_adapter

    def counted(workspace, backbone, data, *rest, **more):
        done.append(data.spec.name)
        return train(workspace, backbone, data, *rest, **more)

    monkeypatch.setattr(build, "train_adapter", counted)
    return done


def test_all_five_kinds_train_once_and_are_complete(setup, trainings):
    entries = train_adapters(setup, FIVE_KINDS)
    assert trainings == list(FIVE_KINDS) == [entry.task for entry in entries]
    again = train_adapters(setup, FIVE_KINDS)
    assert trainings == list(FIVE_KINDS), "the second call trained again"
    assert [one.key for one in again] == [one.key for one in entries]
    for entry in entries:
        manifest = entry.manifest()
        data = setup.data(entry.task)
        assert (manifest.key, manifest.seed, manifest.method) == (entry.path.name, 0, "lora")
        assert manifest.backbone.hash == setup.backbone.hash
        assert manifest.data.train_fingerprint == data.train.rows.fingerprint
        assert manifest.data.validation_fingerprint == data.validation.rows.fingerprint
        assert (manifest.data.train_rows, manifest.data.validation_rows) == (48, 20)
        assert manifest.task.label_names == data.spec.label_names and manifest.task.inputs == data.spec.inputs
        assert manifest.main_figure is not None
        for figure in manifest.metrics.values():
            assert figure.n == 20 and figure.low is not None and figure.high is not None
            assert figure.low <= figure.value <= figure.high
        cost, provenance = manifest.cost, manifest.provenance
        assert cost.steps == RECIPE.steps and cost.seconds > 0 and cost.peak_memory_mib > 10
        assert cost.examples_seen > 0 and cost.trained_parameters > 0 and provenance["tokens_seen"] > 0
        assert provenance["created"] and provenance["machine"]["cores"] >= 1
        assert all(provenance["versions"][name] for name in ("adaptmtl", "torch", "transformers", "peft"))
        assert "git_commit" in provenance
        assert manifest.recipe["steps"] == RECIPE.steps and manifest.recipe["method"]["rank"] == 2
        assert set(entry.load().signature) == {"text_embedding", "update_norms"}


def test_as_many_rows_as_the_manifest_says_are_those_that_were_trained_on(tmp_path, tiny_backbone):
    """Questions without an answer have rows cut off that "no answer" is tuned on."""
    (tmp_path / "tasks").mkdir()
    write_task(tmp_path / "tasks", "where", n=700)
    path, none = tmp_path / "tasks" / "where-train.jsonl", {"answers": {"text": [], "answer_start": []}}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_rows(path, [row | none if number % 3 else row for number, row in enumerate(rows)])
    setup = toy_setup(tmp_path / "tasks", tiny_backbone, tmp_path / "home", ())
    (entry,) = train_adapters(setup, ["where"], rows=600)
    assert setup.data("where", 600).tuning is not None and entry.train_rows == 600
    again = setup.data("where", entry.train_rows).train.rows
    assert again.fingerprint == entry.manifest().data.train_fingerprint and len(again) < 600


def test_seeds_and_rows_are_other_adapters_and_equal_ones_have_equal_bytes(setup, tmp_path, tiny_backbone):
    first, other = train_adapters(setup, ["opinion"], seeds=(0, 1))
    (fewer,) = train_adapters(setup, ["opinion"], rows=20)
    assert len({first.key, other.key, fewer.key}) == 3
    assert fewer.train_rows == 20
    elsewhere = toy_setup(tmp_path / "tasks", tiny_backbone, tmp_path / "second home", FIVE_KINDS)
    (same,) = train_adapters(elsewhere, ["opinion"])
    assert same.key == first.key
    for file in (ADAPTER, HEAD):
        assert (same.path / file).read_bytes() == (first.path / file).read_bytes()
        assert (same.path / file).read_bytes() != (other.path / file).read_bytes()


@pytest.mark.parametrize("damage", ["truncated weights", "changed head", "no manifest", "empty manifest"])
def test_a_damaged_adapter_is_made_again_with_the_same_bytes(setup, trainings, damage):
    (entry,) = train_adapters(setup, ["opinion"])
    sound = {file: (entry.path / file).read_bytes() for file in (ADAPTER, HEAD)}
    if damage == "truncated weights":
        (entry.path / ADAPTER).write_bytes(sound[ADAPTER][:100])
    elif damage == "changed head":
        (entry.path / HEAD).write_bytes(sound[HEAD][:-1] + bytes([sound[HEAD][-1] ^ 1]))
    elif damage == "no manifest":
        (entry.path / "adaptmtl.json").unlink()
    else:
        (entry.path / "adaptmtl.json").write_text("")
    (again,) = train_adapters(setup, ["opinion"])
    assert trainings == ["opinion", "opinion"]
    assert {file: (again.path / file).read_bytes() for file in sound} == sound
    assert Zoo(setup.workspace).problems() == ()


def test_plain_peft_loads_it_and_gives_the_models_hidden_states(setup):
    from peft import PeftModel
    from transformers import AutoModel

    from adaptmtl.training.model import feature_batches
    from adaptmtl.training.restore import restore

    (entry,) = train_adapters(setup, ["opinion"])
    plain = AutoModel.from_pretrained(setup.backbone.path, add_pooling_layer=False)
    loaded = PeftModel.from_pretrained(plain, str(entry.path)).eval()
    ours = restore(entry.load(), setup.backbone, dtype=torch.float32)
    batch = next(feature_batches(setup.data("opinion").validation.encoded, None))
    with torch.inference_mode():
        theirs = loaded(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, token_type_ids=batch.token_type_ids
        ).last_hidden_state
        difference = (theirs - ours.hidden(batch))[batch.attention_mask.bool()].abs().max()
    assert float(difference) < 1e-5


def test_an_unknown_task_trains_nothing(setup, trainings):
    with pytest.raises(UnknownNameError, match="unknown task 'opinon'; did you mean opinion"):
        train_adapters(setup, ["opinion", "opinon"])
    assert trainings == [] and Zoo(setup.workspace).entries() == ()


def test_another_backbone_of_the_same_shape_is_another_adapter(setup, tmp_path, trainings):
    (first,) = train_adapters(setup, ["opinion"])
    other = toy_setup(tmp_path / "tasks", str(write_tiny_backbone(tmp_path / "other", seed=1)), tmp_path / "home", [])
    (second,) = train_adapters(other, ["opinion"])
    assert trainings == ["opinion", "opinion"]
    assert first.key != second.key and first.backbone_hash != second.backbone_hash


def test_an_adapter_gone_from_the_zoo_is_trained_again(setup, trainings):
    (entry,) = train_adapters(setup, ["opinion"])
    shutil.rmtree(entry.path)
    train_adapters(setup, ["opinion"])
    assert trainings == ["opinion", "opinion"]


def test_a_full_disk_leaves_nothing_behind_and_the_next_run_goes_through(setup, monkeypatch):
    from adaptmtl.adapters import bundle

    write = bundle.Path.write_bytes

    def full(self, raw):
        if self.name == HEAD:
            raise OSError(28, "No space left on device")
        return write(self, raw)

    with monkeypatch.context() as patch:
        patch.setattr(bundle.Path, "write_bytes", full)
        with pytest.raises(StorageError, match="disk full while writing"):
            train_adapters(setup, ["opinion"])
    zoo = Zoo(setup.workspace)
    assert zoo.entries() == zoo.problems() == ()
    assert not [path for path in zoo.adapters.iterdir() if path.is_dir()]
    assert len(train_adapters(setup, ["opinion"])) == 1


def test_what_is_said_names_metric_rows_and_the_adapter_that_is_there(tmp_path, tiny_backbone):
    spoken = Spoken()
    setup = toy_setup(tmp_path / "tasks", tiny_backbone, tmp_path / "home", ["opinion"], reporter=spoken)
    (entry,) = train_adapters(setup, ["opinion"])
    assert spoken.lines[-1].startswith("opinion: accuracy 0.") or spoken.lines[-1].startswith("opinion: accuracy 1.")
    assert "on 20 rows" in spoken.lines[-1]
    train_adapters(setup, ["opinion"])
    assert spoken.lines[-1] == f"opinion: in the zoo as {entry.name}"


def test_the_toy_task_is_learned(tmp_path, tiny_backbone):
    setup = toy_setup(tmp_path / "tasks", tiny_backbone, tmp_path / "home", ["opinion"], replace(RECIPE, steps=80))
    (entry,) = train_adapters(setup, ["opinion"])
    assert entry.metrics["accuracy"]["value"] > 0.8
    assert all(math.isfinite(one["value"]) for one in entry.metrics.values())
