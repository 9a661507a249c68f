"""Which estimator ranks sources best, how sure is it, and what does it cost, against transfers that were measured?

Reads ``results/ground_truth.parquet`` (target, sources, n_sources, seed, metric, score, seconds, method),
``results/ground_truth_scores.parquet`` (target, source, estimator, score, standard_error, seconds), for the gains that
the planner predicts ``results/ground_truth_seen.parquet``, and for pivots ``results/ground_truth_texts.parquet``
(target, embedding). Everything learned is learned from other targets. With
``--reference DIR`` it also judges what can run from a matrix alone on the published RoBERTa-base matrix of Su et al.
2022.

    python benchmarks/transfer_quality.py [--reference DIR]
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from ship_past import measured_past

from adaptmtl.errors import DataError, SelectionError
from adaptmtl.provenance import record
from adaptmtl.selection.gains import GainModel, Past, profile_of
from adaptmtl.selection.reading import ROOM
from adaptmtl.storage import write_json
from adaptmtl.tasks.catalogue import load_catalogue
from adaptmtl.tasks.overlap import tasks_related_to
from adaptmtl.transfer.judge import Predicted, Truth, differences, judge, popularity, references
from adaptmtl.transfer.pivot import cosine, pivot_score
from adaptmtl.transfer.quality import sign_auc, split_half_ceiling

RESULTS = Path(__file__).parent / "results"
PLANNER = "planner"
PUBLISHED = "prompt_transferability/zero_shot_prompt_transfer.csv"
COLUMNS = ("spearman", "ndcg", "regret@1", "regret@3", "regret@5", "auc", "coverage", "conformal_coverage")
Row = Mapping[str, Any]


def read_truths(rows: Sequence[Row], wanted: Callable[[Row], bool]) -> tuple[list[Truth], dict[str, Any]]:
    """Builds one truth per target from the rows that are wanted (single sources, or sets) and the target-only rows.

    Of each target as many seeds and sources are kept as make the most complete pairs; what is left out is counted.
    Gains are measured against the mean of all target-only runs, of which there may be more seeds.
    """
    baseline: dict[str, dict[int, float]] = defaultdict(dict)
    results: dict[str, dict[str, dict[int, tuple[float, float]]]] = defaultdict(lambda: defaultdict(dict))
    metrics = {row["target"]: row["metric"] for row in rows}
    methods = Counter(row["method"] for row in rows if wanted(row))
    method = methods.most_common(1)[0][0] if methods else None
    for row in rows:
        if row["n_sources"] == 0:
            _put(baseline[row["target"]], row["seed"], row["score"], row)
        elif wanted(row) and row["method"] == method:
            _put(results[row["target"]][row["sources"]], row["seed"], (row["score"], row["seconds"]), row)
    truths, left_out = [], {}
    for target in sorted(results):
        seeds, sources = _complete(results[target], baseline.get(target, {}))
        left_out[target] = len(results[target]) - len(sources)
        if len(sources) < 2:
            continue
        cells = [[results[target][source][seed] for seed in seeds] for source in sources]
        truths.append(Truth(
            target, tuple(sources), np.array([[score for score, _ in row] for row in cells]),
            np.full(len(seeds), np.mean(list(baseline[target].values()))),
            np.array([np.mean([seconds for _, seconds in row]) for row in cells]),
        ))  # fmt: skip
    facts = {
        "method": method, "other_methods": {name: n for name, n in methods.items() if name != method},
        "metric": {truth.target: metrics[truth.target] for truth in truths},
        "incomplete_sources": {target: n for target, n in left_out.items() if n},
    }  # fmt: skip
    return truths, facts


def _put(cells: dict[int, Any], seed: int, value: Any, row: Row) -> None:
    if seed in cells:
        raise DataError(f"ground truth holds {row['target']!r} from {row['sources']!r}, seed {seed}, twice: remove one")
    cells[seed] = value


def _complete(results: Mapping[str, Mapping[int, Any]], baseline: Mapping[int, float]) -> tuple[list[int], list[str]]:
    """Seeds and sources of the largest complete block."""
    count = Counter(seed for cells in results.values() for seed in cells if seed in baseline)
    order = sorted(count, key=lambda seed: (-count[seed], seed))
    blocks = []
    for size in range(1, len(order) + 1):
        seeds = sorted(order[:size])
        sources = sorted(source for source, cells in results.items() if all(seed in cells for seed in seeds))
        blocks.append((len(sources) * size, size, seeds, sources))
    return (max(blocks)[2], max(blocks)[3]) if blocks else ([], [])


def read_scores(rows: Iterable[Row]) -> dict[str, dict[str, Predicted]]:
    """Returns estimator -> target -> what it says."""
    found: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row["estimator"]][row["target"]].append(row)
    return {name: {target: _predicted(cells) for target, cells in by.items()} for name, by in sorted(found.items())}


def _predicted(rows: Sequence[Row]) -> Predicted:
    finite = [row for row in rows if _known(row["score"])]
    bounds = {row["source"]: (row["low"], row["high"]) for row in finite if _known(row.get("low"))}
    seconds = [row["seconds"] for row in rows if _known(row["seconds"])]
    return Predicted({row["source"]: row["score"] for row in finite}, math.fsum(seconds) if seconds else None, bounds)


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def related_targets(names: Iterable[str]) -> dict[str, frozenset[str]]:
    """Returns the tasks that each target shares texts with, itself included."""
    tasks = load_catalogue().tasks
    return {name: tasks_related_to(tasks[name], tasks) for name in names if name in tasks}


def planned(
    past: Sequence[Past], seconds: Mapping[str, float | None], asked: Sequence[Past] | None = None
) -> dict[str, Predicted]:
    """Returns the planner's predicted gains of sources and sets, learned from other targets, none of them related.

    Args:
        past: what was measured on all targets, with what had been seen before.
        seconds: of reading, by target; the regression takes milliseconds.
        asked: the same, seen otherwise: what is predicted is predicted from this, where it is given.
    """
    found = {}
    asked = past if asked is None else asked
    related = related_targets({one.target for one in past})
    for target in sorted({one.target for one in asked}):
        own = [one for one in asked if one.target == target]
        profile = profile_of(one.seen for one in own)
        others = tuple(one for one in past if one.target not in related.get(target, {target}))
        model = GainModel(others, own[0].backbone, target, profile)
        gains = model.predict([one.seen for one in own], own[0].reading)
        names = ["+".join(one.seen.sources) for one in own]
        found[target] = Predicted(
            {name: gain.mean for name, gain in zip(names, gains, strict=True)},
            seconds.get(target),
            {name: (gain.low, gain.high) for name, gain in zip(names, gains, strict=True)},
        )
    return found


def reading_seconds(rows: Sequence[Row], budget: str = "") -> dict[str, float | None]:
    """Returns what the planner's reading took by target: of all sources, the plain backbone and, by default, merges."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.get("seconds") is not None and row.get("budget", "") == budget:
            found[row["target"]].append(row["seconds"])
    merges = 0 if budget else ROOM - 1
    return {target: math.fsum(each) * (1 + merges / len(each)) for target, each in found.items()}


