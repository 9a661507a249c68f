"""How much memory does it take to read, check and tokenise a file of a million rows, and how fast is it?

Each measurement runs in a process of its own, whose peak resident memory is read from the operating system. The rows
are made up, of 5 to 40 words.

    python benchmarks/rows_stream.py [--rows 1000000] [--smoke]
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from adaptmtl.backbone.load import resolve
from adaptmtl.provenance import peak_memory_mib, record
from adaptmtl.storage import write_json
from adaptmtl.tasks.encode import encode
from adaptmtl.tasks.encoded_files import stream_encoded
from adaptmtl.tasks.load import load_rows
from adaptmtl.tasks.spec import FileRows, TaskSpec
from adaptmtl.workspace import Workspace

WORDS = ["river", "market", "teacher", "window", "quiet", "green", "sudden", "paper", "mountain", "letter", "winter"]


def write_file(path: Path, rows: int) -> None:
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["text", "label"])
        for number in range(rows):
            words = " ".join(draw.choices(WORDS, k=draw.randint(5, 40)))
            out.writerow([f"{words} {number}", "yes" if number % 2 else "no"])


def measure(way: str, path: Path, folder: Path) -> dict[str, float]:
    source = FileRows(train=str(path), validation=str(path), columns={"text": "text", "label": "label"})
    task = TaskSpec(name="rows", kind="sequence_classification", rows=(source,), label_names=("no", "yes"))
    tokenizer = resolve("minilm", Workspace()).tokenizer
    tokenizer("to load what is loaded when first used")
    before = peak_memory_mib()
    began = time.perf_counter()
    if way == "streamed":
        encoded = stream_encoded(source, task, tokenizer, folder / "encoded", max_length=128)
    else:
        loaded = load_rows(task, Workspace(home=folder / "home", mirror=None, offline=True))
        encoded = encode(loaded.train, task, tokenizer, max_length=128)
    seconds = time.perf_counter() - began
    peak = peak_memory_mib()
    return {
        "rows": encoded.n_rows,
        "tokens": encoded.n_tokens,
        "seconds": round(seconds, 1),
        "rows_per_second": round(encoded.n_rows / seconds),
        "peak_mib": round(peak),
        "peak_mib_before": round(before),
        "tokens_on_disk_mib": round(sum(one.stat().st_size for one in folder.rglob("*.bin")) / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--smoke", action="store_true", help="few rows, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "rows_stream.json")
    parser.add_argument("--measure", nargs=3, metavar=("WAY", "FILE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        way, path, folder = options.measure
        print(json.dumps(measure(way, Path(path), Path(folder))))
        return
    largest = 2_000 if options.smoke else options.rows
    table = []
    for way, rows in (("streamed", largest // 10), ("streamed", largest), ("in memory", largest // 10)):
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "rows.csv"
            write_file(path, rows)
            command = [sys.executable, __file__, "--measure", way, str(path), name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            table.append({"way": way, "file_mib": round(path.stat().st_size / 2**20, 1), **json.loads(done.stdout)})
        print(table[-1], flush=True)
    facts = {"question": __doc__.splitlines()[0], "table": table, "provenance": record(smoke=options.smoke)}
    write_json(options.out, facts)


if __name__ == "__main__":
    main()
