"""The model card of an adapter, written from its manifest: only what was measured stands in it."""

from __future__ import annotations

import re
from typing import Any

import yaml

from adaptmtl.adapters.manifest import Figure, Manifest
from adaptmtl.tasks.kind import kinds

#: The Hub's own names of our metrics, where they differ.
_HUB_METRICS = {"macro_f1": "f1", "matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr",
                "entity_f1": "seqeval", "squad_f1": "f1", "squad_em": "exact_match"}  # fmt: skip
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")
_HUB_ORIGIN = re.compile(r"^hub ([\w.\-]+(?:/[\w.\-]+)?)")


def render_card(manifest: Manifest, repo_id: str | None = None) -> str:
    """Returns the text of README.md.

    Args:
        manifest: of the adapter.
        repo_id: where it stands on the Hub, for the lines on usage; without it they name a local folder.
    """
    front = yaml.safe_dump(_front_matter(manifest), sort_keys=False, allow_unicode=True, width=1000)
    sections = (_summary, _results, _sources, _data, _training, _labels)
    body = [part for section in sections if (part := section(manifest))]
    body.append(_usage(manifest, repo_id))
    return f"---\n{front}---\n\n" + "\n\n".join(body) + "\n"


def _front_matter(manifest: Manifest) -> dict[str, Any]:
    task, hub = manifest.task, _HUB_ORIGIN.match(manifest.data.origin)
    metrics = [
        {"type": _HUB_METRICS.get(name, name), "name": name, "value": figure.value}
        for name, figure in _main_first(manifest)
    ]
    pipeline = kinds[task.kind].hub_pipeline if task.kind in kinds else None
    front: dict[str, Any] = {
        "library_name": "peft",
        **({"base_model": base_model} if (base_model := _base_model(manifest)) else {}),
        "language": task.language,
        **({"pipeline_tag": pipeline} if pipeline else {}),
        "tags": ["adaptmtl", "adapter", "lora", *([] if manifest.method == "lora" else [manifest.method])],
    }
    if hub:
        front["datasets"] = [hub[1]]
    if metrics:
        kind = {"type": pipeline or task.kind}
        dataset = {"type": hub[1] if hub else task.name, "name": task.name, "split": "validation"}
        result = {"task": kind, "dataset": dataset, "metrics": metrics}
        front["model-index"] = [{"name": manifest.name, "results": [result]}]
    return front


def _summary(manifest: Manifest) -> str:
    count = len(manifest.sources)
    how = f"fused from {count} adapter{'s' if count > 1 else ''}" if count else "trained"
    return (
        f"# {manifest.name}\n\n"
        f"A `{manifest.method}` adapter for the task **{_text(manifest.task.name)}** "
        f"({manifest.task.kind.replace('_', ' ')}) on the backbone `{_code(manifest.backbone.name)}` "
        f"({manifest.backbone.model_type}, {manifest.backbone.n_layers} layers of {manifest.backbone.hidden_size}), "
        f"{how} with AdaptMTL."
    )


def _results(manifest: Manifest) -> str:
    if not manifest.metrics:
        return "## Results\n\nNo metric was measured."
    lines = [
        f"| {_text(name)} | {_number(figure.value)} | {_interval(figure)} | {figure.n} | {manifest.seed} |"
        for name, figure in _main_first(manifest)
    ]
    return (
        "## Results\n\n"
        "| metric | value | 95% interval | n (validation rows) | seed |\n|---|---|---|---|---|\n"
        + "\n".join(lines)
        + "\n\n"
        "The interval covers the choice of rows, not of the seed; no choice looked at these rows."
    )


def _sources(manifest: Manifest) -> str:
    if not manifest.sources:
        return ""
    lines = [f"| {_text(one.name)} | `{_code(one.key)}` | {_number(one.weight)} |" for one in manifest.sources]
    warnings = [
        f"**The figures above may be too good:** {_text(one.name)} was used although {_text(one.overlap)}."
        for one in manifest.sources if one.overlap
    ]  # fmt: skip
    table = "## Sources\n\n| adapter | key | weight |\n|---|---|---|\n" + "\n".join(lines)
    return "\n\n".join([table, *warnings])


