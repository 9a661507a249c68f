"""What benchmarks share: options of those of the engine, with one meaning each, and blocks of results in documents."""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
#: Tasks of all kinds whose rows come with packages.
TASKS = ("trec", "sms_spam", "optimus_ner", "privacy_policy", "boolq", "pubmed_qa", "vader_amazon", "commonsense_qa",
         "social_i_qa", "disfl_qa")  # fmt: skip


def names(text: str) -> list[str]:
    """Splits a comma-separated list."""
    return text.split(",")


SHARED: dict[str, dict[str, Any]] = {
    "--backbone": {"default": "minilm"},
    "--device": {"choices": ["cpu", "cuda"], "default": "cpu"},
    "--threads": {"type": int, "default": os.cpu_count() or 1},
    "--mirror": {"type": Path, "help": "folder of data sets in the Hub's layout; else package archives"},
    "--home": {"type": Path, "help": "where archives, the backbone and adapters are kept"},
    "--task-file": {"type": Path, "help": "YAML file or folder with tasks and suites of your own"},
    "--smoke": {"action": "store_true", "help": "small sizes, to see that it runs"},
}


def processes(jobs: int, threads: int, prepare: Callable[..., None] | None = None, *facts: Any) -> ProcessPoolExecutor:
    """Makes processes that share the threads, begin with nothing of this one's, and end when it is killed.

    Args:
        jobs: processes.
        threads: of all together.
        prepare: called in each, before anything is imported.
        facts: what it is called with.
    """
    each = max(1, threads // jobs)
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (each, prepare, facts))


def finished(waiting: Mapping[Future[Any], str], failed: list[str]) -> Iterator[tuple[str, Any]]:
    """Yields name and value of what runs, as it ends; what fails stops no other, is printed and put into ``failed``."""
    for future in as_completed(waiting):
        if (error := future.exception()) is None:
            yield waiting[future], future.result()
        else:
            failed.append(f"{waiting[future]}: {error!r}")
            print(f"failed: {failed[-1]}", flush=True)


def run_missing(
    options: argparse.Namespace, work: Callable[..., dict[str, float]], asked: Mapping[str, tuple[Any, ...]],
    runs: dict[str, dict[str, float]], save: Callable[[], None],
) -> None:  # fmt: skip
    """Runs what of a grid has not been run, saves after each, and ends the program with what failed, if anything did.

    Args:
        options: what ``work`` is given first; jobs, and the threads of all together.
        work: one run.
        asked: name -> what ``work`` is given besides.
        runs: name -> what it returned; those at hand are not run again.
        save: called after each run and at the end.
    """
    failed: list[str] = []
    with processes(options.jobs, options.threads) as pool:
        waiting = {pool.submit(work, options, *one): name for name, one in asked.items() if name not in runs}
        for name, run in finished(waiting, failed):
            runs[name] = run
            save()
            print(name, {part: round(value, 3) for part, value in run.items()}, flush=True)
    end(failed)
    save()


def end(failed: list[str]) -> None:
    """Ends the program with what failed, if anything did.

    Raises:
        SystemExit: something failed.
    """
    if failed:
        raise SystemExit("not measured: " + "; ".join(failed))


def without_states(data: Any) -> Any:
    """Returns a task's data whose encoded rows are at hand and whose states are not, as when it is first used."""
    splits = {name: dataclasses.replace(getattr(data, name), _states={}) for name in ("train", "validation")}
    for name, split in splits.items():
        split.__dict__["encoded"] = getattr(data, name).encoded
    return dataclasses.replace(data, **splits)


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the mean with Student's 95% interval; without width for a single value, as JSON has no undefined one."""
    from adaptmtl import statistics

    return statistics.mean_interval(values) if len(values) > 1 else (float(values[0]),) * 3


def setup_of(
    recipe: Any, *, backbone: str, home: Path | None, mirror: Path | None, task_file: Path | None, max_length: int,
    eval_rows: int | None,
) -> Any:  # fmt: skip
    """Returns the settings that the options of the engine's benchmarks stand for."""
    from adaptmtl.tasks.catalogue import load_catalogue
    from adaptmtl.training.recipe import Encoding
    from adaptmtl.training.setup import make_setup
    from adaptmtl.workspace import Workspace

    base = Workspace()
    return make_setup(
        backbone, workspace=Workspace(home=home or base.home, mirror=mirror or base.mirror), recipe=recipe,
        encoding=Encoding(max_length), catalogue=load_catalogue(task_file), eval_rows=eval_rows,
    )  # fmt: skip


