"""Output layers: what each kind of task is learned with, kept apart from what is merged.

Every head maps hidden states (features, tokens, hidden) to outputs, and outputs with labels to a loss. Sequence heads
read the mean over a feature's tokens, token heads read every token. Other packages add the heads of their kinds through
the entry-point group ``adaptmtl.heads``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptmtl.registry import Registry
from adaptmtl.tasks.encoded import EncodedRows
from adaptmtl.tasks.kind import IGNORED
from adaptmtl.tasks.spec import TaskSpec


@dataclass(frozen=True)
class Batch:
    """Padded features of some units of one split.

    Attributes:
        features: (features,) their indices in the split, in order.
        input_ids, attention_mask: (features, tokens) int64.
        token_type_ids: (features, tokens) int64 or None.
        states: (features, tokens, hidden) fp32, or None when the whole encoder runs.
        labels: by kind, see :class:`~adaptmtl.tasks.encoded.EncodedRows`; those of tokens are padded with -100
            to (features, tokens).
        sizes: (units,) features per unit.
    """

    features: np.ndarray
    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor | None
    states: Tensor | None
    labels: Tensor | None
    sizes: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens without padding."""
        return int(self.attention_mask.sum())


class Head(nn.Module):
    """Base of all heads.

    Args:
        hidden_size: width of the hidden states.
        outputs: values per feature or per token.
        dropout: on what the output layer reads.

    Attributes:
        per_token: whether it reads every token, and not their mean; set from the task's kind.
        hasty: whether it learns at the recipe's ``head_rate``, else as fast as the adapter.
    """

    per_token: bool = False
    hasty: bool = True

    def __init__(self, hidden_size: int, outputs: int, dropout: float = 0.1):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, outputs)
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns (features, outputs), or (features, tokens, outputs) where ``per_token``."""
        read = hidden if self.per_token else mean_over_tokens(hidden, attention_mask)
        return self.output(self.dropout(read))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Returns the mean loss over the batch's units, a scalar; over labelled tokens where the kind labels those."""
        raise NotImplementedError

    def scale_outputs(self, outputs: Tensor) -> Tensor:
        """Turns outputs into the unit that predictions are decoded from."""
        return outputs

    def start(self, train: EncodedRows) -> None:
        """Sets what is read off the training rows and not trained; what it sets must be in the state dict."""


def _wrong(name: str, entry: object) -> str | None:
    good = isinstance(entry, type) and issubclass(entry, Head)
    return None if good else f"it is {entry!r}, not a subclass of adaptmtl.adapters.heads.Head"


heads: Registry[type[Head]] = Registry("head", "adaptmtl.heads", check=_wrong)


@heads.register("sequence_classification")
class ClassificationHead(Head):
    """Logits over the labels, cross-entropy."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy."""
        return F.cross_entropy(outputs, batch.labels)  # type: ignore[arg-type]


@heads.register("multi_label_classification")
class MultiLabelHead(Head):
    """Log odds of every label by itself, binary cross-entropy."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean over rows of the sum over labels: as large as one cross-entropy, however many labels there are."""
        assert batch.labels is not None
        return F.binary_cross_entropy_with_logits(outputs, batch.labels, reduction="sum") / len(outputs)


@heads.register("regression")
class RegressionHead(Head):
    """One value per feature, squared error on labels standardised by the training rows' mean and deviation."""

    hasty = False  # a squared error does not forgive an output that overshoots, as a cross-entropy does
    center: Tensor
    spread: Tensor

    def __init__(self, hidden_size: int, outputs: int = 1, dropout: float = 0.1):
        super().__init__(hidden_size, outputs, dropout)
        self.register_buffer("center", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean squared error, in units of the labels' standard deviation."""
        assert batch.labels is not None
        return F.mse_loss(outputs[:, 0], (batch.labels - self.center) / self.spread)

    def scale_outputs(self, outputs: Tensor) -> Tensor:
        """Back to label units."""
        return outputs * self.spread + self.center

    def start(self, train: EncodedRows) -> None:
        """Mean and deviation of the labels."""
        assert train.labels is not None
        self.center.fill_(float(np.mean(train.labels)))
        self.spread.fill_(max(float(np.std(train.labels)), 1e-6))


@heads.register("multiple_choice")
class ChoiceHead(Head):
    """One score per choice, cross-entropy over the choices of a row."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy over rows, each with its own number of choices."""
        scores = torch.split(outputs[:, 0], list(batch.sizes))
        padded = nn.utils.rnn.pad_sequence(list(scores), batch_first=True, padding_value=-1e4)  # (units, most choices)
        return F.cross_entropy(padded, batch.labels)  # type: ignore[arg-type]


@heads.register("token_classification")
class TokenHead(Head):
    """Logits over the tags for every token, cross-entropy on the first token of each word."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy over words; 0 for a batch without any (rows of no words)."""
        assert batch.labels is not None
        labels = batch.labels.flatten()
        total = F.cross_entropy(outputs.flatten(0, 1), labels, ignore_index=IGNORED, reduction="sum")
        return total / (labels != IGNORED).sum().clamp(min=1)  # without asking the device whether there is any word


@heads.register("question_answering")
class SpanHead(Head):
    """Start and end scores for every token, cross-entropy over positions (Devlin et al. 2019)."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean of start and end cross-entropy; padding cannot be chosen."""
        assert batch.labels is not None
        scores = outputs.masked_fill(batch.attention_mask[:, :, None] == 0, -1e4)
        start = F.cross_entropy(scores[:, :, 0], batch.labels[:, 0])
        return (start + F.cross_entropy(scores[:, :, 1], batch.labels[:, 1])) / 2


def make_head(spec: TaskSpec, hidden_size: int, train: EncodedRows | None, seed: int, dropout: float = 0.1) -> Head:
    """Makes the head of a task, drawn from ``seed``.

    Args:
        spec: the task.
        hidden_size: width of the backbone.
        train: training rows, which set such things as the scale of a regression; None when weights will be loaded.
        seed: of the random weights.
        dropout: on what the output layer reads.
    """
    kind = spec.kind
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = heads[kind.head](hidden_size, kind.n_outputs(spec), dropout)
    head.per_token = kind.per_token
    if train is not None and train.labels is not None:
        head.start(train)
    return head


def mean_over_tokens(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Returns the mean hidden state over each feature's own tokens, (features, hidden)."""
    weight = attention_mask.to(hidden.dtype)[:, :, None]
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
