"""How near does a training step of an adapter come to the machine's limit, and how do time and memory grow?

The limit is the rate of large matrix products in the same dtype, measured in the same run, before and after every step
that is compared with it. A step's operations are counted, not estimated: the products with frozen weights and with the
low-rank halves, forwards and backwards, and attention's own; recomputed ones count once. Steps are those of the
engine's own training loop, its bookkeeping included.

    python benchmarks/engine_limit.py [--threads N] [--device cuda] [--backbone NAME] [--parts steps memory] [--smoke]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from common import parser as shared_parser
from common import resumed

RANK = 8
MARK = "beside the model"
#: What operators of torch do in a step.
KERNELS = {
    "products with weights": ("mm", "addmm", "addmm_"),
    "attention's products": (
        "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention_for_cpu_backward",
    ),
    "copies": ("copy_", "cat"),
    "GELU": ("gelu", "gelu_backward"),
    "norms": ("native_layer_norm", "native_layer_norm_backward"),
    "softmax": ("_softmax", "_softmax_backward_data"),
}  # fmt: skip


def synthetic(setup: Any, rows: int, length: int, seed: int = 0) -> Any:
    """Returns a split of random tokens, every row of the given length."""
    from adaptmtl.tasks.encoded import EncodedRows
    from adaptmtl.tasks.rows import Split
    from adaptmtl.tasks.spec import HubRows, TaskSpec
    from adaptmtl.training.data import PreparedSplit

    draw = np.random.default_rng(seed)
    spec = TaskSpec(name="random", kind="sequence_classification", label_names=("a", "b"),
                    rows=(HubRows(id="none", columns={}),))  # fmt: skip
    vocabulary = int(setup.backbone.config["vocab_size"])
    encoded = EncodedRows(
        kind=spec.kind,
        n_rows=rows,
        input_ids=draw.integers(5, vocabulary, rows * length, dtype=np.int32),
        token_type_ids=None,
        offsets=np.arange(rows + 1, dtype=np.int64) * length,
        unit_offsets=np.arange(rows + 1),
        feature_row=np.arange(rows, dtype=np.int32),
        labels=draw.integers(0, 2, rows),
    )
    split = PreparedSplit(Split(()), spec, setup.backbone, setup.encoding)
    split.__dict__["encoded"] = encoded
    return split


def step_flops(config: dict[str, Any], tokens: int, length: int, layers: int) -> float:
    """Counts the operations of one step of a LoRA on query, value and both feed-forward matrices.

    The lowest layer passes no gradient to what lies below it.

    Args:
        config: of the backbone.
        tokens: in the batch.
        length: of each row.
        layers: that run.
    """
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    frozen = 4 * hidden * hidden + 2 * hidden * inner
    attention = 2 * 2 * length * hidden  # scores and contexts, per token
    low_rank = 2 * RANK * (2 * hidden + 2 * hidden + 2 * (hidden + inner))  # four updates, per token
    forward = layers * (2 * frozen + attention)
    backward = layers * (2 * frozen + 2 * attention + 2 * low_rank)
    backward -= 2 * 3 * hidden * hidden  # query, key and value of the lowest layer
    return float(tokens * (forward + backward))


def peak(dtype: Any, device: Any, budget: float) -> float:
    """Returns the best rate of a large matrix product, FLOP/s; of a small one where there is no time for more."""
    import torch

    size = 8192 if device.type == "cuda" else 2048 if budget > 0.1 else 256
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: a @ b, device, budget))


def timed(work: Callable[[], Any], device: Any, budget: float, least: int = 3) -> list[float]:
    """Returns the seconds of single calls, after one to warm up, until the budget is spent."""
    timed_once(work, device)
    found: list[float] = []
    while len(found) < least or sum(found) < budget:
        found.append(timed_once(work, device))
    return found


def timed_once(work: Callable[[], Any], device: Any) -> float:
    """Returns the seconds of one call."""
    import torch

    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


class Step:
    """Optimiser steps as the engine takes them."""

    def __init__(self, setup: Any, rows: int, length: int, k: int, batch: int, states: Any = None):
        from adaptmtl.adapters.heads import make_head
        from adaptmtl.backbone.precision import default_dtype
        from adaptmtl.backbone.states import states_on
        from adaptmtl.training.batches import epochs_of_units
        from adaptmtl.training.loop import accelerator
        from adaptmtl.training.model import lora_model

        self.recipe, self.split, self.device = setup.recipe, synthetic(setup, rows, length), accelerator().device
        head = make_head(self.split.spec, setup.backbone.hidden_size, None, 0)
        self.model = lora_model(setup.backbone, setup.recipe.method, k, head, default_dtype()).model.to(self.device)
        states = states or self.split.states(setup.workspace, k, default_dtype(), self.device)
        self.states = states_on(states, self.device)
        self.units = epochs_of_units(self.split.encoded, batch, 0)

    def take(self, steps: int) -> None:
        """Trains for so many steps."""
        from adaptmtl.training import adapter
        from adaptmtl.training.loop import run
        from adaptmtl.workspace import Silent

        def pieces(model: Any) -> Any:
            encoded = self.split.encoded
            return adapter.accumulated(model, self.model.head, encoded, self.states, next(self.units), self.device)

        run(self.model, pieces, self.recipe, steps, learning_rate=1e-4, seed=0, reporter=Silent(), description="steps")

    def profiled(self, steps: int) -> dict[str, Any]:
        """Returns how the time of steps divides, by torch's profiler, as shares of the wall time.

        The model's own kernels are torch's operators in forward and backward passes; making batches, clipping and
        the optimiser are none, nor is what passes outside operators.
        """
        from accelerate import Accelerator
        from torch.profiler import ProfilerActivity, profile, record_function

        from adaptmtl.training import adapter

        def marked(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **named: Any) -> Any:
                with record_function(MARK):
                    return function(*args, **named)

            return call

        self.take(steps)
        with (
            patch.object(adapter, "make_batch", marked(adapter.make_batch)),
            patch.object(adapter, "to_device", marked(adapter.to_device)),
            patch.object(Accelerator, "clip_grad_norm_", marked(Accelerator.clip_grad_norm_)),
            profile(activities=[ProfilerActivity.CPU]) as seen,
        ):
            started = time.perf_counter()
            self.take(steps)
            wall = time.perf_counter() - started
        shares = dict.fromkeys([*KERNELS, "other operators"], 0.0)
        for event in seen.events():
            if event.name.startswith("aten::") and not _beside(event):
                name = event.name.removeprefix("aten::")
                group = next((group for group, names in KERNELS.items() if name in names), "other operators")
                shares[group] += event.self_cpu_time_total / 1e6 / wall
        return {"outside_kernels": 1 - sum(shares.values()), "kernels": shares}


def _beside(event: Any) -> bool:
    """Whether an operator ran for something else than a forward or backward pass."""
    while (event := event.cpu_parent) is not None:
        if event.name == MARK or event.name.startswith("Optimizer."):
            return True
    return False


def one_step(setup: Any, length: int, k: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measures a step of a length and a number of lower layers against the machine's peak."""
    from adaptmtl.backbone.precision import default_dtype

    step = Step(setup, 2 * options.batch, length, k, options.batch)
    peaks = [peak(default_dtype(), step.device, options.budget / 4)]
    seconds = median(timed(lambda: step.take(options.steps), step.device, options.budget)) / options.steps
    peaks.append(peak(default_dtype(), step.device, options.budget / 4))
    layers = setup.backbone.n_layers - k
    flops = step_flops(setup.backbone.config, options.batch * length, length, layers)
    found = {
        "length": length, "lower_layers": k, "dtype": str(default_dtype()), "seconds": seconds,
        "microseconds_per_token": 1e6 * seconds / (options.batch * length), "flops_per_second": flops / seconds,
        "peak_flops_per_second": peaks, "share_of_peak": flops / seconds / max(peaks),
    }  # fmt: skip
    return found | (step.profiled(options.steps) if step.device.type == "cpu" else {})


