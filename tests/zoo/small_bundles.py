"""Small adapters made from a seed, as a training run would hand them over."""

import torch

from adaptmtl import provenance
from adaptmtl.adapters.bundle import Bundle
from adaptmtl.adapters.manifest import Manifest, adapter_name
from adaptmtl.storage import key_of

HIDDEN, RANK, LAYERS = 32, 4, 2
MODULES = [f"encoder.layer.{layer}.attention.self.{part}" for layer in range(LAYERS) for part in ("query", "value")]
LORA_CONFIG = {
    "peft_type": "LORA",
    "task_type": "FEATURE_EXTRACTION",
    "inference_mode": True,
    "base_model_name_or_path": "tiny/bert",
    "r": RANK,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "bias": "none",
    "target_modules": ["query", "value"],
}


def manifest_of(task="boolq", seed=0, **changes):
    method = changes.get("method", "lora")
    key = changes.pop("key", key_of(task=task, seed=seed, method=method))
    facts = {
        "key": key,
        "name": adapter_name(task, method, key),
        "task": {
            "name": task,
            "kind": "sequence_classification",
            "label_names": ["no", "yes"],
            "metric": "accuracy",
        },
        "method": method,
        "backbone": {
            "name": "tiny/bert",
            "hash": "b" * 20,
            "model_type": "bert",
            "hidden_size": HIDDEN,
            "n_layers": LAYERS,
        },
        "recipe": {"rank": RANK, "learning_rate": 1e-3},
        "seed": seed,
        "metrics": {
            "accuracy": {"value": 0.75, "n": 40, "low": 0.6, "high": 0.86},
            "macro_f1": {"value": 0.7421, "n": 40},
        },
        "data": {
            "origin": "hub google/boolq@main",
            "train_fingerprint": "1" * 64,
            "validation_fingerprint": "2" * 64,
            "train_rows": 1200,
            "validation_rows": 40,
            "licence": "cc-by-sa-3.0",
        },
        "cost": {
            "seconds": 12.5,
            "peak_memory_mib": 512.0,
            "steps": 100,
            "examples_seen": 3200,
            "trained_parameters": 1090,
        },
        "encoding": {"max_length": 128},
        "head": {"kind": "linear", "config": {"dropout": 0.1}},
        "probe": {
            "rows": [{"text": f"row {number}", "text_pair": None, "label": 0} for number in range(4)],
            "logits": [[0.1, -0.2], [0.3, 0.4], [1.0, -1.5], [0.0, 0.25]],
            "tolerance": 1e-4,
        },
        "provenance": {**provenance.record(), "created": "2026-01-02T03:04:05+00:00"},
    }
    return Manifest.model_validate({**facts, **changes})


def bundle_of(task="boolq", seed=0, **changes):
    draw = torch.Generator().manual_seed(seed)
    adapter = {}
    for module in MODULES:
        adapter[f"base_model.model.{module}.lora_A.weight"] = torch.randn(RANK, HIDDEN, generator=draw)
        adapter[f"base_model.model.{module}.lora_B.weight"] = torch.randn(HIDDEN, RANK, generator=draw)
    head = {"weight": torch.randn(2, HIDDEN, generator=draw), "bias": torch.zeros(2)}
    signature = {"mean": torch.randn(HIDDEN, generator=draw)}
    return Bundle(manifest_of(task, seed, **changes), dict(LORA_CONFIG), adapter, head, signature)