def train_once(options: argparse.Namespace, recipe: Any, task: str, seed: int) -> dict[str, float]:
    """Trains and scores one adapter; the states of its rows are made in an empty cache and timed apart.

    Args:
        options: backbone, home, mirror, task_file, max_length, rows, eval_rows.
        recipe: how.
        task: what on.
        seed: of everything.

    Returns:
        quality, cpu_seconds of the training and states_cpu_seconds.
    """
    from adaptmtl.backbone.precision import default_dtype
    from adaptmtl.provenance import measured
    from adaptmtl.training.adapter import train_adapter
    from adaptmtl.training.loop import accelerator
    from adaptmtl.training.score import score

    setup = setup_of(
        recipe, backbone=options.backbone, home=options.home, mirror=options.mirror, task_file=options.task_file,
        max_length=options.max_length, eval_rows=options.eval_rows,
    )  # fmt: skip
    data = without_states(setup.data(task, options.rows))  # an earlier run in this process left its own
    with tempfile.TemporaryDirectory() as folder:
        workspace = dataclasses.replace(setup.workspace, home=Path(folder))
        with measured() as states:
            data.train.states(workspace, recipe.layers_below(setup.backbone), default_dtype(), accelerator().device)
        with measured() as training:
            trained = train_adapter(workspace, setup.backbone, data, setup.recipe, seed)
        scored = score(data, data.validation, trained.outputs(workspace, data.validation))
    return {
        "quality": float(scored.values[data.spec.main_metric]), "cpu_seconds": training.cpu_seconds,
        "states_cpu_seconds": states.cpu_seconds,
    }  # fmt: skip


def _begin(threads: int, prepare: Callable[..., None] | None, facts: tuple[Any, ...]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*facts)
    import torch

    torch.set_num_threads(threads)


def resumed(path: Path, settings: dict[str, Any], **fresh: Any) -> dict[str, Any]:
    """Returns the results that a file holds, to go on with, or those of a run that begins.

    Args:
        path: of the results.
        settings: that all results of the file share, with the machine, the dtype and the default recipe.
        fresh: what a new file begins with.

    Raises:
        SystemExit: the file's results are of other settings; they are never written over.
    """
    from adaptmtl.backbone.precision import default_dtype
    from adaptmtl.provenance import environment
    from adaptmtl.storage import read_json
    from adaptmtl.training.recipe import Recipe

    machine = {name: environment()["machine"].get(name) for name in ("processor", "cores", "instructions", "device")}
    settings = {**settings, "machine": machine, "dtype": str(default_dtype()), "recipe": Recipe().to_dict()}
    if (held := read_json(path)) is None:
        return {"settings": settings, **fresh}
    if held.get("settings") != settings:
        old = held.get("settings", {})
        other = [f"{name} {old.get(name)!r}, not {value!r}" for name, value in settings.items()
                 if old.get(name) != value]  # fmt: skip
        raise SystemExit(f"{path} holds results of other settings ({'; '.join(other)}): give another --out, or these")
    commits = {*held.get("earlier_commits", ()), held.get("provenance", {}).get("git_commit")}
    held["earlier_commits"] = sorted(commits - {None, environment()["git_commit"]})
    return held


def filled(document: str, marker: str, text: str) -> str:
    """Returns a document with what stands between the markers of a block of results exchanged.

    Raises:
        SystemExit: the document has no such block, or several.
    """
    begin, end = f"<!-- results:{marker} -->", f"<!-- /results:{marker} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    document, count = pattern.subn(lambda _: f"{begin}\n{text}\n{end}", document)
    if count != 1:
        raise SystemExit(f"there are {count} blocks {begin} ... {end}; there must be one")
    return document


def table_row(*cells: object) -> str:
    """Returns a row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def machine_of(result: dict[str, Any]) -> str:
    """Returns what a result was measured on, for people."""
    machine = result["provenance"]["machine"]
    if machine.get("device", "cpu") != "cpu":
        return f"one {machine['device']}"
    known = (machine["processor"], machine.get("instructions"))
    return f"{machine['cores']} cores ({', '.join(one for one in known if one)})"


class _Parser(argparse.ArgumentParser):
    """Tells whether a file for the results was named; a smoke run writes to a temporary one, so that results stay."""

    def parse_args(self, *given: Any, **named: Any) -> argparse.Namespace:  # type: ignore[override]
        options = super().parse_args(*given, **named)
        options.out_named = options.out != self.get_default("out")
        if options.smoke and not options.out_named:
            options.out = Path(tempfile.mkdtemp(prefix="adaptmtl-smoke-")) / options.out.name
            print(f"smoke run: results go to {options.out}", flush=True)
        return options


def parser(description: str | None, results: str, *shared: str) -> argparse.ArgumentParser:
    """Makes a parser with some of the shared options, and ``--smoke`` and ``--out`` always.

    Args:
        description: the benchmark's docstring.
        results: name of its file of results.
        shared: names of :data:`SHARED`.
    """
    made = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in (*shared, "--smoke"):
        made.add_argument(name, **SHARED[name])
    made.add_argument("--out", type=Path, default=RESULTS / results)
    return made
