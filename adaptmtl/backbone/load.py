"""Backbones by name: the embedded one, a folder, or a Hub id; vetted, hashed, loaded."""

from __future__ import annotations

import re
import shutil
import zipfile
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from adaptmtl.backbone.anatomy import Anatomy, anatomy_of
from adaptmtl.backbone.vet import vet_folder
from adaptmtl.errors import BackboneError, OfflineError, UnknownNameError
from adaptmtl.storage import key_of, publish_folder, sha256_file
from adaptmtl.tasks.sources.archive import find_archive
from adaptmtl.tasks.spec import ArchiveRows
from adaptmtl.workspace import Workspace

if TYPE_CHECKING:  # transformers takes 2 s to import, and a command whose products are at hand does without
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_BACKBONE = "minilm"
#: Batches are padded to a multiple of so many tokens: a small set of shapes, since each new one costs time.
PAD_TO = 16
_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab*", "merges.txt",
          "special_tokens_map.json", "added_tokens.json", "spiece.model", "spm.model",
          "sentencepiece.bpe.model")  # fmt: skip
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")


@dataclass(frozen=True)
class Backbone:
    """A frozen pretrained encoder on disk.

    Attributes:
        name: what the person called it.
        path: folder with config.json, safetensors and tokenizer files.
        hash: of weights, configuration and tokenizer files; two backbones of the same shape differ in it.
        config: parsed config.json.
        hub_id: where the same weights stand on the Hub, if anywhere.
    """

    name: str
    path: Path
    hash: str
    config: dict[str, Any]
    hub_id: str | None = None

    @property
    def model_type(self) -> str:
        """Architecture, as transformers names it."""
        return str(self.config["model_type"])

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return self._count("hidden_size", "dim")

    @property
    def n_layers(self) -> int:
        """Number of transformer layers."""
        return self._count("num_hidden_layers", "n_layers")

    @property
    def max_length(self) -> int:
        """Longest input in tokens that the position embeddings allow after padding, a multiple of 16."""
        offset = 2 if self.model_type in ("roberta", "xlm-roberta", "mpnet") else 0
        return (int(self.config.get("max_position_embeddings", 512)) - offset) // PAD_TO * PAD_TO

    @property
    def anatomy(self) -> Anatomy:
        """Where the architecture's parts lie."""
        return anatomy_of(self.model_type)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The fast tokenizer.

        Raises:
            BackboneError: its files are missing or broken, or it has no fast variant.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(
                self.path, use_fast=True, trust_remote_code=False, local_files_only=True
            )
        except Exception as error:  # transformers and tokenizers raise anything here, a bare Exception too
            raise BackboneError(
                f"tokenizer of backbone {self.name!r} in {self.path} cannot be loaded ({_first_line(error)}); "
                "save its tokenizer.json beside the weights"
            ) from error
        if not tokenizer.is_fast:
            raise BackboneError(
                f"backbone {self.name!r} has no fast tokenizer (tokenizer.json); save one beside its weights"
            )
        tokenizer.model_max_length = int(1e9)  # lengths are ours to cut; silences the tokenizer's own warning
        return tokenizer

    def _count(self, *keys: str) -> int:
        """Returns the first positive whole number in config.json under any of the keys."""
        for key in keys:
            if type(value := self.config.get(key)) is int and value > 0:
                return value
        raise BackboneError(
            f"backbone {self.name!r}: config.json has no {keys[0]} above 0; save the model again with transformers"
        )

    def load_encoder(self) -> PreTrainedModel:
        """Loads a fresh fp32 encoder in evaluation mode, without a pooler where the architecture allows that.

        Raises:
            BackboneError: the weights are truncated or do not fit the configuration.
        """
        import transformers

        options: dict[str, Any] = {"add_pooling_layer": False} if self.model_type in _POOLED else {}
        if self.model_type == "modernbert":  # flash-attn, where installed, would unpad what the lower layers padded
            options |= {"attn_implementation": "sdpa", "reference_compile": False}
        verbosity = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()
        try:
            model, info = transformers.AutoModel.from_pretrained(
                self.path, use_safetensors=True, trust_remote_code=False, local_files_only=True,
                output_loading_info=True, **options,
            )  # fmt: skip
        except Exception as error:  # transformers raises anything from OSError to RuntimeError here
            raise BackboneError(
                f"backbone {self.name!r} in {self.path} cannot be loaded: {_first_line(error)}"
            ) from error
        finally:
            transformers.logging.set_verbosity(verbosity)
        missing = [name for name in info["missing_keys"] if "pooler" not in name and "position_ids" not in name]
        if missing:
            raise BackboneError(
                f"backbone {self.name!r}: {len(missing)} weights are missing from {self.path} (first: {missing[0]}); "
                "the file is truncated or of another architecture"
            )
        return model.float().eval()