def pivots(truths: Sequence[Truth], embeddings: Mapping[str, np.ndarray]) -> dict[str, Predicted]:
    """Returns what each source did for other targets, none of them related, weighted by how alike their texts are."""
    found = {}
    related = related_targets(truth.target for truth in truths)
    gains = {
        (t.target, s): float(gain) for t in truths for s, gain in zip(t.sources, t.gains.mean(axis=1), strict=True)
    }
    for truth in truths:
        if truth.target not in embeddings:
            continue
        left_out = {truth.target, *related.get(truth.target, ())}
        known = {pair: gain for pair, gain in gains.items() if pair[0] not in left_out}
        alike = {name: cosine(embeddings[truth.target], vector) for name, vector in embeddings.items()}
        values = {}
        for source in truth.sources:
            with suppress(SelectionError):  # no other target was measured from it
                values[source] = pivot_score(source, known, alike, truth.target)
        found[truth.target] = Predicted(values, 0.0)
    return found


def of_members(predicted: Mapping[str, Predicted], truths: Sequence[Truth], how: Callable) -> dict[str, Predicted]:
    """Predicts sets of sources from the scores of their members."""
    found = {}
    for truth in truths:
        if truth.target in predicted:
            scores = predicted[truth.target].scores
            sets = {name: [scores[one] for one in name.split("+") if one in scores] for name in truth.sources}
            found[truth.target] = Predicted({name: float(how(values)) for name, values in sets.items() if values})
    return found


