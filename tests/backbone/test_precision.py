"""The dtype of matrix products is one that the hardware multiplies in."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from adaptmtl.backbone import memory, precision
from adaptmtl.errors import AdaptMTLError


@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of processors")
@pytest.mark.parametrize(("machine", "library", "instructions", "dtype"), [
    ("x86_64", True, True, torch.bfloat16), ("x86_64", True, False, torch.float32),
    ("AMD64", True, False, torch.float32), ("x86_64", False, True, torch.float32),
    ("aarch64", True, False, torch.bfloat16),
])  # fmt: skip
def test_emulated_bf16_is_not_chosen(machine, library, instructions, dtype, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: library)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.delenv("ADAPTMTL_DTYPE")
    assert precision.default_dtype.__wrapped__() is dtype


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_person_may_say_which(name, dtype, monkeypatch):
    monkeypatch.setenv("ADAPTMTL_DTYPE", name)
    assert precision.default_dtype.__wrapped__() is dtype


def test_what_is_no_dtype_is_one_line(monkeypatch):
    monkeypatch.setenv("ADAPTMTL_DTYPE", "fp16")
    with pytest.raises(AdaptMTLError, match="ADAPTMTL_DTYPE is 'fp16': give float32 or bfloat16, or unset it"):
        precision.default_dtype.__wrapped__()


def low_rank(seed: int) -> precision.LowRankLinear:
    torch.manual_seed(seed)
    a, b = (nn.Parameter(torch.randn(*shape)) for shape in ((2, 4), (3, 2)))
    return precision.LowRankLinear(nn.Linear(4, 3), a, b, 0.5, torch.float32)


def test_updates_are_merged_once_where_they_stay_as_they_are(monkeypatch):
    model, x = nn.Sequential(low_rank(0), nn.Linear(3, 4), low_rank(1)), torch.randn(5, 4)
    merges, addmm = [], torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *all, **named: merges.append(1) or addmm(*all, **named))
    plain = [model(x), model(x)]
    assert len(merges) == 4
    with precision.merged_once(model):
        kept = [model(x), model(x)]
        kept[1].sum().backward()
    assert len(merges) == 6
    assert all(torch.equal(a, b) for a, b in zip(plain, kept, strict=True))
    assert all(p.grad is not None for p in model[0].parameters() if p.requires_grad)
    with torch.no_grad():
        model[0].b.add_(1.0)
    assert not torch.equal(model(x), plain[0])  # afterwards nothing old is left


def test_a_failure_leaves_nothing_merged():
    layer, x = low_rank(0), torch.randn(5, 4)
    with pytest.raises(RuntimeError), precision.merged_once(layer):
        layer(x)
        raise RuntimeError
    with torch.no_grad():
        layer.a.mul_(2.0)
    expected = x @ (layer.weight + 0.5 * layer.b @ layer.a).T + layer.bias
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_memory_that_a_person_sets_up_is_left_alone(name, monkeypatch):
    monkeypatch.setenv(name, "glibc.malloc.arena_max=2" if name == "GLIBC_TUNABLES" else "2")
    assert memory.keep_freed_memory.__wrapped__() is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own settings")
def test_freed_memory_is_not_asked_for_again():
    """Blocks that are freed and taken again cost no page faults; without it, by where they lie, most often they do."""
    script = (
        "import resource, torch\n"
        "from adaptmtl.backbone.memory import keep_freed_memory\n"
        "assert keep_freed_memory()\n"
        "def take():\n"
        "    blocks = [torch.ones(500_000) for _ in range(8)]\n"
        "for _ in range(5): take()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(5): take()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    known = {name: value for name, value in os.environ.items() if "MALLOC" not in name and name != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True, env=known)
    assert int(done.stdout) < 1000


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(), reason="NOT RUN: no x86 Linux"
)
def test_this_processor_is_asked():
    flags = set(Path("/proc/cpuinfo").read_text().split("flags")[1].splitlines()[0].split())
    assert precision.multiplies_in_bf16() is bool(flags & {"avx512_bf16", "amx_tile"})
