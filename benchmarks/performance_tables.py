"""Writes the measured tables of docs/performance.md, from the files in benchmarks/results.

    python benchmarks/performance_tables.py [--check]

A table whose results file is not there stays as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from common import RESULTS, filled, machine_of, table_row

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
PEERS = ("as they come", "dropout off")


def speed(result: dict[str, Any]) -> list[str]:
    """Medians over pairs of runs of the same training, task by task."""
    settings = result["settings"]
    found = [
        f"{settings['rows']} rows, {_epochs(settings['epochs'])}, {settings['threads']} threads, rows cut to "
        f"{settings['max_length']} tokens, MiniLM-L6, rank 8, on {machine_of(result)}. Seconds are medians over pairs, "
        "model loading included; ratios are medians of the faster peer's time over ours in the same pair.",
        "",
        table_row("task", "pairs", "ours, same work", "ours, default", "peft", "adapters", *(
            f"{variant}: {peers}" for variant in ("same work", "default") for peers in PEERS
        )),
        table_row(*["---"] * 10),
    ]  # fmt: skip
    for task, one in result["tasks"].items():
        if not one["pairs"]:
            continue
        table = one["summary"]
        fastest = {
            library: min(
                table[name]["seconds"] for name in table if name.startswith(library) and "no dropout" not in name
            )
            for library in ("peft", "adapters")
        }
        ratios = [
            table[f"seconds of the faster peer, {peers}, over ours, {variant}"]["median"]
            for variant in ("same work", "default") for peers in PEERS
        ]  # fmt: skip
        found.append(table_row(
            f"`{task}`", len(one["pairs"]), f"{table['ours same work']['seconds']:.2f} s",
            f"{table['ours default']['seconds']:.2f} s", *(f"{seconds:.2f} s" for seconds in fastest.values()),
            *(f"{ratio:.2f}" for ratio in ratios),
        ))  # fmt: skip
    return found


def quality(result: dict[str, Any]) -> list[str]:
    """Time at equal quality."""
    settings, table = result["settings"], result["quality"]["table"]
    unit = "seconds" if settings["device"] == "cuda" else "cpu_seconds"
    seeds = len({name.split("/")[1] for name in result["quality"]["runs"]})
    tasks = ", ".join(sorted({name.split("/")[0] for name in result["quality"]["runs"]}))
    found = [
        f"{settings['rows']} rows, ours {_epochs(settings['epochs'])} at our default, {seeds} seeds, {tasks}; on "
        f"{machine_of(result)}. Quality is the mean of the tasks' main metrics; time is the median over tasks of "
        f"{'wall' if unit == 'seconds' else 'processor'} seconds over ours.",
        "",
        table_row("setting", "tasks", "quality", "ours − it [95% over tasks]", "time over ours"),
        table_row(*["---"] * 5),
    ]
    for name, one in table["settings"].items():
        difference = one.get("ours - peer")
        found.append(table_row(
            name, one["tasks"], f"{one['quality']:.3f}",
            _bounds(difference["mean"], difference["low"], difference["high"]) if difference else "",
            f"{one[f'{unit} over ours']:.2f}",
        ))  # fmt: skip
    cheapest = table["the peer's cheapest setting that is as good as ours"]
    found += [
        "",
        f"The peer's cheapest setting that is at most half a point below ours: {cheapest or 'none of these'}.",
    ]
    return found


def lower_layers(result: dict[str, Any]) -> list[str]:
    """Quality and cost by the number of lower layers without adapter."""
    settings, runs = result["settings"], result["runs"]
    seeds = len({name.split("/")[2] for name in runs})
    found = [
        f"{settings['rows']} rows, {_epochs(settings['epochs'])}, {seeds} seeds, rows cut to {settings['max_length']} "
        f"tokens, at most {settings['eval_rows']:,} evaluation rows, MiniLM-L6 (6 layers), on {machine_of(result)}.",
        "",
        table_row("k", "tasks", "quality", "k − 0 [95% over tasks]", "training time over k = 0", "states, once"),
        table_row(*["---"] * 6),
    ]
    for one in result["curve"]:
        found.append(table_row(
            one["k"], one["tasks"], f"{one['quality']:.3f}",
            _bounds(one["difference"], one["low"], one["high"]) if one["k"] else "", f"{one['time_over_k0']:.2f}",
            f"{one['states_once_over_k0']:.2f}" if one["k"] else "",
        ))  # fmt: skip
    depths = [one["k"] for one in result["curve"]]
    found += ["", table_row("task", *(f"k = {k}" for k in depths)), table_row(*["---"] * (1 + len(depths)))]
    for task in sorted({name.split("/")[0] for name in runs}):
        cells = [
            [one["quality"] for name, one in runs.items() if name.rsplit("/", 1)[0] == f"{task}/{k}"] for k in depths
        ]
        found.append(table_row(f"`{task}`", *(f"{mean(cell):.3f}" if cell else "" for cell in cells)))
    return found


def training_length(result: dict[str, Any]) -> list[str]:
    """Quality and cost by the number of steps on few rows."""
    settings, curve = result["settings"], result["curve"]
    seeds = len({name.split("/")[2] for name in result["runs"]})
    found = [
        f"{settings['rows']} rows, {seeds} seeds, rows cut to {settings['max_length']} tokens, at most "
        f"{settings['eval_rows']:,} evaluation rows, MiniLM-L6, on {machine_of(result)}.",
        "",
        table_row("steps", "tasks", "quality", "gain on the row above [95% over tasks]", "time over the first row"),
        table_row(*["---"] * 5),
    ]
    for one in curve:
        gain = one["gain"]
        found.append(table_row(
            one["steps"], len(one["tasks"]), f"{one['quality']:.3f}",
            _bounds(gain["mean"], gain["low"], gain["high"]) if gain else "", f"{one['time_over_first']:.2f}",
        ))  # fmt: skip
    found += [
        "",
        table_row("task", *(f"{one['steps']} steps" for one in curve)),
        table_row(*["---"] * (1 + len(curve))),
    ]
    for task in curve[0]["tasks"]:
        found.append(table_row(f"`{task}`", *(f"{one['tasks'][task]:.3f}" for one in curve)))
    return found


def target_study(result: dict[str, Any]) -> list[str]:
    """A whole study of one target."""
    settings, table = result["settings"], result["summary"]
    measured = table["peft steps measured"]
    return [
        f"`{settings['target']}`, {settings['rows']} rows, {len(result['sources'])} sources estimated, the best one, "
        f"two and three merged and tuned, {settings['seeds']} seeds, on {machine_of(result)}. Of peft's steps "
        f"{measured['sources']} readings and {measured['trainings']} trainings were run"
        f"{', the rest is extrapolated' if table['extrapolated'] else ''}.",
        "",
        table_row("", "ours", "peft + Trainer", "ratio"),
        table_row(*["---"] * 4),
        *(
            table_row(title, f"{table[unit]['ours']:.0f} s", f"{table[unit]['peft + Trainer']:.0f} s",
                f"{table[unit]['ratio']:.2f}")
            for title, unit in (("wall", "seconds"), ("processor", "cpu_seconds"))
        ),
        "",
        f"Mean score of the trainings that both ran: ours {table['quality']['ours']:.3f}, peft "
        f"{table['quality']['peer']:.3f}.",
    ]  # fmt: skip


def engine_limit(result: dict[str, Any]) -> list[str]:
    """How near a step comes to the rate of matrix products."""
    settings = result["settings"]
    found = [
        f"Steps of {settings['batch']} rows, {settings['threads']} threads, MiniLM-L6, on {machine_of(result)}. The "
        "limit is the rate of a large matrix product, measured before and after each step.",
        "",
        table_row("tokens per row", "k", "seconds", "µs per token", "GFLOP/s", "limit", "share",
            "outside the model's kernels"),
        table_row(*["---"] * 8),
    ]  # fmt: skip
    for one in result["steps"]:
        found.append(table_row(
            one["length"], one["lower_layers"], f"{one['seconds']:.3f}", f"{one['microseconds_per_token']:.0f}",
            f"{one['flops_per_second'] / 1e9:.0f}", f"{max(one['peak_flops_per_second']) / 1e9:.0f}",
            f"{one['share_of_peak']:.0%}", f"{one['outside_kernels']:.1%}" if "outside_kernels" in one else "",
        ))  # fmt: skip
    if growth := result.get("growth"):
        rows = ", ".join(f"{one['rows']:,} rows: {one['microseconds_per_token']:.0f}" for one in growth["rows"])
        sources = ", ".join(
            f"{one['sources']}: {one['microseconds_per_token_and_source']:.0f}" for one in growth["sources"]
        )
        found += [
            "",
            f"Microseconds per token of a step as the split grows: {rows}. Microseconds per token and source as "
            f"sources are read on the same rows: {sources}.",
        ]
    if memory := result.get("memory"):
        found += [
            "",
            f"Peak memory of a training on {memory['rows']:,} rows of {memory['tokens_per_row']} tokens: "
            f"{memory['peak_rss_gib']:.2f} GiB with their states on disk ({memory['states_gib']:.1f} GiB), "
            f"{memory['command_peak_rss_gib']:.2f} GiB for the whole command on a file of them, which recomputes "
            "states that the cache's default size does not hold.",
        ]
    if profiles := [one for one in result["steps"] if "kernels" in one]:
        groups = list(profiles[0]["kernels"])
        found += [
            "",
            "Where the time goes, by torch's profiler:",
            "",
            table_row("tokens per row", "k", *groups, "all else"),
            table_row(*["---"] * (3 + len(groups))),
            *(
                table_row(one["length"], one["lower_layers"], *(f"{one['kernels'][name]:.1%}" for name in groups),
                    f"{one['outside_kernels']:.1%}")
                for one in profiles
            ),
        ]  # fmt: skip
    if shared := result.get("shared_forward"):
        ratios = ", ".join(f"{one['members']}: {one['one_by_one_over_together']:.2f}" for one in shared)
        length, pairs = result["steps"][0]["length"], len(shared[0]["pairs"])
        found += [
            "",
            f"Time of adapters trained one after another over the same on one forward pass ({length} tokens per row, "
            f"medians of {pairs} pairs), by number of adapters: {ratios}.",
        ]
    return found


def numerics(result: dict[str, Any]) -> list[str]:
    """How far logits are from those of transformers and peft."""
    settings = result["settings"]
    return [
        f"At most {settings['eval_rows']} rows a task, cut to {settings['max_length']} tokens, MiniLM-L6, on "
        f"{machine_of(result)}. Shares of the largest logit.",
        "",
        table_row("task", "rows", "largest logit", "fp32, farthest", "bf16, root mean square", "bf16, farthest"),
        table_row(*["---"] * 6),
        *(
            table_row(f"`{one['task']}`", one["rows"], f"{one['largest']:.1f}", f"{one['fp32']['most']:.0e}",
                f"{one['bf16']['root_mean_square']:.2%}", f"{one['bf16']['most']:.2%}")
            for one in result["adapters"]
        ),
    ]  # fmt: skip


#: marker -> (results file, table)
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], list[str]]]] = {
    "speed": ("train_speed.json", speed), "quality": ("train_quality.json", quality),
    "speed-bf16": ("train_speed_bf16.json", speed), "target-study": ("target_study.json", target_study),
    "lower-layers": ("lower_layers.json", lower_layers), "training-length": ("training_length.json", training_length),
    "engine-limit": ("engine_limit.json", engine_limit), "engine-limit-bf16": ("engine_limit_bf16.json", engine_limit),
    "numerics": ("numerics.json", numerics),
}  # fmt: skip


def _epochs(number: float) -> str:
    return "one epoch" if number == 1 else f"{number:g} epochs"


def _bounds(value: float, low: float | None, high: float | None) -> str:
    bounds = "" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]"
    return f"{value:+.3f}{bounds}".replace("-", "−")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the document is up to date")
    options = parser.parse_args()
    before = after = DOCUMENT.read_text(encoding="utf-8")
    for marker, (file, table) in TABLES.items():
        if (RESULTS / file).exists():
            lines = [*table(json.loads((RESULTS / file).read_text(encoding="utf-8"))), "",
                     f"Every figure is from [{file}](../benchmarks/results/{file})."]  # fmt: skip
            after = filled(after, marker, "\n".join(lines))
    if options.check:
        return int(after != before)
    DOCUMENT.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
