import json
import socket

import pytest
from hub_server import LoopbackHub
from huggingface_hub import constants
from small_bundles import bundle_of

from adaptmtl.adapters.bundle import ADAPTER, CARD, CONFIG, FILES, HEAD, SIGNATURE
from adaptmtl.adapters.manifest import MANIFEST
from adaptmtl.errors import AdapterError, AdaptMTLError, OfflineError, StorageError, UnknownNameError
from adaptmtl.workspace import Workspace
from adaptmtl.zoo import hub as hub_module
from adaptmtl.zoo.hub import pull, push
from adaptmtl.zoo.store import Zoo

REPO = "me/boolq-adapter"


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with LoopbackHub() as server:
        yield server


@pytest.fixture
def place(hub):
    return {"endpoint": hub.endpoint, "token": hub.token}


@pytest.fixture
def other(tmp_path):
    return Workspace(home=tmp_path / "other", mirror=None, offline=False)


@pytest.fixture
def pushed(zoo, workspace, place):
    entry = zoo.add(bundle_of())
    push(entry.name, REPO, workspace, **place)
    return entry


def refused(error, pattern, action, *args, **kwargs):
    with pytest.raises(error, match=pattern) as caught:
        action(*args, **kwargs)
    assert "\n" not in str(caught.value)
    assert "hf_" not in str(caught.value), "a token stands in the message"


def nothing_entered(workspace):
    folder = workspace.folder("zoo", "adapters")
    return not folder.exists() or list(folder.iterdir()) == []


def test_what_is_pushed_is_pulled_with_identical_bytes(hub, place, pushed, other):
    pulled = pull(REPO, other, **place)
    assert pulled.key == pushed.key and pulled.path != pushed.path
    assert sorted(path.name for path in pulled.path.iterdir()) == sorted(FILES)
    for name in FILES:
        assert (pulled.path / name).read_bytes() == (pushed.path / name).read_bytes(), name
    assert [one.key for one in Zoo(other).entries()] == [pushed.key]
    assert pull(REPO, other, **place) == pulled
    assert hub.requests.count(("POST", f"/api/models/{REPO}/commit/main")) == 1


def test_a_push_returns_the_commit_and_uploads_a_card_that_names_the_repository(hub, zoo, workspace, place):
    entry = zoo.add(bundle_of())
    url = push(entry.key[:6], REPO, workspace, private=True, **place)
    repository = hub.repositories[REPO]
    assert url == f"{hub.endpoint}/{REPO}/commit/{repository.branches['main']}"
    assert repository.private
    card = hub.files(REPO)[CARD].decode()
    assert f'PeftModel.from_pretrained(backbone, "{REPO}")' in card and hub.cards[0] == card
    assert str(workspace.home) not in card
    assert set(hub.files(REPO)) == {*FILES, ".gitattributes"}


def test_a_private_repository_needs_a_token(hub, zoo, workspace, other, place):
    push(zoo.add(bundle_of()).name, REPO, workspace, private=True, **place)
    refused(AdaptMTLError, "does not exist, or is private", pull, REPO, other, endpoint=hub.endpoint, token="hf_wrong")
    assert pull(REPO, other, endpoint=hub.endpoint, token=hub.reader).task == "boolq"


def test_revisions_are_branches_and_commits(hub, zoo, workspace, other, place):
    first, second = zoo.add(bundle_of(seed=1)), zoo.add(bundle_of(seed=2))
    push(first.name, REPO, workspace, **place)
    push(second.name, REPO, workspace, revision="seed-2", **place)
    push(second.name, REPO, workspace, revision="seed-2", **place)
    assert pull(REPO, other, **place).key == first.key
    assert pull(REPO, other, revision="seed-2", **place).key == second.key
    sha = hub.repositories[REPO].branches["main"]
    assert pull(REPO, other, revision=sha, **place).key == first.key
    refused(AdaptMTLError, "no revision 'seed-3'", pull, REPO, other, revision="seed-3", **place)


@pytest.mark.parametrize("name", [ADAPTER, HEAD, SIGNATURE, CONFIG])
def test_a_file_changed_on_the_hub_is_refused(hub, place, pushed, other, name):
    raw = bytearray(hub.files(REPO)[name])
    raw[-2] ^= 1
    hub.files(REPO)[name] = bytes(raw)
    refused(AdapterError, f"{REPO}/{name} was changed", pull, REPO, other, **place)
    assert nothing_entered(other)


def test_a_manifest_changed_on_the_hub_is_refused(hub, place, pushed, other):
    manifest = json.loads(hub.files(REPO)[MANIFEST])
    hub.files(REPO)[MANIFEST] = json.dumps(manifest | {"run_this": "rm"}).encode()
    refused(AdapterError, "run_this: Extra inputs", pull, REPO, other, **place)
    hub.files(REPO)[MANIFEST] = json.dumps(manifest | {"key": "../../../../escape"}).encode()
    refused(AdapterError, "key: String should match", pull, REPO, other, **place)
    manifest["files"]["adapter_model.bin"] = "0" * 64
    hub.files(REPO)[MANIFEST] = json.dumps(manifest).encode()
    refused(AdapterError, "adapter_model.bin, which may hold code", pull, REPO, other, **place)
    assert nothing_entered(other)


