"""How fast this machine is, measured once per backbone and kept: what turns a budget in seconds into work."""

from __future__ import annotations

import statistics
import time

import torch

from adaptmtl.backbone.precision import default_dtype
from adaptmtl.backbone.segments import SegmentedEncoder
from adaptmtl.storage import read_json, write_json
from adaptmtl.training.loop import accelerator
from adaptmtl.training.setup import Setup

ROWS, LENGTH, REPEATS = 32, 64, 5


def tokens_per_second(setup: Setup) -> float:
    """Returns the tokens a second that the layers with adapters run forwards, in batches of 32 texts of 64 tokens.

    It is measured once and kept in the workspace, so that the same budget is the same work the next time.
    """
    k, dtype, device = setup.recipe.layers_below(setup.backbone), default_dtype(), accelerator().device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    path = setup.workspace.folder("speed", f"{setup.backbone.hash}-{k}-{name}-{dtype}".replace(" ", "_") + ".json")
    if (held := read_json(path)) is None:
        encoder = SegmentedEncoder(setup.backbone.load_encoder(), setup.backbone.anatomy, k).eval().to(device, dtype)
        ids = torch.randint(5, 100, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0)).to(device)
        mask = torch.ones_like(ids)
        states = torch.zeros(ROWS, LENGTH, setup.backbone.hidden_size, dtype=dtype, device=device) if k else None
        seconds = []
        with torch.inference_mode():
            for _ in range(REPEATS + 1):
                started = time.perf_counter()
                encoder(ids, mask, None, states).float().cpu()
                seconds.append(time.perf_counter() - started)
        held = {"tokens_per_second": ROWS * LENGTH / statistics.median(seconds[1:])}
        write_json(path, held)
    return float(held["tokens_per_second"])
