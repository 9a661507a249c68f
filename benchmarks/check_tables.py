"""Writes the tables of checks into README.md and docs/fusion.md, from the files in benchmarks/results.

python benchmarks/check_tables.py [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from common import RESULTS, filled, machine_of

from adaptmtl.evaluation.arms import arms

ROOT = Path(__file__).resolve().parents[1]
#: marker in a document -> (document, results file, where in it the check stands)
TABLES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "demo": ("README.md", "demo.json", ()),
    "boolq": ("README.md", "boolq_sources.json", ("check",)),
    "boolq-h100": ("docs/fusion.md", "boolq_sources_h100.json", ("check",)),
}


def check_table(check: dict[str, Any], file: str, document: str) -> str:
    """Returns the table of one check, with what was chosen and why."""
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
            f"| {arms[arm['name']].title} | {score} | {spread} | {difference} | {arm['verdict'] or ''} "
            f"| {arm['seconds']:.0f} | {arm['upstream_seconds']:.0f} | {arm['trained_parameters']:,} |"
        )
    margins = [(arms[arm["name"]].title, *arm["beats_majority"]) for arm in check["arms"] if arm["beats_majority"]]
    above = ", ".join(title for title, low, _ in margins if low > 0)
    below = ", ".join(title for title, _, high in margins if high < 0)
    rows += [
        "",
        f"How the sources were chosen: {check['summary']}. "
        + (f"Shown to beat the majority rate: {above}." if above else "No arm is shown to beat the majority rate.")
        + (f" Shown to be below it: {below}." if below else ""),
        "",
        f"Measured on {machine_of(check)}. \"s per seed\": training on the target, and scoring all evaluation rows. "
        "\"s before\", once for all seeds: the adapters of the chosen sources and the trial that chose them, or the "
        "multi-task encoder; adapters of sources that were not chosen, and reading them, are not in it. \"weights\": "
        "those that are trained. Intervals are "
        "for one comparison; \"fused is\" goes by p values adjusted over all arms. "
        f"Every figure is from [{file}]({'../' * document.count('/')}benchmarks/results/{file}).",
    ]  # fmt: skip
    return "\n".join(rows)


def _bounds(value: float | None, low: float | None, high: float | None, sign: str = "") -> str:
    if value is None or low is None or high is None:
        return ""
    return f"{100 * value:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the documents are up to date")
    options = parser.parse_args()
    before = {name: (ROOT / name).read_text(encoding="utf-8") for name, _, _ in TABLES.values()}
    after = dict(before)
    for marker, (document, file, path) in TABLES.items():
        check = json.loads((RESULTS / file).read_text(encoding="utf-8"))
        for part in path:
            check = check[part]
        after[document] = filled(after[document], marker, check_table(check, file, document))
    stale = [name for name in before if after[name] != before[name]]
    if options.check:
        return 1 if stale else 0
    for name in stale:
        (ROOT / name).write_text(after[name], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