def test_only_our_files_are_fetched(hub, place, pushed, other):
    hub.files(REPO).update({"adapter_model.bin": b"\x80\x04.", "x.pkl": b"\x80", "deep/adapter_config.json": b"{}"})
    hub.files(REPO)[CARD] = b"# not ours\n"
    hub.requests.clear()
    entry = pull(REPO, other, **place)
    assert hub.downloaded() == set(FILES) - {CARD}
    assert sorted(path.name for path in entry.path.iterdir()) == sorted(FILES)
    assert "not ours" not in (entry.path / CARD).read_text()


def test_a_key_that_is_taken_by_other_content_is_refused(hub, place, pushed, workspace, zoo):
    assert pull(REPO, workspace, **place) == pushed
    manifest = json.loads(hub.files(REPO)[MANIFEST])
    manifest["metrics"]["accuracy"]["value"] = 0.99
    hub.files(REPO)[MANIFEST] = json.dumps(manifest).encode()
    refused(AdapterError, f"{pushed.key}.*other content", pull, REPO, workspace, **place)
    assert zoo.get(pushed.key).metrics["accuracy"]["value"] == 0.75


def test_a_repository_without_an_adapter_is_refused_before_anything_is_fetched(hub, place, pushed, other):
    del hub.files(REPO)[HEAD], hub.files(REPO)[MANIFEST]
    refused(AdapterError, f"not an adapter of AdaptMTL.*{MANIFEST}|{HEAD}", pull, REPO, other, **place)
    assert hub.downloaded() == set() and nothing_entered(other)


@pytest.mark.parametrize(("name", "size"), [(ADAPTER, 3 << 30), (MANIFEST, 20 << 20)])
def test_what_is_too_large_is_refused_before_anything_is_fetched(hub, place, pushed, other, name, size):
    hub.sizes[name] = size
    refused(AdapterError, "too large", pull, REPO, other, **place)
    assert hub.downloaded() == set() and nothing_entered(other)


def test_missing_repositories_and_names(hub, place, workspace, other):
    refused(AdaptMTLError, "cannot pull from me/nothing: it does not exist", pull, "me/nothing", other, **place)
    refused(UnknownNameError, "unknown adapter 'nothing'.*empty", push, "nothing", REPO, workspace, **place)
    assert hub.repositories == {}


@pytest.mark.parametrize("repo_id", ["", "a/b/c", "a b/c", "../x", "me/-x-", "me/" + "x" * 200, "me/a--b"])
def test_malformed_repository_names_never_reach_the_network(hub, place, pushed, workspace, repo_id):
    hub.requests.clear()
    for action in (lambda: push(pushed.name, repo_id, workspace, **place), lambda: pull(repo_id, workspace, **place)):
        refused(AdaptMTLError, "is not the name of a repository", action)
    assert hub.requests == []


@pytest.mark.parametrize(("token", "pattern"), [("hf_wrong", "knows no such token"), ("hf_reader", "does not allow")])
def test_a_token_that_may_not_write_is_said_so(hub, zoo, workspace, token, pattern):
    entry = zoo.add(bundle_of())
    refused(AdaptMTLError, pattern, push, entry.name, REPO, workspace, endpoint=hub.endpoint, token=token)
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("part", "status", "pattern"),
    [
        ("/preupload/", 403, "token does not allow"),
        ("/commit/", 429, "too many requests"),
        ("/commit/", 418, "answered 418"),
        ("/objects/batch", 401, "knows no such token"),
        ("/lfs/", 403, "token does not allow"),
    ],
)
def test_an_upload_that_fails_midway_is_one_line(hub, zoo, workspace, place, part, status, pattern):
    entry = zoo.add(bundle_of())
    hub.fail[part] = status
    refused(AdaptMTLError, f"cannot push to {REPO}: .*{pattern}", push, entry.name, REPO, workspace, **place)
    assert set(hub.files(REPO)) == {".gitattributes"}


@pytest.mark.parametrize(("status", "pattern"), [(401, "no such token"), (403, "allow"), (404, "exist"), (418, "418")])
def test_a_download_that_fails_midway_leaves_nothing(hub, place, pushed, other, status, pattern):
    hub.fail[HEAD] = status
    refused(AdaptMTLError, pattern, pull, REPO, other, **place)
    assert nothing_entered(other)


def test_an_offline_workspace_never_reaches_the_network(hub, place, zoo, workspace):
    entry = zoo.add(bundle_of())
    quiet = Workspace(home=workspace.home, mirror=None, offline=True)
    refused(OfflineError, "cannot push .*network is off", push, entry.name, REPO, quiet, **place)
    refused(OfflineError, "cannot pull .*network is off", pull, REPO, quiet, **place)
    assert hub.requests == []


def test_a_hub_that_does_not_answer_is_an_offline_error(zoo, workspace, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    entry = zoo.add(bundle_of())
    refused(OfflineError, "does not answer", push, entry.name, REPO, workspace, endpoint=endpoint, token="hf_x")
    refused(OfflineError, "does not answer", pull, REPO, workspace, endpoint=endpoint, token="hf_x")


def test_a_damaged_adapter_is_not_pushed(hub, place, zoo, workspace):
    entry = zoo.add(bundle_of())
    (entry.path / HEAD).write_bytes(b"")
    refused(AdapterError, "was changed or truncated", push, entry.name, REPO, workspace, **place)
    assert hub.requests == []


def test_a_full_disk_while_pulling_leaves_nothing(hub, place, pushed, other, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub_module.HfApi, "snapshot_download", full)
    refused(StorageError, "disk is full", pull, REPO, other, **place)
    assert nothing_entered(other)