def read_published(path: Path) -> tuple[list[Truth], dict[str, dict[str, Predicted]]]:
    """Reads the 14 x 14 RoBERTa-base matrix and makes the estimates that need nothing else."""
    with path.open(newline="") as file:
        cells = {
            (_task(row["dir_name"]), _task(row["file_name"])): float(row["value"])
            for row in csv.DictReader(file)
            if row["dir_name"].endswith("PromptRoberta") and row["file_name"].endswith("PromptRoberta")
        }
    tasks = sorted({source for source, _ in cells})
    if missing := [(s, t) for s in tasks for t in tasks if (s, t) not in cells]:
        raise DataError(f"{path}: no value of {missing[0][0]} on {missing[0][1]}; give the complete matrix")
    matrix = np.array([[cells[source, target] for target in tasks] for source in tasks])
    truths, own, pivots = [], {}, {}
    transfer = np.where(np.eye(len(tasks), dtype=bool), np.nan, matrix)
    profile = (transfer - np.nanmean(transfer, axis=0)) / np.nanstd(transfer, axis=0)  # (source, target)
    for t, target in enumerate(tasks):
        others = [i for i in range(len(tasks)) if i != t]
        names = tuple(tasks[i] for i in others)
        truths.append(Truth(target, names, matrix[others, t][:, None]))
        own[target] = Predicted({tasks[i]: float(matrix[i, i]) for i in others})
        gains = {(tasks[p], tasks[s]): float(matrix[s, p]) for p in others for s in others if s != p}
        alike = {tasks[p]: _alike(profile, t, p) for p in others}
        pivots[target] = Predicted({name: pivot_score(name, gains, alike, target) for name in names})
    return truths, {"source_accuracy": own, "pivot_profile": pivots}


def _alike(profile: np.ndarray, target: int, pivot: int) -> float:
    """Correlation of what two tasks do as sources, on all other tasks; nothing that was measured on the target."""
    others = [q for q in range(len(profile)) if q not in (target, pivot)]
    return float(np.corrcoef(profile[target, others], profile[pivot, others])[0, 1])


def _task(name: str) -> str:
    return name.removesuffix("PromptRoberta")


def table(truths: Sequence[Truth], scores: Mapping[str, Mapping[str, Predicted]]) -> dict[str, Any]:
    """Judges all estimators and compares the planner with each, in pairs of targets."""
    rows = references(truths, related_targets(truth.target for truth in truths))
    names = {row.name for row in rows}
    rows += [judge(name, truths, one) for name, one in scores.items() if name not in names]
    best = next((row for row in rows if row.name == PLANNER), None)
    return {
        "targets": len(truths), "pairs": sum(len(truth.sources) for truth in truths),
        "seeds": sorted({truth.results.shape[1] for truth in truths}),
        "rows": [row.to_dict() for row in rows], "planner": PLANNER if best else None,
        "planner_minus": differences(rows, best) if best else {},
    }  # fmt: skip


def noise(truths: Sequence[Truth]) -> dict[str, Any]:
    """Returns how much of the truth is noise, and how often transfer hurts."""
    gains = np.concatenate([truth.gains.mean(axis=1) for truth in truths])
    found: dict[str, Any] = {"negative_share": float((gains < 0).mean()), "median_gain": float(np.median(gains))}
    agreed = [sign_auc(np.zeros(len(truth.sources)), truth.gains) for truth in truths]
    for name in ("positive", "negative", "disputed"):
        found[f"{name}_pairs"] = sum(getattr(one, name) for one in agreed)
    if all(truth.results.shape[1] > 1 for truth in truths):
        found["sd_over_seeds"] = {t.target: float(t.results.std(axis=1, ddof=1).mean()) for t in truths}
        found["ceiling"] = {t.target: split_half_ceiling(t.results).ceiling for t in truths}
    return found


def markdown(result: Mapping[str, Any]) -> str:
    """Returns the table for people, best Spearman first."""
    head = "| estimator | Spearman | NDCG | regret@1 | @3 | @5 | AUC | coverage | conformal | s per target | cost |"
    lines = [head, "|---|" + "---|" * (head.count("|") - 2)]
    rows = sorted(result["rows"], key=lambda row: -row["figures"].get("spearman", -9.0))
    for row in rows:
        figures = [_short(row["figures"].get(name)) for name in COLUMNS]
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f}"
        share = "" if row["cost_share"] is None else f"{row['cost_share']:.1%}"
        note = "" if row["scored"] > 0.999 else f" ({row['scored']:.0%} of pairs)"
        lines.append(f"| {row['name']}{note} | {' | '.join([*figures, seconds, share])} |")
    return "\n".join(lines)


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}".replace("-", "−")


