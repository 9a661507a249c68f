"""What is refused before transformers sees it, each in one line that names the backbone and the remedy."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_architectures import write_architecture

from adaptmtl.backbone.load import resolve
from adaptmtl.backbone.vet import REFUSED_KEYS
from adaptmtl.errors import BackboneError, OfflineError, UnknownNameError
from adaptmtl.workspace import Workspace


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_architecture("bert", tmp_path_factory.mktemp("vet") / "bert")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


@pytest.fixture
def refusal(folder: Path, workspace: Workspace) -> Callable[[], str]:
    def get() -> str:
        with pytest.raises(BackboneError) as caught:
            resolve(str(folder), workspace).load_encoder()
        message = str(caught.value)
        assert "\n" not in message and repr(str(folder)) in message
        return message

    return get


def edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**value, **changes}))


@pytest.mark.parametrize("key", sorted(REFUSED_KEYS))
@pytest.mark.parametrize("deep", [False, True])
def test_keys_that_can_name_code_are_refused(key: str, deep: bool, folder: Path, refusal):
    found = {key: "owner/kernel"}
    edit(folder / "config.json", **({"sub": {"parts": [1, [found]]}} if deep else found))
    assert f"config.json has the key {key!r}" in refusal()


def test_keys_of_the_tokenizer_are_refused_too(folder: Path, refusal):
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Tokenizer", None]})
    assert "tokenizer_config.json has the key 'auto_map'" in refusal()


def test_empty_values_of_refused_keys_pass(folder: Path, workspace: Workspace):
    edit(folder / "config.json", auto_map={}, device_map=None, trust_remote_code=False)
    assert resolve(str(folder), workspace).load_encoder() is not None


@pytest.mark.parametrize("model_type", ["llama", None, ["bert"], {"a": 1}])
def test_other_model_types_are_refused(model_type: Any, folder: Path, refusal):
    edit(folder / "config.json", model_type=model_type)
    message = refusal()
    assert "is not supported" in message and "modernbert" in message


def test_a_missing_configuration(folder: Path, refusal):
    (folder / "config.json").unlink()
    assert "config.json does not exist" in refusal()


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{}", b"[1]", b"[" * 100_000])
def test_a_broken_configuration(content: bytes, folder: Path, refusal):
    (folder / "config.json").write_bytes(content)
    assert "config.json" in refusal()


@pytest.mark.parametrize("changes", [{"hidden_size": None}, {"num_hidden_layers": "4"}, {"hidden_size": -1}])
def test_a_configuration_without_a_shape(changes: dict, folder: Path, refusal):
    edit(folder / "config.json", **changes)
    assert next(iter(changes)) in refusal()


def test_pickles_are_refused(folder: Path, refusal):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    assert "only pytorch_model.bin" in refusal()
    (folder / "pytorch_model.bin").unlink()
    assert "no weights" in refusal()


def test_truncated_weights(folder: Path, refusal):
    os.truncate(folder / "model.safetensors", 1000)
    assert "cannot be loaded" in refusal()


def test_weights_of_another_shape_or_architecture(folder: Path, refusal):
    edit(folder / "config.json", intermediate_size=128)
    assert "cannot be loaded" in refusal()
    edit(folder / "config.json", intermediate_size=64, num_hidden_layers=6)
    assert "weights are missing" in refusal()


def test_an_adapter_beside_the_weights_would_load_another_model(folder: Path, tmp_path: Path, refusal):
    other = write_architecture("bert", tmp_path / "other", seed=1)
    edit(folder / "adapter_config.json", base_model_name_or_path=str(other), peft_type="LORA")
    assert "adapter_config.json" in refusal()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../other/model.safetensors", "absent.safetensors", 3])
def test_an_index_may_name_only_the_folders_own_safetensors(name: Any, folder: Path, refusal):
    torch.save({}, folder / "pytorch_model.bin")
    edit(folder / "model.safetensors.index.json", metadata={}, weight_map={"embeddings.word_embeddings.weight": name})
    assert "model.safetensors.index.json names" in refusal()


def test_a_sharded_model_is_loaded(folder: Path, workspace: Workspace):
    whole = resolve(str(folder), workspace).load_encoder()
    (folder / "model.safetensors").unlink()
    whole.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    sharded = resolve(str(folder), workspace).load_encoder()
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), sharded.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("damage", ["missing", "broken"])
def test_a_missing_or_broken_tokenizer(damage: str, folder: Path, workspace: Workspace):
    backbone = resolve(str(folder), workspace)
    if damage == "broken":
        (folder / "tokenizer.json").write_text("{")
    else:
        for path in [*folder.glob("tokenizer*"), *folder.glob("vocab*"), *folder.glob("special*")]:
            path.unlink()
    with pytest.raises(BackboneError, match="tokenizer") as caught:
        _ = backbone.tokenizer
    assert "\n" not in str(caught.value)


def test_unknown_names_are_suggested(workspace: Workspace):
    with pytest.raises(UnknownNameError, match="did you mean minilm"):
        resolve("minilmm", workspace)
    with pytest.raises(UnknownNameError, match="a folder, or a Hub id"):
        resolve("no such/../folder", workspace)


def test_a_hub_id_needs_the_network(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(OfflineError, match="owner/never-was") as caught:
        resolve("owner/never-was", workspace)
    assert "\n" not in str(caught.value)


def test_the_embedded_backbone_needs_the_network_once(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ADAPTMTL_ARCHIVES", raising=False)
    with pytest.raises(OfflineError):
        resolve("minilm", workspace)


def test_the_hash_is_of_content_not_of_place(original: Path, folder: Path, workspace: Workspace):
    one, two = resolve(str(original), workspace), resolve(str(folder), workspace)
    assert one.hash == two.hash
    edit(folder / "config.json", layer_norm_eps=1e-6)
    changed = resolve(str(folder), workspace)
    assert changed.hash != one.hash


def test_lengths_leave_room_for_padding(folder: Path, workspace: Workspace):
    edit(folder / "config.json", max_position_embeddings=100)
    assert resolve(str(folder), workspace).max_length == 96  # 97 tokens would be padded to 112, beyond the positions