_POOLED = ("bert", "roberta", "xlm-roberta", "mpnet")


def resolve(name: str, workspace: Workspace) -> Backbone:
    """Finds a backbone by name, fetching it where the name is remote and the network may be used.

    Args:
        name: an embedded name ("minilm"), a folder, or a Hub id ("FacebookAI/roberta-base").
        workspace: where fetched archives are kept, and whether the network may be used.

    Raises:
        UnknownNameError: none of these.
        BackboneError: it exists and is refused or broken.
        OfflineError: it would have to be fetched, and the network is off or does not answer.
    """
    embedded = embedded_backbones()
    hub_id: str | None = None
    if name in embedded:
        folder, hub_id = _embedded_folder(name, embedded[name], workspace), embedded[name]["hub_id"]
    elif Path(name).expanduser().is_dir():
        folder = Path(name).expanduser().resolve()
    elif "/" in name and _HUB_ID.match(name):
        folder, hub_id = _hub_folder(name, workspace), name
    else:
        raise UnknownNameError(
            "backbone",
            name,
            embedded,
            f"give an embedded one ({', '.join(embedded)}), a folder, or a Hub id (owner/name)",
        )
    config = vet_folder(folder, name)
    backbone = Backbone(name, folder, _hash_files(folder), config, hub_id)
    _ = backbone.hidden_size, backbone.n_layers  # a configuration without them is an error here, not later
    return backbone


@lru_cache(maxsize=1)
def embedded_backbones() -> dict[str, dict[str, str]]:
    """Backbones whose weights come in a package archive, as declared in ``adapters_zoo/backbones.yaml``."""
    text = resources.files("adaptmtl.adapters_zoo").joinpath("backbones.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def _embedded_folder(name: str, declared: dict[str, str], workspace: Workspace) -> Path:
    folder = workspace.folder("backbones", f"{name}-{declared['weights_sha256'][:12]}")
    if folder.is_dir():
        return folder
    archive = find_archive(
        ArchiveRows(package=declared["package"], version=declared["version"], sha256=declared["sha256"], reader="none"),
        workspace,
    )
    with zipfile.ZipFile(archive) as bundle, publish_folder(folder) as temporary:
        for member in bundle.infolist():
            path = Path(member.filename)
            if path.parent.as_posix() == declared["folder"] and not member.is_dir():
                with bundle.open(member) as source, (temporary / path.name).open("wb") as target:
                    shutil.copyfileobj(source, target)
        seen = sha256_file(temporary / "model.safetensors")
        if seen != declared["weights_sha256"]:
            raise BackboneError(f"backbone {name!r}: weights have sha256 {seen}, not {declared['weights_sha256']}")
    return folder


def _hub_folder(name: str, workspace: Workspace) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES), local_files_only=workspace.offline))
    except RepositoryNotFoundError:
        raise BackboneError(
            f"backbone {name!r}: no such repository on the Hub (or it is private: log in first)"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise OfflineError(
            f"backbone {name!r} is not in the local Hub cache and cannot be fetched ({_first_line(error)}); "
            "give a folder with its files, or go online"
        ) from error


@lru_cache(maxsize=64)
def _file_hash(path: Path, size: int, modified: int) -> str:
    return sha256_file(path)


def _hash_files(folder: Path) -> str:
    relevant = (
        *("*.safetensors", "*.safetensors.index.json", "config.json", "tokenizer.json", "tokenizer_config.json"),
        *("vocab.txt", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json", "spiece.model"),
        *("spm.model", "sentencepiece.bpe.model"),
    )
    parts = {}
    for path in sorted({path for pattern in relevant for path in folder.glob(pattern)}):
        status = path.stat()
        parts[path.name] = _file_hash(path.resolve(), status.st_size, status.st_mtime_ns)
    return key_of(files=parts)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
