"""What past transfers does the package bring along, for predictions before a person has measured any?

Makes ``adaptmtl/selection/past_transfers.json`` out of ``results/ground_truth.parquet`` (what every start gained) and
``results/ground_truth_seen.parquet`` (what the planner saw of it before).

    python benchmarks/ship_past.py [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from adaptmtl.errors import DataError
from adaptmtl.selection.gains import Past, Seen
from adaptmtl.transfer.history import LEAST_BASELINE

RESULTS = Path(__file__).parent / "results"
SHIPPED = Path(__file__).resolve().parents[1] / "adaptmtl" / "selection" / "past_transfers.json"


def measured_past(truth: Path, seen: Path, budget: str = "") -> list[Past]:
    """Returns every measured source and set with its mean gain, measured against the mean of all target-only runs.

    Args:
        truth: parquet of what was measured.
        seen: parquet of what had been seen.
        budget: within which it was seen; "" for the planner's default.
    """
    scores: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in pq.read_table(truth).to_pylist():
        scores[row["target"], row["sources"]].append(row["score"])
    found = []
    for row in pq.read_table(seen).to_pylist():
        if row.get("budget", "") != budget:
            continue
        if (row["target"], row["sources"]) not in scores:
            raise DataError(f"{seen} has {row['sources']} for {row['target']}, {truth} has not: measure both anew")
        alone = float(np.mean(scores[row["target"], ""]))
        own = scores[row["target"], row["sources"]]
        gain = (float(np.mean(own)) - alone) / max(abs(alone), LEAST_BASELINE)
        candidate = Seen(tuple(row["sources"].split("+")), row["probe"], row["hscore"], row["alike"])
        found.append(Past(row["backbone"], row["target"], row["reading"], candidate, gain, len(own)))
    return found


def as_text(past: list[Past]) -> str:
    """Returns the file's content, one transfer a line."""
    rows = [
        {"backbone": one.backbone, "target": one.target, "reading": one.reading, "gain": round(one.gain, 4),
         "seeds": one.seeds,
         "seen": {"sources": one.seen.sources, "probe": round(one.seen.probe, 4), "hscore": round(one.seen.hscore, 4),
                  "alike": round(one.seen.alike, 4)}}
        for one in past
    ]  # fmt: skip
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the file is out of date")
    options = parser.parse_args()
    text = as_text(measured_past(RESULTS / "ground_truth.parquet", RESULTS / "ground_truth_seen.parquet"))
    if not options.check:
        SHIPPED.write_text(text, encoding="utf-8")
    elif SHIPPED.read_text(encoding="utf-8") != text:
        sys.exit(f"{SHIPPED.name} is not what the results say: run python benchmarks/ship_past.py")


if __name__ == "__main__":
    main()
