"""The dtype of matrix products is one that the hardware multiplies in."""

from __future__ import annotations

import pytest
import torch

from adaptmtl.backbone import precision


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
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    assert precision.default_dtype.__wrapped__() is dtype


def test_this_processor_is_asked():
    assert precision.multiplies_in_bf16() in (True, False)
