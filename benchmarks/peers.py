"""The peers of the speed benchmarks: peft + transformers.Trainer, and adapters (AdapterHub) + AdapterTrainer.

Both get what our engine gets: the same tokenised rows, batch size, epochs, optimiser, schedule, and the same LoRA on
the same layers; and the settings that make them fast: batches grouped by length as far as our engine's are, rows
tokenised beforehand, no evaluation, logging or saving, the fused optimiser; and what is faster of the choices that a
:class:`Peer` has: bf16, another attention, padding to a few lengths, steps in smaller pieces.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers

from adaptmtl.adapters.methods import LoraWeights
from adaptmtl.tasks.encoded import EncodedRows
from adaptmtl.training.batches import BATCHES_PER_BUCKET, training_units
from adaptmtl.training.data import PreparedSplit, TaskData
from adaptmtl.training.recipe import Recipe
from adaptmtl.training.score import score

IGNORED = -100
MODELS = {
    "sequence_classification": "AutoModelForSequenceClassification",
    "multi_label_classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "multiple_choice": "AutoModelForMultipleChoice",
    "token_classification": "AutoModelForTokenClassification",
    "question_answering": "AutoModelForQuestionAnswering",
}
PEFT_TASKS = {
    "sequence_classification": "SEQ_CLS",
    "multi_label_classification": "SEQ_CLS",
    "regression": "SEQ_CLS",
    "multiple_choice": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "question_answering": "QUESTION_ANS",
}
HEADS = ("classifier", "qa_outputs")


@dataclass(frozen=True)
class Peer:
    """One way of training the LoRA with somebody else's tools.

    Attributes:
        library: "peft" or "adapters".
        bf16: autocast to bf16.
        dropout: keep the model's own dropout, as the libraries do unless told otherwise; our engine has none in a
            frozen encoder.
        eager: attention as plain products, not torch's own kernel.
        pad_to: batches are padded to a multiple of so many tokens.
        pieces: parts that a step is cut into; their gradients accumulate.
    """

    library: str
    bf16: bool
    dropout: bool
    eager: bool = False
    pad_to: int = 1
    pieces: int = 1

    @classmethod
    def of(cls, library: str, variant: str) -> Peer:
        """Reads "bf16, eager, pad 16, in 4, no dropout", of which only the first part must be there."""
        parts = variant.split(", ")
        numbers = {name: int(value) for name, _, value in (part.rpartition(" ") for part in parts) if value.isdecimal()}
        return cls(library, "bf16" in parts, "no dropout" not in parts, "eager" in parts, numbers.get("pad", 1),
                   numbers.get("in", 1))  # fmt: skip

    @property
    def name(self) -> str:
        """Says all of them."""
        parts = (
            "bf16" if self.bf16 else "fp32", "eager" * self.eager, f"pad {self.pad_to}" * (self.pad_to > 1),
            f"in {self.pieces}" * (self.pieces > 1), "no dropout" * (not self.dropout),
        )  # fmt: skip
        return f"{self.library} {', '.join(filter(None, parts))}"


def train(
    peer: Peer, data: TaskData, recipe: Recipe, seed: int, *, most_steps: int = -1, start: LoraWeights | None = None
) -> dict[str, Any]:
    """Trains a LoRA with a peer and scores it on the validation rows.

    Args:
        peer: how.
        data: tokenised rows.
        recipe: of our engine; LoRA in the layers from ``lower_layers`` up.
        seed: of everything.
        most_steps: stop after so many steps; then nothing is scored.
        start: LoRA weights to begin from (peft only).

    Returns:
        seconds and cpu_seconds (from loading the model to the last step), quality (the task's main metric), steps,
        trained_parameters.
    """
    _quiet()
    _fresh()
    rows = features(data.train.encoded, training_units(data.train.encoded))
    standard = _standard(data)
    if standard is not None:
        rows = [{**row, "labels": (row["labels"] - standard[0]) / standard[1]} for row in rows]
    torch.manual_seed(seed)
    started, before = time.perf_counter(), time.process_time()
    model, trainer_class = build(peer, data, recipe)
    load(model, start or {})
    arguments = training_arguments(peer, recipe, seed, recipe.steps_for(len(rows)) if most_steps < 0 else most_steps)
    trainer = _grouped(trainer_class)(
        model=model, args=arguments, train_dataset=rows,
        data_collator=partial(collate, kind=data.spec.kind, pad_to=peer.pad_to),
    )  # fmt: skip
    trainer.train()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    _fresh()
    result = {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - before,
        "steps": int(trainer.state.global_step),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
    if most_steps < 0:
        outputs = outputs_of(model, data, data.validation, peer.bf16)
        outputs = outputs if standard is None else outputs * standard[1] + standard[0]
        result["quality"] = score(data, data.validation, outputs).values[data.spec.main_metric]
    return result


def build(peer: Peer, data: TaskData, recipe: Recipe) -> tuple[torch.nn.Module, type]:
    """Returns the model with its LoRA, and the Trainer class that goes with it."""
    spec, backbone = data.spec, data.train.backbone
    options: dict[str, Any] = {}
    if spec.label_names:
        options["num_labels"] = len(spec.label_names)
    if spec.kind == "regression":
        options = {"num_labels": 1, "problem_type": "regression"}
    if spec.kind == "multi_label_classification":
        options["problem_type"] = str(spec.kind)
    if peer.eager:
        options["attn_implementation"] = "eager"
    if not peer.dropout:
        options |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = getattr(transformers, MODELS[spec.kind]).from_pretrained(backbone.path, local_files_only=True, **options)
    k, method = recipe.layers_below(backbone), recipe.method
    if peer.library == "peft":
        import peft

        config = peft.LoraConfig(
            r=method.rank, lora_alpha=method.alpha, lora_dropout=0.0, bias="none", task_type=PEFT_TASKS[spec.kind],
            target_modules=[f"{model.base_model_prefix}.{name}" for name in method.modules(backbone, k)],
            modules_to_save=[name for name in HEADS if hasattr(model, name)],
        )  # fmt: skip
        return peft.get_peft_model(model, config), transformers.Trainer
    import adapters

    adapters.init(model)
    everywhere = method.targets == "all"
    model.add_adapter("task", config=adapters.LoRAConfig(
        r=method.rank, alpha=method.alpha, dropout=0.0, attn_matrices=["q", "v"], selfattn_lora=True,
        intermediate_lora=everywhere, output_lora=everywhere, leave_out=list(range(k)),
    ))  # fmt: skip
    model.train_adapter("task")
    return model, adapters.AdapterTrainer


def load(model: torch.nn.Module, weights: LoraWeights) -> None:
    """Copies LoRA weights into a peft model, with or without a task's head around its encoder."""
    inner: Any = model
    for name, (a, b) in weights.items():
        prefix = inner.base_model.model.base_model_prefix
        bare = not hasattr(inner.base_model.model, prefix)
        module = inner.base_model.model.get_submodule(name if bare else f"{prefix}.{name}")
        with torch.no_grad():
            module.lora_A["default"].weight.copy_(a)
            module.lora_B["default"].weight.copy_(b)


def reader(data: TaskData, config: Any) -> torch.nn.Module:
    """Returns a peft model without a head, whose adapter :func:`load` exchanges."""
    import peft

    _quiet()
    plain = transformers.AutoModel.from_pretrained(data.train.backbone.path, local_files_only=True)
    return peft.get_peft_model(plain, config).eval().to("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def mean_features(model: torch.nn.Module, data: TaskData, bf16: bool) -> np.ndarray:
    """Returns the mean hidden state of every training feature through a peft model, (features, hidden)."""
    encoded, device = data.train.encoded, next(model.parameters()).device
    out = np.zeros((encoded.n_features, data.train.backbone.hidden_size), dtype=np.float32)
    order = np.argsort(encoded.lengths, kind="stable")
    single = replace(encoded, unit_offsets=np.arange(encoded.n_features + 1), labels=None)
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        batch = {name: value.to(device) for name, value in collate(features(single, chosen)).items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][:, :, None]
        out[chosen] = ((hidden * mask).sum(1) / mask.sum(1)).float().cpu().numpy()
    return out


def training_arguments(peer: Peer, recipe: Recipe, seed: int, steps: int) -> transformers.TrainingArguments:
    """Returns the fastest settings that keep the training what it is."""
    import tempfile

    cuda = torch.cuda.is_available()
    return transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=recipe.batch_size // peer.pieces, max_steps=steps,
        gradient_accumulation_steps=peer.pieces,
        learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay, warmup_ratio=recipe.warmup,
        max_grad_norm=recipe.clip, lr_scheduler_type="linear", optim="adamw_torch_fused", group_by_length=True,
        logging_strategy="no", save_strategy="no", eval_strategy="no", report_to=[], disable_tqdm=True,
        log_level="error", dataloader_num_workers=0, dataloader_pin_memory=cuda, remove_unused_columns=False, seed=seed,
        bf16=peer.bf16, tf32=True if cuda and not peer.bf16 else None, use_cpu=not cuda, logging_nan_inf_filter=False,
    )  # fmt: skip


def features(encoded: EncodedRows, units: np.ndarray) -> list[dict[str, Any]]:
    """Returns units as the dictionaries that transformers trains on, lists of whole numbers ready to pad."""
    ids = encoded.input_ids.astype(np.int64)
    types = None if encoded.token_type_ids is None else encoded.token_type_ids.astype(np.int64)
    found = []
    for unit in units:
        parts = range(int(encoded.unit_offsets[unit]), int(encoded.unit_offsets[unit + 1]))
        slices = [slice(int(encoded.offsets[i]), int(encoded.offsets[i + 1])) for i in parts]
        row: dict[str, Any] = {"input_ids": [ids[one] for one in slices]}
        if types is not None:
            row["token_type_ids"] = [types[one] for one in slices]
        if encoded.labels is not None:
            row["labels"] = _label(encoded, int(unit), slices[0])
        found.append(row)
    return found


def collate(rows: list[dict[str, Any]], kind: str | None = None, pad_to: int = 1) -> dict[str, torch.Tensor]:
    """Pads rows to the longest of the batch, or to the next multiple; choices become a dimension of their own."""
    texts = [one for row in rows for one in row["input_ids"]]
    longest = max(len(one) for one in texts)
    if torch.cuda.is_available():
        pad_to = max(pad_to, 8)  # what tensor cores like
    longest = -(-longest // pad_to) * pad_to
    batch: dict[str, torch.Tensor] = {}
    mask = np.zeros((len(texts), longest), dtype=np.int64)
    for name in ("input_ids", "token_type_ids"):
        if name in rows[0]:
            padded = np.zeros((len(texts), longest), dtype=np.int64)
            for row, one in enumerate(one for each in rows for one in each[name]):
                padded[row, : len(one)] = one
                mask[row, : len(one)] = 1
            batch[name] = torch.from_numpy(padded)
    batch["attention_mask"] = torch.from_numpy(mask)
    choices = len(texts) // len(rows)
    if choices > 1:
        batch = {name: value.view(len(rows), choices, longest) for name, value in batch.items()}
    if kind is not None:
        batch |= _collate_labels([row["labels"] for row in rows], kind, longest)
    return batch


@torch.inference_mode()
def outputs_of(model: torch.nn.Module, data: TaskData, split: PreparedSplit, bf16: bool) -> np.ndarray:
    """Runs a peer's model over a split; outputs are laid out as :func:`adaptmtl.tasks.decode.decode` wants them."""
    model.eval()
    device = next(model.parameters()).device
    encoded, kind = split.encoded, data.spec.kind
    found: dict[int, np.ndarray] = {}
    order = np.argsort(encoded.lengths, kind="stable")
    single = replace(encoded, unit_offsets=np.arange(encoded.n_features + 1), labels=None)
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        batch = {name: value.to(device) for name, value in collate(features(single, chosen)).items()}
        if kind == "multiple_choice":
            batch = {name: value[:, None] for name, value in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            result = model(**batch)
        values = (
            torch.stack([result.start_logits, result.end_logits], -1) if "start_logits" in result else result.logits
        )
        for feature, value in zip(chosen, values.float().cpu().numpy(), strict=True):
            found[int(feature)] = value
    ordered = [found[i] for i in range(encoded.n_features)]
    if kind in ("token_classification", "question_answering"):
        return np.concatenate([one[:n] for one, n in zip(ordered, encoded.lengths, strict=True)])
    return np.stack(ordered)


def _grouped(trainer_class: type) -> type:
    """Returns the Trainer class with group_by_length working on rows of any kind.

    Its own sampler sorts within so few batches, where rows are few, that up to half of what it computes is padding;
    here it sorts within as many as our engine does.
    """

    class Grouped(trainer_class):  # type: ignore[misc, valid-type]
        def log(self, *_, **__):  # type: ignore[no-untyped-def]
            pass

        def _get_train_sampler(self, train_dataset=None):  # type: ignore[no-untyped-def]
            rows = self.train_dataset if train_dataset is None else train_dataset
            lengths = [max(len(one) for one in row["input_ids"]) for row in rows]
            bucket = BATCHES_PER_BUCKET * self.args.gradient_accumulation_steps
            return _Sorted(lengths, self.args.train_batch_size, bucket, self.args.seed)

    return Grouped


class _Sorted(torch.utils.data.Sampler):
    """Draws every epoch anew, sorted by length within as many steps as our engine does, the longest batch first."""

    def __init__(self, lengths: list[int], batch_size: int, bucket: int, seed: int):
        self.lengths, self.batch_size, self.bucket = lengths, batch_size, bucket
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Any:
        from transformers.trainer_pt_utils import get_length_grouped_indices

        return iter(get_length_grouped_indices(self.lengths, self.batch_size, self.bucket, self.generator))


def _label(encoded: EncodedRows, unit: int, part: slice) -> Any:
    assert encoded.labels is not None
    if encoded.kind == "token_classification":
        return encoded.labels[part]
    index = int(encoded.unit_offsets[unit]) if encoded.kind == "question_answering" else unit
    return encoded.labels[index]


def _collate_labels(labels: list[Any], kind: str, longest: int) -> dict[str, torch.Tensor]:
    if kind == "question_answering":
        starts, ends = np.array(labels, dtype=np.int64).T.copy()
        return {"start_positions": torch.from_numpy(starts), "end_positions": torch.from_numpy(ends)}
    if kind != "token_classification":
        real = kind in ("regression", "multi_label_classification")
        return {"labels": torch.from_numpy(np.array(labels, np.float32 if real else np.int64))}
    padded = np.full((len(labels), longest), IGNORED, dtype=np.int64)
    for row, one in enumerate(labels):
        padded[row, : len(one)] = one
    return {"labels": torch.from_numpy(padded)}


def _standard(data: TaskData) -> tuple[float, float] | None:
    labels = data.train.encoded.labels
    if data.spec.kind != "regression" or labels is None:
        return None
    return float(np.mean(labels)), max(float(np.std(labels)), 1e-6)


def _fresh() -> None:
    """Forgets the precision that an earlier Trainer of this process left in accelerate's state and environment."""
    from accelerate.state import AcceleratorState

    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
    AcceleratorState._reset_state(reset_partial_state=True)


def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    logging.getLogger("adapters").setLevel(logging.ERROR)
