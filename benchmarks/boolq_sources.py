"""Which of 24 tasks of five kinds help BoolQ, and does fusing the chosen ones match full multi-task training?

Needs a mirror folder in the Hub's layout that holds the tasks of the suite ``mirror-20``. Every training is kept in the
workspace, so a killed run goes on where it stopped; the results file is written anew after every seed.

    python benchmarks/boolq_sources.py --mirror DIR [--seeds 5] [--target-rows 2000] [--smoke]
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from adaptmtl.evaluation.check import DEFAULT_ARMS, check
from adaptmtl.fusion.fuse import fuse
from adaptmtl.provenance import measured, record
from adaptmtl.storage import write_json
from adaptmtl.training.recipe import Encoding, Recipe
from adaptmtl.training.setup import make_setup
from adaptmtl.workspace import Workspace
from adaptmtl.zoo.build import train_adapters


class Lines:
    """Reports progress as plain lines."""

    def say(self, message: str) -> None:
        """Prints the line."""
        print(message, flush=True)

    def track(self, items, description, total=None):
        """Yields the items."""
        yield from items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path, required=True)
    parser.add_argument("--home", type=Path, default=Workspace().home)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--source-rows", type=int, default=2500)
    parser.add_argument("--target-rows", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--learning-rate", type=float, default=Recipe().learning_rate)
    parser.add_argument("--head-rate", type=float, default=Recipe().head_rate)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--without", default="", help="comma-separated arms to leave out")
    parser.add_argument("--smoke", action="store_true", help="few rows and tasks, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "boolq_sources.json")
    options = parser.parse_args()
    source_rows, target_rows, eval_rows = options.source_rows, options.target_rows, None
    if options.smoke:
        source_rows, target_rows, eval_rows = 48, 48, 60
    workspace = Workspace(home=options.home, mirror=options.mirror, offline=True, reporter=Lines())
    recipe = Recipe(epochs=options.epochs, learning_rate=options.learning_rate, head_rate=options.head_rate)
    encoding = Encoding(max_length=options.max_length)
    sources = make_setup(workspace=workspace, recipe=recipe, encoding=encoding, eval_rows=60 if options.smoke else 500)
    setup = make_setup(workspace=workspace, recipe=recipe, encoding=encoding, eval_rows=eval_rows)
    suite = list(sources.catalogue.suite("mirror-20"))
    tasks = [name for name in suite if name != "boolq"]
    tasks = ["rte", "trec", "conll2000", "stsb", "piqa", "qed"] if options.smoke else tasks

    with measured() as training:
        adapters = train_adapters(sources, tasks, rows=source_rows)
    result = {
        "question": __doc__.splitlines()[0],
        "settings": {
            "source_rows": source_rows,
            "target_rows": target_rows,
            **asdict(encoding),
            **recipe.to_dict(),
        },
        "adapters": [
            {"task": one.task, "name": one.name, "metric": one.metric, "metrics": one.metrics} for one in adapters
        ],
        "adapters_seconds_this_run": training.seconds,
        "adapters_seconds": sum(one.manifest().cost.seconds for one in adapters),
        "provenance": record(data=setup.data("boolq", target_rows).fingerprint),
    }
    write_json(options.out, result)
    result["fused"] = fuse(setup, "boolq", rows=target_rows).to_dict()
    result["fused"].pop("path")
    wanted = [name for name in (*DEFAULT_ARMS, "random_sources") if name not in options.without.split(",")]
    cheap = [name for name in wanted if name != "multitask_all"]
    stages = [(cheap, seeds) for seeds in range(1, options.seeds + 1)] + [(wanted, options.seeds)]
    for arms, seeds in stages:  # the costliest arm last; every stage leaves a whole, smaller result
        result["check"] = check(setup, "boolq", rows=target_rows, seeds=seeds, arms_wanted=arms).to_dict()
        write_json(options.out, result)
        print(f"wrote {options.out} with {len(arms)} arms, {seeds} seeds", flush=True)


if __name__ == "__main__":
    main()
