"""What all tests share: no network but loopback, a home of their own, a tiny backbone."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adaptmtl.errors import OfflineError
from adaptmtl.workspace import Workspace

for name in [one for one in os.environ if one.startswith("ADAPTMTL_")]:  # a person's own settings
    if name.split("_")[1] not in ("TEST", "ARCHIVES"):
        del os.environ[name]
for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "HF_TOKEN", "HF_ENDPOINT"):
    os.environ.pop(name, None)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # on tiny tensors, threads only wait for each other
os.environ["ADAPTMTL_DTYPE"] = "float32"  # small differences mean something, on every machine
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests are of the CPU
_LOCAL_NAMES = {"localhost", "ip6-localhost", ""}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that looks up or connects to anything but this machine; not even ``except Exception`` hides it."""
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        _refuse_remote(self.family, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        _refuse_remote(self.family, address)
        return connect_ex(self, address)

    def guarded_look_up(host: Any, *rest: Any, **more: Any) -> Any:
        if not _is_local(host):
            pytest.fail(f"this test looked up {host!r}; tests use no network but loopback")
        return look_up(host, *rest, **more)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Gives tests on the embedded backbone every core."""
    if request.node.get_closest_marker("real") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps a person's own products out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTMTL_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def _own_switches() -> None:
    """Forgets what an ``--offline`` command, run inside the test process, told huggingface_hub and datasets."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):  # a fixture of wider scope may have run such a command
        os.environ.pop(name, None)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty, offline workspace."""
    return Workspace(home=tmp_path / "home", mirror=None, offline=True)


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random 4-layer BERT of width 32, for ``resolve`` and ``make_setup``."""
    from tiny import write_tiny_backbone

    return str(write_tiny_backbone(tmp_path_factory.mktemp("backbones") / "tiny-bert"))


@pytest.fixture(scope="session")
def real_workspace() -> Workspace:
    """A workspace with the embedded backbone, kept between runs: ADAPTMTL_TEST_HOME or ~/.cache/adaptmtl-test."""
    from adaptmtl.backbone.load import resolve

    home = Path(os.environ.get("ADAPTMTL_TEST_HOME") or Path.home() / ".cache" / "adaptmtl-test")
    workspace = Workspace(home=home, mirror=None, offline=False)
    try:
        resolve("minilm", workspace)
    except OfflineError as error:
        pytest.skip(f"NOT RUN, the embedded backbone cannot be fetched: {error}")
    return workspace


def _refuse_remote(family: int, address: Any) -> None:
    if family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
        pytest.fail(f"this test connected to {address[0]!r}; tests use no network but loopback")


def _is_local(host: Any) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name is None or name in _LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture
def expected(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[set[str]], float]], None]:
    """Fixes what is predicted: a function from a candidate's sources to its expected gain."""
    from adaptmtl.selection.gains import Gain, GainModel

    def fix(gain: Callable[[set[str]], float]) -> None:
        monkeypatch.setattr(
            GainModel, "predict", lambda self, seen, how: [Gain(gain(set(one.sources)), 0.05) for one in seen]
        )

    return fix