def judged_sets(rows: Sequence[Row], scores: Mapping[str, Mapping[str, Predicted]]) -> dict[str, Any]:
    """Judges predictions of sets: those made for sets, and the greatest and mean score of the members."""
    truths, facts = read_truths(rows, lambda row: row["n_sources"] > 1)
    if not truths:
        return {}
    names = {name for truth in truths for name in truth.sources}
    single: dict[str, dict[str, list[float]]] = {row["target"]: {} for row in rows}
    for row in rows:
        if row["n_sources"] == 1:
            single[row["target"]].setdefault(row["sources"], []).append(row["score"])
    measured = {t: Predicted({s: float(np.mean(v)) for s, v in cells.items()}) for t, cells in single.items() if cells}
    made: dict[str, Mapping[str, Predicted]] = {}
    for name, by in {**scores, "measured": measured}.items():
        if any(names & set(one.scores) for one in by.values()):
            made[name] = by
        made[f"{name} (best member)"] = of_members(by, truths, max)
        made[f"{name} (mean member)"] = of_members(by, truths, np.mean)
    single_truths, _ = read_truths(rows, lambda row: row["n_sources"] == 1)
    popular = popularity(single_truths, related_targets(truth.target for truth in single_truths))
    made["popularity (best member)"] = of_members(popular, truths, max)
    made["popularity (mean member)"] = of_members(popular, truths, np.mean)
    made["number of sources"] = {t.target: Predicted({s: s.count("+") + 1.0 for s in t.sources}, 0.0) for t in truths}
    return {**table(truths, made), **facts}


def plain(value: Any) -> Any:
    """Turns what is undefined into null, and numpy's numbers into Python's."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", type=Path, default=RESULTS / "ground_truth.parquet")
    parser.add_argument("--scores", type=Path, default=RESULTS / "ground_truth_scores.parquet")
    parser.add_argument("--reference", type=Path, help="folder that holds " + PUBLISHED)
    parser.add_argument("--out", type=Path, default=RESULTS / "transfer_quality.json")
    options = parser.parse_args()
    result: dict[str, Any] = {"question": __doc__.splitlines()[0], "provenance": record()}
    if options.truth.exists():
        rows = pq.read_table(options.truth).to_pylist()
        scores = read_scores(pq.read_table(options.scores).to_pylist()) if options.scores.exists() else {}
        seen = options.truth.with_name(f"{options.truth.stem}_seen.parquet")
        if seen.exists():
            read, past = pq.read_table(seen).to_pylist(), measured_past(options.truth, seen)
            scores[PLANNER] = planned(past, reading_seconds(read))
            for budget in sorted({row.get("budget", "") for row in read} - {""}):
                asked = measured_past(options.truth, seen, budget)
                scores[f"{PLANNER}, {budget}"] = planned(past, reading_seconds(read, budget), asked)
        truths, facts = read_truths(rows, lambda row: row["n_sources"] == 1)
        texts = options.truth.with_name(f"{options.truth.stem}_texts.parquet")
        if texts.exists():
            embeddings = {row["target"]: np.array(row["embedding"]) for row in pq.read_table(texts).to_pylist()}
            scores["pivot"] = pivots(truths, embeddings)
        result["truth"] = {**table(truths, scores), **facts, "noise": noise(truths)}
        print(f"{len(truths)} targets, {result['truth']['pairs']} pairs\n\n{markdown(result['truth'])}")
        if sets := judged_sets(rows, scores):
            result["sets"] = sets
            print(f"\nsets of sources: {sets['targets']} targets, {sets['pairs']} sets\n\n{markdown(sets)}")
    if options.reference:
        truths, scores = read_published(options.reference / PUBLISHED)
        result["published"] = table(truths, scores)
        print(f"\npublished RoBERTa-base matrix\n\n{markdown(result['published'])}")
    write_json(options.out, plain(result))
    print(f"\nwrote {options.out}")


if __name__ == "__main__":
    main()
