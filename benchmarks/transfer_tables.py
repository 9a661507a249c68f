"""Writes the measured tables of docs/transfer.md and its plot, from the files in benchmarks/results.

    python benchmarks/transfer_tables.py [--check]

A table whose results file is not there stays as it is.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from common import RESULTS, filled, table_row

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT, PLOT = ROOT / "docs" / "transfer.md", ROOT / "docs" / "transfer_frontier.svg"
TITLES = {
    "spearman": "Spearman", "ndcg": "NDCG", "ndcg_exponential": "NDCG (exp.)", "regret@1": "regret@1",
    "regret@3": "@3", "regret@5": "@5", "auc": "guard AUC", "coverage": "coverage", "conformal_coverage": "conformal",
}  # fmt: skip
WIDTH, HEIGHT, MARGIN = 640, 360, 56


def quality_table(result: Mapping[str, Any]) -> str:
    """Returns one table of estimators, best Spearman first, with only the columns that hold something."""
    rows = sorted(result["rows"], key=lambda row: -_or(row["figures"].get("spearman"), -9.0))
    columns = [name for name in TITLES if any(row["figures"].get(name) is not None for row in rows)]
    timed = any(row["seconds"] for row in rows)
    head = ["estimator", "targets", *(TITLES[name] for name in columns), *(["s per target", "cost"] if timed else [])]
    lines = [table_row(*head), table_row(*["---"] * len(head))]
    for row in rows:
        cells = [row["name"].replace("_", " "), _targets(row)]
        cells += [_number(row["figures"].get(name)) for name in columns]
        if timed:
            cells += ["" if row["seconds"] is None else f"{row['seconds']:.1f}", _share(row["cost_share"])]
        lines.append(table_row(*cells))
    return "\n".join(lines)


def truth_section(result: Mapping[str, Any]) -> str:
    """Returns what the truth is, the table, and the planner's paired differences."""
    noise, seeds = result["noise"], "/".join(map(str, result["seeds"]))
    parts = [
        f"{result['targets']} targets, {result['pairs']} pairs, {seeds} seeds. {noise['negative_share']:.0%} of the "
        f"pairs transfer negatively; the seeds agree on the sign of {noise['positive_pairs'] + noise['negative_pairs']}"
        f" ({noise['positive_pairs']} up, {noise['negative_pairs']} down).",
        quality_table(result),
    ]
    reached = {row["name"]: row["figures"].get("spearman") for row in result["rows"]}
    mine, most = reached.get(result["planner"]), reached.get("split_half_ceiling")
    if mine is not None and most:
        parts += [f"{result['planner']} reaches {mine / most:.0%} of the ceiling of Spearman's correlation."]
    if result["planner_minus"]:
        parts += [f"{result['planner']} minus each, paired over targets, mean [95%]; above 0 it is better:"]
        parts += [_differences(result["planner_minus"])]
    return "\n\n".join(parts)


def published_section(result: Mapping[str, Any]) -> str:
    """Returns the table on the published matrix."""
    return f"{result['targets']} targets, {result['pairs']} pairs, no seeds.\n\n{quality_table(result)}"


def sets_section(result: Mapping[str, Any]) -> str:
    """Returns the table on sets of sources, and whether reading a merge beats predictions for its members."""
    parts = [f"{result['pairs']} sets on {result['targets']} targets.", quality_table(result)]
    members = [f"{result['planner']} (mean member)", f"{result['planner']} (best member)"]
    found = {name: result["planner_minus"][name] for name in members if name in result["planner_minus"]}
    if found:
        parts += [
            f"{result['planner']} minus its predictions for the members, paired over the targets that it scored, "
            "mean [95%]; above 0 it is better:",
            _differences(found),
        ]
    return "\n\n".join(parts)


def chosen_section(result: Mapping[str, Any]) -> str:
    """Returns what the planner's choice really gained within each budget, beside other choices, and what it cost."""
    summary = result["summary"]
    named = ["best predicted set", *next(iter(summary.values()))["best predicted set minus"], "choice"]
    lines = [
        f"{len(result['targets'])} targets. Mean relative gain over the target alone; in brackets the best predicted "
        "set minus the other, paired over targets, with its 95% interval. `choice` trains alone where no gain is "
        "expected.",
        "",
        table_row("sources", *(f"budget {budget}" for budget in summary)),
        table_row(*["---"] * (1 + len(summary))),
    ]
    for name in named:
        cells = []
        for one in summary.values():
            minus = _bounds(one["best predicted set minus"].get(name))
            cells.append(f"{one['gain'][name]:+.1%}".replace("-", "−") + (f" ({minus})" if minus else ""))
        lines.append(table_row(name, *cells))
    lines += [
        table_row("targets trained alone", *(one["trained alone"] for one in summary.values())),
        table_row("seconds", *(f"{one['seconds']:.0f}" for one in summary.values())),
        table_row(
            "share of one transfer per source",
            *(
                "" if (share := one["share of one transfer per source"]) is None else f"{share:.1%}"
                for one in summary.values()
            ),
        ),
    ]
    return "\n".join(lines)


