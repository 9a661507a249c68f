"""Writes the tables of measured results into README.md, from the files in benchmarks/results.

python benchmarks/readme_tables.py [--check]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: marker in the README -> (results file, where in it the check stands)
TABLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "demo": ("demo.json", ()),
    "boolq": ("boolq_sources.json", ("check",)),
}


def boolq_table(check: dict[str, Any], file: str) -> str:
    """Returns the table of one check, with what was chosen and why."""
    machine = check["provenance"]["machine"]
    rows = [
        f"## BoolQ, {check['train_rows']:,} training rows, {len(check['all_sources'])} possible sources",
        "",
        f"All {check['n_rows']:,} evaluation rows, {check['n_seeds']} seeds, {check['steps']} steps on the target for "
        "every arm, MiniLM-L6 (22.6 million weights). Always answering the majority label scores "
        f"{check['majority']:.1%}.",
        "",
        "| arm | accuracy [95%] | sd | fused − arm [95%] | fused is | s per seed | s before | weights |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in check["arms"]:
        score = _bounds(arm["mean"], arm["low"], arm["high"])
        difference = _bounds(arm["difference"], arm["difference_low"], arm["difference_high"], sign="+")
        spread = "" if arm["sd"] is None else f"{100 * arm['sd']:.1f}"
        rows.append(
            f"| {arm['title']} | {score} | {spread} | {difference} | {arm['verdict'] or ''} | {arm['seconds']:.0f} "
            f"| {arm['upstream_seconds']:.0f} | {arm['trained_parameters']:,} |"
        )
    beaten = [arm["title"] for arm in check["arms"] if arm["beats_majority"] and arm["beats_majority"][0] > 0]
    rows += [
        "",
        f"How the sources were chosen: {check['summary']}. "
        + (f"The majority rate is beaten, with an interval above 0, by: {', '.join(beaten)}." if beaten else
           "No arm beats the majority rate with an interval above 0."),
        "",
        f"Measured on {_device(machine)}. \"s before\": the sources' adapters and "
        "the trial that chose them, or the multi-task encoder, once for all seeds. "
        f"Every figure is from [{file}](benchmarks/results/{file}).",
    ]  # fmt: skip
    return "\n".join(rows)


def _device(machine: dict[str, Any]) -> str:
    if machine.get("device", "cpu") != "cpu":
        return f"one {machine['device']}"
    return f"{machine['cores']} cores ({machine['processor']})"


def _bounds(value: float | None, low: float | None, high: float | None, sign: str = "") -> str:
    if value is None or low is None or high is None:
        return ""
    return f"{100 * value:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the README is up to date")
    options = parser.parse_args()
    readme = ROOT / "README.md"
    before = readme.read_text(encoding="utf-8")
    after = before
    for marker, (file, path) in TABLES.items():
        found = ROOT / "benchmarks" / "results" / file
        if not found.exists():
            continue
        check = json.loads(found.read_text(encoding="utf-8"))
        for part in path:
            check = check.get(part, {})
        if not check:  # a benchmark that was cut short has no such part yet
            continue
        begin, end = f"<!-- results:{marker} -->", f"<!-- /results:{marker} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        table = f"{begin}\n{boolq_table(check, file)}\n{end}"
        after = pattern.sub(lambda _, table=table: table, after)
    if options.check:
        return 0 if after == before else 1
    readme.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
