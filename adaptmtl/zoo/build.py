"""Trains adapters and puts them in the zoo; one that is there already is not trained again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from adaptmtl.adapters.bundle import Bundle
from adaptmtl.adapters.heads import make_head
from adaptmtl.adapters.manifest import (
    BackboneFacts,
    CostFacts,
    DataFacts,
    EncodingFacts,
    Figure,
    HeadFacts,
    Manifest,
    SourceFacts,
    TaskFacts,
    adapter_name,
)
from adaptmtl.adapters.methods import LoraMethod, LoraWeights, peft_state
from adaptmtl.backbone.load import Backbone
from adaptmtl.backbone.precision import default_dtype
from adaptmtl.errors import AdapterError
from adaptmtl.provenance import Cost, measured, record
from adaptmtl.registry import name_list, seed_list
from adaptmtl.statistics import interval
from adaptmtl.tasks.metrics import metrics
from adaptmtl.training.adapter import Trained, train_adapter
from adaptmtl.training.checkpoint import until_published
from adaptmtl.training.data import TaskData
from adaptmtl.training.features import mean_features
from adaptmtl.training.loop import accelerator
from adaptmtl.training.model import lora_model
from adaptmtl.training.restore import probe_facts
from adaptmtl.training.score import Scored, evaluate
from adaptmtl.training.setup import Setup
from adaptmtl.zoo.index import Entry
from adaptmtl.zoo.store import Zoo

#: Training rows whose mean embedding stands for a task's texts.
EMBEDDED_ROWS = 256


def train_adapters(
    setup: Setup, tasks: Sequence[str], *, rows: int | None = None, seeds: int | Sequence[int] = 1
) -> list[Entry]:
    """Trains one adapter per task and seed; those that the zoo holds are returned as they are.

    Args:
        setup: backbone, recipe, encoding.
        tasks: names from the catalogue.
        rows: at most so many training rows per task; None for all.
        seeds: of heads, row order and dropout: how many (0, 1, ...), or which.

    Returns:
        The zoo's entries, task by task, seed by seed.

    Raises:
        UnknownNameError: a task that does not exist; nothing is trained then.
        DataError: rows are missing or malformed.
    """
    wanted, numbers = name_list(tasks, "tasks"), seed_list(seeds)
    for task in wanted:
        setup.catalogue.task(task)
    entries = []
    for task in wanted:
        for seed in numbers:
            entries.append(ensure_adapter(setup, task, rows, seed))
    return entries


def adapter_key(setup: Setup, task: str, rows: int | None, seed: int) -> str:
    """Returns the key of a task's adapter: a hash of all that it depends on."""
    return setup.key("adapter", task=task, data=setup.data(task, rows).identity, seed=seed)


def ensure_adapter(setup: Setup, task: str, rows: int | None, seed: int) -> Entry:
    """Returns a task's adapter from the zoo, training it first where it is not there."""
    zoo = Zoo(setup.workspace)
    data = setup.data(task, rows)
    key = adapter_key(setup, task, rows, seed)
    if (held := held_adapter(zoo, key)) is not None:
        setup.workspace.reporter.say(f"{task}: in the zoo as {held.name}")
        return held
    for note in data.notes:
        setup.workspace.reporter.say(f"{task}: {note}")
    with until_published():
        with measured() as cost:
            trained = train_adapter(setup.workspace, setup.backbone, data, setup.recipe, seed)
            scored = evaluate(trained, setup.workspace, data)
        cost.add(trained.log.earlier)
        assert trained.weights is not None
        entry = zoo.add(make_bundle(setup, data, trained, scored, cost, key=key, method="lora", seed=seed))
    main = data.spec.main_metric
    setup.workspace.reporter.say(
        f"{task}: {main} {scored.values[main]:.3f} on {len(data.validation.rows)} rows, {cost.seconds:.0f} s"
    )
    return entry


def held_adapter(zoo: Zoo, key: str) -> Entry | None:
    """Returns the zoo's adapter of that key when its files are sound, else None (it is then made again)."""
    entry = next((one for one in zoo.entries() if one.key == key), None)
    if entry is None:
        return None
    try:
        entry.load()
    except AdapterError:
        return None
    return entry