def signatures_section(result: Mapping[str, Any]) -> str:
    """Returns the table of ranking by signatures."""
    lines = [
        table_row(*["step", "adapters", "seconds", "without imports", "CPU seconds", "peak MiB"]),
        table_row(*["---"] * 6),
    ]
    for name, title in (
        ("first_packing", "first packing"), ("packed", "packed"), ("after_adding", "100 adapters more"),
    ):  # fmt: skip
        one = result[name]
        figures = [f"{one[key]:.1f}" for key in ("seconds", "without_imports", "cpu_seconds")]
        figures.append(f"{one['peak_mib']:.0f}")
        lines.append(table_row(*[title, f"{one['adapters']:,}", *figures]))
    machine, load = result["provenance"]["machine"], result["provenance"]["load_average"]
    where = f"{machine['cores']} cores ({machine['processor']}) under a load of {load:.1f}"
    return "\n".join(lines) + f"\n\nEach step in a process of its own, on {where}."


#: marker in the document -> (results file, key in it or "" for all of it, how it is written)
SECTIONS: dict[str, tuple[str, str, Callable[[Mapping[str, Any]], str]]] = {
    "transfer-quality": ("transfer_quality.json", "truth", truth_section),
    "transfer-sets": ("transfer_quality.json", "sets", sets_section),
    "chosen-sets": ("chosen_sets.json", "", chosen_section),
    "transfer-published": ("transfer_quality.json", "published", published_section),
    "rank-signatures": ("rank_signatures.json", "", signatures_section),
}


def plot(result: Mapping[str, Any]) -> str:
    """Returns quality against cost as SVG: Spearman over the share of brute-force cost, on a log scale."""
    points = [
        (row["name"], math.log10(row["cost_share"]), row["figures"]["spearman"])
        for row in result["rows"]
        if row["cost_share"] and row["figures"].get("spearman") is not None
    ]
    low, high = min(x for _, x, _ in points) - 0.2, max(x for _, x, _ in points) + 0.5
    bottom, top = min(0.0, *(y for _, _, y in points)) - 0.05, 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        across = MARGIN + (x - low) / (high - low) * (WIDTH - 2 * MARGIN)
        return across, HEIGHT - MARGIN - (y - bottom) / (top - bottom) * (HEIGHT - 2 * MARGIN)

    ticks = [tick for tick in range(math.floor(low), math.ceil(high) + 1) if low <= tick <= high]
    best, front = -9.0, []
    for _, x, y in sorted(points, key=lambda point: (point[1], -point[2])):
        if y > best:
            best, front = y, [*front, at(x, y)]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<polyline fill="none" stroke="#999" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in front)}"/>',
    ]
    for tick in ticks:
        x, y = at(tick, bottom)
        lines.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{100 * 10.0**tick:g}%</text>')
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = at(low, tick)
        lines.append(f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
        lines.append(f'<line x1="{x:.1f}" x2="{WIDTH - MARGIN}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eee"/>')
    for name, px, py in points:
        x, y = at(px, py)
        lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#2563eb"/>')
        lines.append(f'<text x="{x + 7:.1f}" y="{y + 4:.1f}">{escape(name.replace("_", " "))}</text>')
    lines += [
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">cost, share of one transfer per source</text>',
        f'<text x="14" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2})">'
        "Spearman, mean over targets</text>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def written(document: str, results: Mapping[str, Any]) -> str:
    """Returns the document with every section whose results are at hand."""
    for marker, (file, key, write) in SECTIONS.items():
        found = results.get(file, {})
        found = found.get(key) if key else found
        if found:
            document = filled(document, marker, write(found))
    return document


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _targets(row: Mapping[str, Any]) -> str:
    """How many targets the row's means are over; in brackets the share of all pairs scored, where that is not all."""
    return f"{row['targets']}" if row["scored"] > 0.9995 else f"{row['targets']} ({row['scored']:.1%})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}".replace("-", "−")


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}" if value >= 0.001 else f"{value:.2%}"


def _differences(found: Mapping[str, Mapping[str, Any]]) -> str:
    figures = [name for name in TITLES if any(name in row for row in found.values())]
    lines = [table_row(*["minus", *(TITLES[name] for name in figures)]), table_row(*["---"] * (len(figures) + 1))]
    for name, row in found.items():
        lines.append(table_row(*[name.replace("_", " "), *(_bounds(row.get(figure)) for figure in figures)]))
    return "\n".join(lines)


def _bounds(triple: Any) -> str:
    if not triple or triple[0] is None:
        return ""
    mean, low, high = triple
    return f"{mean:+.3f}" if low is None else f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the document is up to date")
    options = parser.parse_args()
    files = {file for file, _, _ in SECTIONS.values()}
    results = {file: json.loads((RESULTS / file).read_text()) for file in files if (RESULTS / file).exists()}
    products = {DOCUMENT: written(DOCUMENT.read_text(encoding="utf-8"), results)}
    truth = results.get("transfer_quality.json", {}).get("truth")
    if truth and any(row["cost_share"] for row in truth["rows"]):
        products[PLOT] = plot(truth)
    stale = [path for path, text in products.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if options.check:
        return 1 if stale else 0
    for path in stale:
        path.write_text(products[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