def rows_and_sources(setup: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Measures time per token as rows of a split, and sources read on the same rows, grow."""
    import torch

    from adaptmtl.adapters.heads import make_head
    from adaptmtl.backbone.precision import default_dtype
    from adaptmtl.training.features import mean_features
    from adaptmtl.training.loop import accelerator
    from adaptmtl.training.model import lora_model

    k, length, device = setup.recipe.layers_below(setup.backbone), options.lengths[0], accelerator().device
    by_rows = []
    for rows in options.rows:
        step = Step(setup, rows, length, k, options.batch)
        seconds = median(timed(lambda one=step: one.take(options.steps), step.device, options.budget)) / options.steps
        by_rows.append({"rows": rows, "microseconds_per_token": 1e6 * seconds / (options.batch * length)})
    split = synthetic(setup, options.rows[0], length)
    head = make_head(split.spec, setup.backbone.hidden_size, None, 0)
    by_sources = []
    for sources in options.sources:
        split._states.clear()
        with tempfile.TemporaryDirectory() as folder:
            workspace = dataclasses.replace(setup.workspace, home=Path(folder))
            started = time.perf_counter()
            for _ in range(sources):
                model = lora_model(setup.backbone, setup.recipe.method, k, head, default_dtype()).model.to(device)
                states = split.states(workspace, k, default_dtype(), device)
                mean_features(model, split.encoded, states, device)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - started
        each = 1e6 * seconds / (sources * split.encoded.n_tokens)
        by_sources.append({"sources": sources, "microseconds_per_token_and_source": each})
    return {"rows": by_rows, "sources": by_sources}


def shared_forward(setup: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures steps of several adapters on one forward pass against the same steps, adapter after adapter."""
    from adaptmtl.adapters.heads import make_head
    from adaptmtl.backbone.precision import default_dtype
    from adaptmtl.training.adapter import fit
    from adaptmtl.training.data import TaskData
    from adaptmtl.training.group import Group, Member
    from adaptmtl.training.loop import accelerator
    from adaptmtl.training.model import lora_model

    length, steps, device = options.lengths[0], options.shared_steps, accelerator().device
    split, recipe = synthetic(setup, options.batch * steps, length), dataclasses.replace(setup.recipe, steps=steps)
    data = TaskData(split.spec, split, split, "random tokens")
    k = recipe.layers_below(setup.backbone)
    states = split.states(setup.workspace, k, default_dtype(), device)

    def together(count: int) -> float:
        group = Group(setup.backbone, data, recipe, [Member(seed) for seed in range(count)])
        return timed_once(lambda: group.fit(setup.workspace), device)

    def apart(count: int) -> float:
        found = 0.0
        for seed in range(count):
            head = make_head(split.spec, setup.backbone.hidden_size, None, seed)
            model = lora_model(setup.backbone, recipe.method, k, head, default_dtype()).model.to(device)
            found += timed_once(partial(
                fit, model, split, states, recipe, seed, recipe.learning_rate, setup.workspace, "alone"
            ), device)  # fmt: skip
        return found

    result = []
    for count in options.members:
        together(count)
        ratios = [apart(count) / together(count) for _ in range(options.shared_pairs)]
        result.append({"members": count, "one_by_one_over_together": median(ratios), "pairs": ratios})
    return result


def main() -> None:
    parser = shared_parser(__doc__, "engine_limit.json", "--backbone", "--device", "--threads", "--home")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--budget", type=float, default=5.0, help="seconds for each figure")
    parser.add_argument("--memory-rows", type=int, default=100_000)
    parser.add_argument("--memory-steps", type=int, default=60)
    parser.add_argument("--scratch", type=Path, help="folder for the states of --memory-rows (10 GB)")
    parser.add_argument("--parts", nargs="+", choices=["steps", "growth", "shared_forward", "memory"],
                        help="measure these anew; without it what the file of results lacks")  # fmt: skip
    options = parser.parse_args()
    options.lengths, options.rows, options.sources = [32, 64, 128, 256], [1000, 4000, 16000], [1, 4, 16]
    options.members, options.shared_steps, options.shared_pairs, options.steps = [2, 4, 8], 6, 5, 4
    if options.smoke:
        options.lengths, options.rows, options.sources, options.batch, options.budget = [16], [64], [1, 2], 8, 0.01
        options.memory_rows, options.memory_steps = 200, 2
        options.members, options.shared_steps, options.shared_pairs, options.steps = [2], 2, 1, 2
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from adaptmtl.provenance import record
    from adaptmtl.storage import write_json
    from adaptmtl.training.setup import make_setup
    from adaptmtl.workspace import Workspace

    torch.set_num_threads(options.threads)
    workspace = Workspace(home=options.home or Workspace().home)
    setup = make_setup(options.backbone, workspace=workspace)
    settings = {name: getattr(options, name) for name in ("backbone", "device", "threads", "batch")}
    result = resumed(options.out, settings, question=__doc__.splitlines()[0])
    with tempfile.TemporaryDirectory() as folder:  # states of random rows are of no use to anybody
        setup = dataclasses.replace(setup, workspace=dataclasses.replace(workspace, home=Path(folder)))
        measures = {
            "steps": lambda: all_steps(setup, options), "growth": lambda: rows_and_sources(setup, options),
            "shared_forward": lambda: shared_forward(setup, options), "memory": lambda: memory(setup, options),
        }  # fmt: skip
        for part, measure in measures.items():
            if part in (options.parts or measures.keys() - result.keys()):
                result |= {part: measure(), "provenance": record()}
                write_json(options.out, result)
                print(json.dumps({part: result[part]}), flush=True)


def all_steps(setup: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures steps of all lengths and numbers of lower layers."""
    half = setup.recipe.layers_below(setup.backbone)
    cases = [(length, k) for length in options.lengths for k in (0, half)]
    more = [] if options.smoke else range(1, setup.backbone.n_layers)
    cases += [(options.lengths[0], k) for k in more if k != half]
    return [one_step(setup, length, k, options) for length, k in cases]


def memory(setup: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Measures memory in a process that did nothing else."""
    given = {
        "--backbone": setup.backbone.path, "--device": options.device, "--threads": options.threads,
        "--batch": options.batch, "--rows": options.memory_rows, "--steps": options.memory_steps,
    } | ({"--scratch": options.scratch} if options.scratch else {})  # fmt: skip
    words = [str(word) for pair in given.items() for word in pair]
    script = Path(__file__).with_name("engine_memory.py")
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the memory part failed: {done.stderr[-500:]}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