def _data(manifest: Manifest) -> str:
    data = manifest.data
    return (
        "## Data\n\n"
        f"- origin: {_text(data.origin)}\n"
        f"- licence of the data: {_text(data.licence)}\n"
        f"- rows: {data.train_rows:,} for training, {data.validation_rows:,} for the figures above\n"
        f"- fingerprints: training `{_code(data.train_fingerprint)}`, validation `{_code(data.validation_fingerprint)}`"
    )


def _training(manifest: Manifest) -> str:
    cost = manifest.cost
    machine = manifest.provenance.get("machine")
    where = f" on {_text(str(machine.get('processor', 'an unnamed machine')))}" if isinstance(machine, dict) else ""
    settings = "\n".join(f"- {_text(key)}: {_text(str(value))}" for key, value in sorted(manifest.recipe.items()))
    return (
        "## Training\n\n"
        "| seconds | peak memory (MiB) | steps | examples seen | trained parameters |\n|---|---|---|---|---|\n"
        f"| {cost.seconds:,.1f} | {cost.peak_memory_mib:,.0f} | {cost.steps:,} | {cost.examples_seen:,} "
        f"| {cost.trained_parameters:,} |\n\n"
        f"Measured{where}, seed {manifest.seed}, features of at most {manifest.encoding.max_length} tokens."
        + (f" Settings:\n\n{settings}" if settings else "")
    )


def _labels(manifest: Manifest) -> str:
    if not manifest.task.label_names:
        return ""
    lines = [f"{number}. {_text(name)}" for number, name in enumerate(manifest.task.label_names)]
    return "## Labels\n\nIn the order of the head's outputs:\n\n" + "\n".join(lines)


def _usage(manifest: Manifest, repo_id: str | None) -> str:
    base_model = _base_model(manifest) or "path/to/the/backbone"
    if repo_id:
        fetch = f'from adaptmtl.zoo.hub import pull\n\nentry = pull("{repo_id}", Workspace())'
    else:
        fetch = f'from adaptmtl.zoo.store import Zoo\n\nentry = Zoo(Workspace()).get("{manifest.name}")'
    return f"""## Usage

With AdaptMTL (adapter and head; every file is verified against its sha256):

```python
from adaptmtl.workspace import Workspace
{fetch}
bundle = entry.load()
```

The hidden states in plain `peft` (the head is in `head.safetensors`):

```python
from peft import PeftModel
from transformers import AutoModel

backbone = AutoModel.from_pretrained("{base_model}")
model = PeftModel.from_pretrained(backbone, "{repo_id or f"path/to/{manifest.key}"}")
```

The backbone must be the one with hash `{_code(manifest.backbone.hash)}`."""


def _main_first(manifest: Manifest) -> list[tuple[str, Figure]]:
    return sorted(manifest.metrics.items(), key=lambda item: (item[0] != manifest.task.metric, item[0]))


def _base_model(manifest: Manifest) -> str | None:
    """The backbone's id on the Hub; None for a folder of one machine."""
    backbone = manifest.backbone
    return backbone.hub_id or (backbone.name if _HUB_ID.fullmatch(backbone.name) else None)


def _interval(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return "not computed"
    return f"{_number(figure.low)} to {_number(figure.high)}"


def _number(value: float) -> str:
    return f"{value:.4g}" if value and abs(value) < 1e-3 else f"{value:.4f}"


def _text(value: str) -> str:
    """Makes a value that came from elsewhere safe inside Markdown text and tables."""
    return re.sub(r"([\\`*_\[\]<>|#!])", r"\\\1", " ".join(value.split()))


def _code(value: str) -> str:
    return " ".join(value.split()).replace("`", "'").replace("|", "/")
