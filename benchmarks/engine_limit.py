"""How near does a training step of an adapter come to the machine's limit, and how do time and memory grow?

The limit is the rate of large matrix products in the same dtype, measured in the same run, before and after every step
that is compared with it. A step's operations are counted, not estimated: the products with frozen weights and with the
low-rank halves, forwards and backwards, and attention's own; recomputed ones count once.

    python benchmarks/engine_limit.py [--threads N] [--device cuda] [--backbone NAME] [--smoke]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import parser as shared_parser

RANK = 8


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


def step_flops(config: dict[str, Any], tokens: int, length: int, layers: int, pass_down: bool) -> float:
    """Counts the operations of one step of a LoRA on query, value and both feed-forward matrices.

    Args:
        config: of the backbone.
        tokens: in the batch.
        length: of each row.
        layers: that run.
        pass_down: whether the lowest layer passes a gradient to what lies below it (it never does here).
    """
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    frozen = 4 * hidden * hidden + 2 * hidden * inner
    attention = 2 * 2 * length * hidden  # scores and contexts, per token
    low_rank = 2 * RANK * (2 * hidden + 2 * hidden + 2 * (hidden + inner))  # four updates, per token
    forward = layers * (2 * frozen + attention)
    backward = layers * (2 * frozen + 2 * attention + 2 * low_rank)
    if not pass_down:
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
    """One optimiser step as the engine takes it: batch, loss, gradients, clipping, AdamW."""

    def __init__(self, setup: Any, rows: int, length: int, k: int, batch: int, states: Any = None):
        import torch

        from adaptmtl.adapters.heads import make_head
        from adaptmtl.backbone.precision import default_dtype
        from adaptmtl.backbone.states import states_on
        from adaptmtl.training.batches import epochs_of_units
        from adaptmtl.training.loop import accelerator
        from adaptmtl.training.model import lora_model

        self.split, self.device = synthetic(setup, rows, length), accelerator().device
        head = make_head(self.split.spec, setup.backbone.hidden_size, None, 0)
        self.model = lora_model(setup.backbone, setup.recipe.method, k, head, default_dtype()).model.to(self.device)
        self.model.train()
        states = states or self.split.states(setup.workspace, k, default_dtype(), self.device)
        self.states = states_on(states, self.device)
        self.units = epochs_of_units(self.split.encoded, batch, 0)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.trained, self.optimizer = trained, torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def kernels(self, batches: Sequence[Any]) -> None:
        """Losses and gradients on the pieces of a step that are at hand."""
        for batch in batches:
            (self.model.head.loss(self.model(batch), batch) / len(batches)).backward()

    def pieces(self) -> list[Any]:
        """Returns a step's pieces as batches."""
        from adaptmtl.training.batches import make_batch, pieces
        from adaptmtl.training.model import to_device

        cut = pieces(self.split.encoded, next(self.units), self.device)
        return [to_device(make_batch(self.split.encoded, self.states, part), self.device) for part in cut]

    def whole(self) -> None:
        """Everything."""
        import torch

        from adaptmtl.training.adapter import accumulated

        head, encoded = self.model.head, self.split.encoded
        for piece in accumulated(self.model, head, encoded, self.states, next(self.units), self.device):
            piece.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def outside(self) -> float:
        """Returns the share of a step's time that passes outside torch's operators, by the profiler."""
        from torch.profiler import ProfilerActivity, profile

        self.whole()
        started = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            started = time.perf_counter()
            for _ in range(3):
                self.whole()
            wall = time.perf_counter() - started
        inside = sum(one.self_cpu_time_total for one in seen.key_averages() if one.key.startswith("aten::")) / 1e6
        return max(0.0, 1 - inside / wall)


