"""How long does it take to rank 10,000 adapters by their signatures, and how much memory?

A throw-away zoo of made-up adapters is written first (not timed). Then three processes of their own are measured: the
first packing, a ranking with everything packed, and a ranking after 100 adapters were added. Each figure includes
starting Python and its imports.

    python benchmarks/rank_signatures.py [--adapters 10000] [--smoke]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from adaptmtl.provenance import measured, record
from adaptmtl.storage import key_of, write_json

HIDDEN, RANK = 384, 8
BACKBONE = "0" * 20
CHILD = """
import json, sys, time
started = time.perf_counter()
import numpy as np
from pathlib import Path
from adaptmtl.provenance import peak_memory_mib
from adaptmtl.transfer.signatures import pack_signatures, rank_by_signature
from adaptmtl.workspace import Workspace
imported = time.perf_counter()
packed = pack_signatures(Workspace(home=Path(sys.argv[1]), offline=True), sys.argv[2])
ranked = rank_by_signature(packed, np.random.default_rng(0).normal(size=packed.vectors.shape[1]), 20)
ended = time.perf_counter()
print(json.dumps({
    "seconds": ended - started, "without_imports": ended - imported, "cpu_seconds": time.process_time(),
    "peak_mib": peak_memory_mib(), "adapters": len(packed.entries), "best": ranked[0][0].name,
}))
"""


def fill(home: Path, first: int, count: int) -> None:
    """Adds made-up adapters to a zoo: whole folders, with small weights."""
    import torch

    from adaptmtl.adapters.bundle import Bundle, write_bundle
    from adaptmtl.adapters.manifest import Manifest

    module = "encoder.layer.0.attention.self.query"
    weights = {
        f"base_model.model.{module}.lora_A.weight": torch.zeros(RANK, 16),
        f"base_model.model.{module}.lora_B.weight": torch.zeros(16, RANK),
    }
    config = {"peft_type": "LORA", "task_type": "FEATURE_EXTRACTION", "r": RANK, "target_modules": ["query"]}
    facts: dict[str, Any] = {
        "key": key_of(number=-1), "name": "made", "seed": 0, "method": "lora", "recipe": {}, "metrics": {},
        "task": {"name": "made", "kind": "sequence_classification", "label_names": ["no", "yes"], "metric": "accuracy"},
        "backbone": {"name": "made", "hash": BACKBONE, "model_type": "bert", "hidden_size": HIDDEN, "n_layers": 6},
        "data": {"origin": "made up", "train_fingerprint": "1" * 64, "validation_fingerprint": "2" * 64,
                 "train_rows": 1000, "validation_rows": 100},
        "cost": {"seconds": 1.0, "peak_memory_mib": 1.0, "steps": 1, "examples_seen": 1, "trained_parameters": 1},
        "encoding": {"max_length": 128}, "head": {"kind": "sequence_classification"},
        "probe": {"rows": [{"text": "a"}], "logits": [[0.0, 1.0]], "tolerance": 1e-3}, "provenance": record(),
    }  # fmt: skip
    manifest = Manifest.model_validate(facts)
    head = {"output.weight": torch.zeros(2, HIDDEN), "output.bias": torch.zeros(2)}
    bundle = Bundle(manifest, config, weights, head, {})
    for number in range(first, first + count):
        key = key_of(number=number)
        folder = home / "zoo" / "adapters" / key
        folder.mkdir(parents=True)
        vector = torch.from_numpy(np.random.default_rng(number).normal(size=HIDDEN).astype(np.float32))
        named = manifest.model_copy(update={"key": key, "name": f"made-lora-{number}"})
        write_bundle(folder, replace(bundle, manifest=named, signature={"text_embedding": vector}))


def child(home: Path) -> dict[str, Any]:
    """Runs one ranking in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(home), BACKBONE], capture_output=True, text=True, check=True, env=os.environ
    )
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--smoke", action="store_true", help="few adapters, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "rank_signatures.json")
    options = parser.parse_args()
    adapters, added = (200, 10) if options.smoke else (options.adapters, 100)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with measured() as writing:
            fill(home, 0, adapters)
        result: dict[str, Any] = {"question": __doc__.splitlines()[0], "adapters": adapters, "hidden": HIDDEN}
        result["first_packing"] = child(home)
        result["packed"] = child(home)
        fill(home, adapters, added)
        result["after_adding"] = {**child(home), "added": added}
    result["seconds_to_write_the_zoo"] = writing.seconds
    result["targets"] = {"seconds": 5.0, "peak_mib": 500.0}
    result["provenance"] = record(threads=os.environ.get("OMP_NUM_THREADS"), load_average=os.getloadavg()[0])
    write_json(options.out, result)
    for name in ("first_packing", "packed", "after_adding"):
        one = result[name]
        seconds = (
            f"{one['seconds']:.1f} s ({one['without_imports']:.1f} s without imports, {one['cpu_seconds']:.1f} s CPU)"
        )
        print(f"{name}: {seconds}, {one['peak_mib']:.0f} MiB, {one['adapters']:,} adapters")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
