"""The dtype of matrix products is the one that this machine multiplies faster in."""

from __future__ import annotations

import pytest
import torch

from adaptmtl.backbone import precision
from adaptmtl.backbone.precision import bf16_gain, default_dtype


@pytest.fixture(autouse=True)
def asked_anew():
    default_dtype.cache_clear()
    yield
    default_dtype.cache_clear()


def clock(fp32: float, bf16: float):
    return lambda dtype: fp32 if dtype == torch.float32 else bf16


def test_the_gain_is_the_ratio_of_times():
    assert bf16_gain(clock(2e-3, 1e-3)) == pytest.approx(2.0)
    assert bf16_gain(clock(1e-3, 8e-3)) == pytest.approx(0.125)
    times = iter([9.0, 9.0, 2.0, 1.0, 2.0, 50.0, 2.0, 1.0])  # two to warm up, then pairs, one of them disturbed
    assert bf16_gain(lambda dtype: next(times), pairs=3) == pytest.approx(2.0)
    assert bf16_gain() > 0  # on this machine, whatever it is


@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of processors")
@pytest.mark.parametrize(("supported", "gain", "dtype"), [
    (True, 2.2, torch.bfloat16), (True, 0.6, torch.float32), (False, 2.2, torch.float32),
])  # fmt: skip
def test_emulated_bf16_is_not_chosen(supported, gain, dtype, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(precision, "bf16_gain", lambda: gain)
    assert default_dtype() is dtype