def one_step(setup: Any, length: int, k: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measures a step of a length and a number of lower layers against the machine's peak."""
    from adaptmtl.backbone.precision import default_dtype

    step = Step(setup, 2 * options.batch, length, k, options.batch)
    peaks = [peak(default_dtype(), step.device, options.budget / 4)]
    seconds = median(timed(step.whole, step.device, options.budget))
    batches = step.pieces()
    kernels = median(timed(lambda: step.kernels(batches), step.device, options.budget))
    peaks.append(peak(default_dtype(), step.device, options.budget / 4))
    layers = setup.backbone.n_layers - k
    flops = step_flops(setup.backbone.config, options.batch * length, length, layers, False)
    found = {
        "length": length, "lower_layers": k, "seconds": seconds, "microseconds_per_token": 1e6 * seconds /
        (options.batch * length), "flops_per_second": flops / seconds, "peak_flops_per_second": peaks,
        "share_of_peak": flops / seconds / max(peaks), "outside_forward_and_backward": max(0.0, 1 - kernels / seconds),
    }  # fmt: skip
    if step.device.type == "cpu":
        found["outside_operators"] = step.outside()
    return found


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
        seconds = median(timed(step.whole, step.device, options.budget))
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


def memory(setup: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Trains on many rows whose states lie on disk and returns this process's peak memory.

    The states are made up, for computing them takes memory for one batch at a time, whatever the rows: a few thousand
    rows are computed as well, so that the peak covers it.
    """
    import torch

    from adaptmtl.backbone.precision import default_dtype
    from adaptmtl.backbone.states import CachedStates

    rows, length, hidden = options.memory_rows, 64, setup.backbone.hidden_size
    few = synthetic(setup, min(rows, 2000), length)
    k = setup.recipe.layers_below(setup.backbone)
    stored = np.dtype(np.uint16 if default_dtype() == torch.bfloat16 else np.float32)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        workspace = dataclasses.replace(setup.workspace, home=Path(folder))
        few.states(workspace, k, default_dtype(), torch.device(options.device))
        path = Path(folder) / "states.bin"
        block = np.zeros((length, hidden), dtype=stored) + 1
        with path.open("wb") as file:
            for _ in range(rows):
                file.write(block.data)
        values = np.memmap(path, dtype=stored, mode="r", shape=(rows * length, hidden))
        with path.open("rb", buffering=0) as file:
            offsets = np.arange(rows + 1, dtype=np.int64) * length
            step = Step(setup, rows, length, k, options.batch, CachedStates(values, offsets, file))
            for _ in range(options.memory_steps):
                step.whole()
        size = path.stat().st_size
    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform != "darwin" else 1)
    return {"rows": rows, "tokens_per_row": length, "steps": options.memory_steps, "states_gib": size / 2**30,
            "peak_rss_gib": peak_rss / 2**30}  # fmt: skip


def main() -> None:
    parser = shared_parser(__doc__, "engine_limit.json", "--backbone", "--device", "--threads", "--home")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--budget", type=float, default=5.0, help="seconds for each figure")
    parser.add_argument("--memory-rows", type=int, default=100_000)
    parser.add_argument("--memory-steps", type=int, default=60)
    parser.add_argument("--scratch", type=Path, help="folder for the states of --memory-rows (10 GB)")
    parser.add_argument("--only-memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.lengths, options.rows, options.sources = [32, 64, 128, 256], [1000, 4000, 16000], [1, 4, 16]
    options.members, options.shared_steps, options.shared_pairs = [2, 4, 8], 6, 5
    if options.smoke:
        options.lengths, options.rows, options.sources, options.batch, options.budget = [16], [64], [1, 2], 8, 0.01
        options.memory_rows, options.memory_steps = 200, 2
        options.members, options.shared_steps, options.shared_pairs = [2], 2, 1
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
    if options.only_memory:
        print(json.dumps(memory(setup, options)))
        return
    result: dict[str, Any] = {"question": __doc__.splitlines()[0], "threads": options.threads, "batch": options.batch}
    with tempfile.TemporaryDirectory() as folder:  # states of random rows are of no use to anybody
        setup = dataclasses.replace(setup, workspace=dataclasses.replace(workspace, home=Path(folder)))
        half = setup.recipe.layers_below(setup.backbone)
        cases = [(length, k) for length in options.lengths for k in (0, half)]
        more = [] if options.smoke else range(1, setup.backbone.n_layers)
        cases += [(options.lengths[0], k) for k in more if k != half]
        result["steps"] = []
        for length, k in cases:
            result["steps"].append(one_step(setup, length, k, options))
            print(json.dumps(result["steps"][-1]), flush=True)
            write_json(options.out, result)
        result["growth"] = rows_and_sources(setup, options)
        result["shared_forward"] = shared_forward(setup, options)
    alone = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--only-memory"], capture_output=True, text=True)
    result["memory"] = json.loads(alone.stdout) if alone.returncode == 0 else {"failed": alone.stderr[-500:]}
    result["provenance"] = record()
    write_json(options.out, result)
    print(json.dumps({name: result[name] for name in ("growth", "shared_forward", "memory")}), flush=True)
    if alone.returncode:
        sys.exit(f"the memory part failed: {alone.stderr[-500:]}")


if __name__ == "__main__":
    main()
