"""Where a product came from: versions, machine, git commit, seconds and peak memory."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("adaptmtl", "torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "numpy")


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Returns versions, machine and git commit: what is the same for all products of one process."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": {
            "processor": _processor(),
            "instructions": _instructions(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": platform.system(),
            "device": _device(),
        },
        "git_commit": _git_commit(),
    }


def record(**facts: Any) -> dict[str, Any]:
    """Returns a provenance record: the environment, the time of writing, and the given facts (seeds, seconds ...)."""
    return {"created": datetime.now(UTC).isoformat(timespec="seconds"), **environment(), **facts}


@dataclass
class Cost:
    """What a step took: wall seconds, CPU seconds of this process, and the process's peak memory so far in MiB."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_mib: float = 0.0

    def add(self, *earlier: Sequence[float]) -> None:
        """Adds wall and processor seconds of processes that were killed before this one took over."""
        for seconds, cpu_seconds in earlier:
            self.seconds += seconds
            self.cpu_seconds += cpu_seconds


@contextmanager
def measured() -> Iterator[Cost]:
    """Measures the block; the yielded Cost is filled when the block ends."""
    cost = Cost()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - wall
        cost.cpu_seconds = time.process_time() - cpu
        cost.peak_memory_mib = peak_memory_mib()


def peak_memory_mib() -> float:
    """Returns this process's peak memory so far in MiB."""
    with suppress(OSError, IndexError, ValueError):  # Linux's rusage begins with the peak of who started the process
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _instructions() -> str:
    """The widest vectors that torch uses here, and whether they multiply in bf16: what a CPU's speed turns on."""
    import torch

    return f"{torch.backends.cpu.get_cpu_capability()}{' with bf16' if multiplies_in_bf16() else ''}"


def multiplies_in_bf16() -> bool:
    """Whether the processor does, and does not only emulate it: an x86 one needs AVX512-BF16 or AMX."""
    import torch

    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return not x86 or bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _device() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"


def _git_commit() -> str | None:
    """Commit of the checkout that this package runs from, with ``+`` for uncommitted changes; None outside one."""
    here = Path(__file__).resolve().parents[1]
    if not (here / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+" if dirty.stdout.strip() else "")
