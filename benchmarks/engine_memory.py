"""How much memory does a training on very many rows take?

One training reads states that fit the cache from the disk, and a person's own command trains on a file of as many
rows. Prints one JSON document; ``engine_limit.py`` runs it as a process of its own, for its memory part.

    python benchmarks/engine_memory.py [--rows 100000] [--scratch DIR]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import SHARED
from engine_limit import Step, synthetic

LENGTH = 64
#: Runs a command of ours and prints its peak memory.
COMMAND = """
import sys
from adaptmtl.cli.main import main
from adaptmtl.provenance import peak_memory_mib
try:
    main()
finally:
    print(peak_memory_mib())
"""


def from_disk(setup: Any, folder: Path, options: argparse.Namespace) -> tuple[float, int]:
    """Trains on rows whose states lie on disk; returns this process's peak memory in GiB, and the states' size.

    The states are made up, for computing them takes memory for one batch at a time, whatever the rows: a few thousand
    rows are computed as well, so that the peak covers it.
    """
    import torch

    from adaptmtl.backbone.precision import default_dtype
    from adaptmtl.backbone.states import CachedStates
    from adaptmtl.provenance import peak_memory_mib

    k, hidden = setup.recipe.layers_below(setup.backbone), setup.backbone.hidden_size
    stored = np.dtype(np.uint16 if default_dtype() == torch.bfloat16 else np.float32)
    few = synthetic(setup, min(options.rows, 2000), LENGTH)
    few.states(dataclasses.replace(setup.workspace, home=folder), k, default_dtype(), torch.device(options.device))
    path = folder / "states.bin"
    block = np.zeros((LENGTH, hidden), dtype=stored) + 1
    with path.open("wb") as file:
        for _ in range(options.rows):
            file.write(block.data)
    values = np.memmap(path, dtype=stored, mode="r", shape=(options.rows * LENGTH, hidden))
    with path.open("rb", buffering=0) as file:
        offsets = np.arange(options.rows + 1, dtype=np.int64) * LENGTH
        step = Step(setup, options.rows, LENGTH, k, options.batch, CachedStates(values, offsets, file))
        step.take(options.steps)
    return peak_memory_mib() / 1024, path.stat().st_size


def from_file(setup: Any, folder: Path, rows: int, steps: int) -> float:
    """Trains on a person's file of so many rows by the command, and returns its peak memory in GiB.

    With the cache's default size the states of very many rows are recomputed in every step.
    """
    draw, words = np.random.default_rng(0), [f"word{number}" for number in range(2000)]
    path = folder / "rows.csv"
    with path.open("w") as file:
        file.write("text,label\n")
        for row in range(rows * 5 // 4):  # a fifth is kept for figures
            file.write(f"{' '.join(draw.choice(words, LENGTH))},{'ab'[row % 2]}\n")
    given = [
        "train-adapters", "--data", str(path), "--text-columns", "text", "--label-column", "label", "--backbone",
        str(setup.backbone.path), "--home", str(folder / "home"), "--steps", str(steps), "--max-length", str(LENGTH),
        "--eval-rows", "100", "--offline", "--quiet",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", COMMAND, *given], check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--backbone", "--device", "--threads"):
        parser.add_argument(name, **SHARED[name])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--scratch", type=Path, help="folder for the states (10 GB) and the file of rows")
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from adaptmtl.training.setup import make_setup

    torch.set_num_threads(options.threads)
    setup = make_setup(options.backbone)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        command = from_file(setup, Path(folder), options.rows, options.steps)
        cached, size = from_disk(setup, Path(folder), options)
    print(json.dumps({
        "rows": options.rows, "tokens_per_row": LENGTH, "steps": options.steps, "states_gib": size / 2**30,
        "peak_rss_gib": cached, "command_peak_rss_gib": command,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