def make_bundle(
    setup: Setup, data: TaskData, trained: Trained, scored: Scored, cost: Cost, *,
    key: str, method: str, seed: int, sources: Sequence[SourceFacts] = (), lora: LoraMethod | None = None,
    fusion: str | None = None,
) -> Bundle:  # fmt: skip
    """Puts everything together that is saved of an adapter.

    Args:
        setup: what it was trained with.
        data: the task's rows.
        trained: model and weights.
        scored: figures on the validation rows.
        cost: of making it.
        key: hash of what it depends on.
        method: "lora", or how it was fused.
        seed: it was trained with.
        sources: of a fused adapter.
        lora: its shape, where that differs from the recipe's.
        fusion: the fusion method of a fused adapter.
    """
    backbone, spec = setup.backbone, data.spec
    assert trained.weights is not None
    config = (lora or setup.recipe.method).config(backbone, setup.recipe.layers_below(backbone))
    head = trained.model.head
    manifest = Manifest(
        key=key,
        name=adapter_name(spec.name, method, key),
        task=TaskFacts(
            name=spec.name,
            kind=spec.kind,
            label_names=spec.label_names,
            metric=spec.main_metric,
            language=spec.language,
            inputs=spec.inputs,
        ),
        method=method,
        backbone=backbone_facts(backbone),
        recipe={**setup.recipe.to_dict(), "lower_layers": setup.recipe.layers_below(backbone)},
        seed=seed,
        metrics=figures(scored),
        data=DataFacts(
            origin=data.origin,
            train_fingerprint=data.fingerprint["train"],
            validation_fingerprint=data.fingerprint["validation"],
            train_rows=data.n_train,
            validation_rows=len(data.validation.rows),
            licence=spec.licence,
        ),
        sources=tuple(sources),
        cost=CostFacts(
            seconds=cost.seconds,
            peak_memory_mib=cost.peak_memory_mib,
            steps=trained.log.steps,
            examples_seen=trained.log.rows,
            trained_parameters=trained.trained_parameters,
        ),
        encoding=EncodingFacts(
            max_length=data.encoding.max_length,
            stride=data.encoding.stride,
        ),
        head=HeadFacts(kind=str(spec.kind), config={"outputs": head.output.out_features, "settings": scored.settings}),
        probe=probe_facts(config, trained.weights, head, spec, backbone, data.encoding),
        provenance=record(dtype=str(default_dtype()), tokens_seen=trained.log.tokens, fusion=fusion),
    )
    return Bundle(
        manifest=manifest,
        lora_config=config.to_dict(),
        adapter=peft_state(trained.weights),
        head={name: value.detach().cpu().clone() for name, value in head.state_dict().items()},
        signature=signature(setup, data, trained.weights),
    )


def backbone_facts(backbone: Backbone) -> BackboneFacts:
    """Returns what the manifest says of the backbone."""
    return BackboneFacts(
        name=backbone.name, hub_id=backbone.hub_id, hash=backbone.hash, model_type=backbone.model_type,
        hidden_size=backbone.hidden_size, n_layers=backbone.n_layers,
    )  # fmt: skip


def figures(scored: Scored) -> dict[str, Figure]:
    """Returns every metric with its 95% interval over the validation rows."""
    out = {}
    for name, statistics in scored.statistics.items():
        bounds = interval(statistics[None], metrics[name].score, limits=(metrics[name].lowest, 1.0))
        finite = np.isfinite([bounds.low, bounds.high]).all()
        out[name] = Figure(
            value=scored.values[name], n=len(statistics),
            low=bounds.low if finite else None, high=bounds.high if finite else None,
        )  # fmt: skip
    return out


def signature(setup: Setup, data: TaskData, weights: LoraWeights) -> dict[str, Tensor]:
    """Returns what estimators need of an adapter besides its weights.

    ``text_embedding`` (hidden,) is the mean embedding of the task's training texts by the plain backbone;
    ``update_norms`` (modules,) are the Frobenius norms of B A, module by module in the order of names.
    """
    norms = [_norm(*weights[name]) for name in sorted(weights)]
    return {"text_embedding": text_embedding(setup, data), "update_norms": torch.tensor(norms)}


def text_embedding(setup: Setup, data: TaskData) -> Tensor:
    """Returns the mean embedding of up to 256 training rows by the plain backbone, (hidden,)."""
    rows = data.train.rows.take(range(min(EMBEDDED_ROWS, len(data.train.rows))))
    part = type(data.train)(rows, data.spec, setup.backbone, data.encoding)
    head = make_head(data.spec, setup.backbone.hidden_size, None, 0)
    device = accelerator().device
    plain = lora_model(setup.backbone, setup.recipe.method, 0, head, default_dtype()).model.to(device)
    return torch.from_numpy(mean_features(plain, part.encoded, None, device).mean(axis=0))


def _norm(a: Tensor, b: Tensor) -> float:
    gram = (b.detach().T @ b.detach()) * (a.detach() @ a.detach().T)
    return float(gram.sum().clamp(min=0).sqrt())
