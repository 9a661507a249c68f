"""Many adapters of one task, trained together on one forward pass.

Adapters that differ in their start (another source, a merge, nothing) or in their seed share the frozen weights, the
number of steps and the shapes. So their batches are laid side by side and run through the backbone at once: the frozen
product is one large matrix product, each member's low-rank update a slice of a batched one. On a GPU, where a small
encoder's step is bound by kernel launches, two dozen members cost little more than one; on a CPU one by one is
faster, since steps are then taken in pieces that stay in the cache. Each member has its own head, row order, gradient
clipping and optimiser state, so that it learns what it would learn alone (dropout draws other numbers).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptmtl.adapters.heads import Batch, Head, make_head
from adaptmtl.adapters.methods import LoraWeights, inject_lora
from adaptmtl.backbone.load import Backbone
from adaptmtl.backbone.precision import LowRankLinear, default_dtype
from adaptmtl.backbone.segments import SegmentedEncoder
from adaptmtl.backbone.states import States, padded_length, states_on
from adaptmtl.errors import AdaptMTLError
from adaptmtl.training.adapter import Trained, count_trainable
from adaptmtl.training.batches import epochs_of_units, features_of, make_batch, training_units
from adaptmtl.training.data import PreparedSplit, TaskData
from adaptmtl.training.loop import Log, accelerator
from adaptmtl.training.model import (
    empty_outputs,
    feature_batches,
    lora_model,
    place_outputs,
    single_features,
    to_device,
)
from adaptmtl.training.recipe import Recipe
from adaptmtl.workspace import Workspace

#: Steps between looks at the losses; each look waits for the device.
_LOOK_EVERY = 25
#: Members that share a forward pass at most, by device: more gain nothing and take memory.
MOST_MEMBERS = {"cuda": 24, "cpu": 8}


@dataclass(frozen=True)
class Member:
    """One adapter of a group.

    Attributes:
        seed: of its head, its row order.
        start: LoRA weights to begin from; None for fresh ones.
        rate: its learning rates as a multiple of the recipe's.
    """

    seed: int
    start: LoraWeights | None = None
    rate: float = 1.0


class GroupedLowRankLinear(nn.Module):
    """``y = x (W + s B_m A_m)^T + c`` where the rows of ``x`` belong to members, in equal consecutive blocks.

    Args:
        linear: the layer as one adapter has it.
        a: (members, rank, in); b: (members, out, rank).
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: LowRankLinear, a: Tensor, b: Tensor):
        super().__init__()
        self.register_buffer("weight", linear.weight.to(linear.dtype), persistent=False)
        self.register_buffer("bias", linear.bias, persistent=False)
        self.a, self.b, self.scale = nn.Parameter(a), nn.Parameter(b), linear.scale

    def forward(self, x: Tensor) -> Tensor:
        """Maps (members * features, tokens, in) to (members * features, tokens, out)."""
        low = x.to(self.weight.dtype)
        members = len(self.a)
        if len(x) % members:
            raise AdaptMTLError("this backbone runs a layer on something else than rows too: train adapters one by one")
        plain = F.linear(low, self.weight, self.bias)
        inner = torch.bmm(low.reshape(members, -1, low.shape[-1]), self.a.to(low.dtype).transpose(1, 2))
        up = (self.b * self.scale).to(low.dtype).transpose(1, 2)
        return torch.baddbmm(plain.view(members, -1, plain.shape[-1]), inner, up).view_as(plain).to(x.dtype)


class Group:
    """Adapters of one task that are trained and run side by side.

    Args:
        backbone: the frozen encoder.
        data: the task, the same rows for all.
        recipe: choices, the same for all.
        members: starts and seeds, at least one.
    """

    def __init__(self, backbone: Backbone, data: TaskData, recipe: Recipe, members: Sequence[Member]):
        if not members:
            raise AdaptMTLError("a group has 0 members; give at least one start and seed")
        self.backbone, self.data, self.recipe, self.members = backbone, data, recipe, tuple(members)
        self.k = recipe.layers_below(backbone)
        self.device = accelerator().device
        encoder = backbone.load_encoder()
        fresh = inject_lora(encoder, recipe.method.config(backbone, self.k), default_dtype())
        starts = [fresh if one.start is None else one.start for one in self.members]
        self.layers: dict[str, GroupedLowRankLinear] = {}
        for name in fresh:
            parent, _, leaf = name.rpartition(".")
            layer = encoder.get_submodule(name)
            assert isinstance(layer, LowRankLinear)
            a = torch.stack([start[name][0].detach().float().cpu() for start in starts])
            b = torch.stack([start[name][1].detach().float().cpu() for start in starts])
            self.layers[name] = GroupedLowRankLinear(layer, a, b)
            setattr(encoder.get_submodule(parent), leaf, self.layers[name])
        self.encoder = SegmentedEncoder(encoder, backbone.anatomy, self.k).eval().to(self.device)
        if self.device.type == "cuda":
            _lower_precision(self.encoder, default_dtype())
        train = data.train.encoded
        self.heads: list[Head] = [
            make_head(data.spec, backbone.hidden_size, train, one.seed, recipe.head_dropout).to(self.device)
            for one in self.members
        ]
        self.log = Log()

    def fit(self, workspace: Workspace, description: str | None = None) -> None:
        """Trains all members for the recipe's steps.

        Raises:
            AdaptMTLError: a member's loss became infinite or not a number.
        """
        encoded = self.data.train.encoded
        states = self._states(workspace, self.data.train)
        steps = self.recipe.steps_for(len(training_units(encoded)))
        orders = [epochs_of_units(encoded, self.recipe.batch_size, one.seed) for one in self.members]
        optimizer, schedule = self._optimizer(steps)
        losses: list[Tensor] = []
        title = description or f"{self.data.spec.name}, {len(self.members)} adapters at once"
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(self.members[0].seed)
            for head in self.heads:
                head.train()
            for step in workspace.reporter.track(range(steps), title, steps):
                units = [next(order) for order in orders]
                joined = self._join(encoded, states, [features_of(encoded, one) for one in units])
                batches = [to_device(make_batch(encoded, None, one, joined.length), self.device) for one in units]
                hidden = joined.run(self.encoder)
                own = torch.stack([
                    head.loss(head(hidden[index, : len(batch.features)], batch.attention_mask), batch)
                    for index, (head, batch) in enumerate(zip(self.heads, batches, strict=True))
                ])  # fmt: skip
                own.sum().backward()
                self._clip()
                self._step(optimizer)
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                losses.append(own.detach())
                self.log.steps += 1
                self.log.rows += sum(len(one) for one in units)
                self.log.tokens += joined.tokens
                if (step + 1) % _LOOK_EVERY == 0 or step + 1 == steps:
                    self._look(losses, title)
        for head in self.heads:
            head.eval()

    def outputs(self, workspace: Workspace, split: PreparedSplit) -> list[np.ndarray]:
        """Returns each member's outputs on a split, in its encoded order, as :func:`outputs_of` does for one model."""
        encoded, states = split.encoded, self._states(workspace, split)
        found = [empty_outputs(head, encoded) for head in self.heads]
        with torch.inference_mode():
            for batch in feature_batches(encoded, None):
                joined = self._join(encoded, states, [batch.features] * len(self.members))
                hidden = joined.run(self.encoder)
                mask = batch.attention_mask.to(self.device)
                for head, own, out in zip(self.heads, hidden, found, strict=True):
                    values = head.scale_outputs(head(own, mask)).float().cpu().numpy()
                    place_outputs(out, values, head, encoded, batch.features)
        return found

    def weights(self, index: int) -> LoraWeights:
        """Returns the LoRA tensors of one member, on the CPU."""
        return {name: (one.a[index].detach().cpu(), one.b[index].detach().cpu()) for name, one in self.layers.items()}

    def trained(self, index: int) -> Trained:
        """Returns one member as a model of its own."""
        built = lora_model(
            self.backbone, self.recipe.method, self.k, self.heads[index], default_dtype(), self.weights(index)
        )
        share = len(self.members)
        log = replace(self.log, rows=self.log.rows // share, tokens=self.log.tokens // share, losses=[])
        return Trained(built.model.eval().to(self.device), built.weights, self.k, log, count_trainable(built.model))

    def _states(self, workspace: Workspace, split: PreparedSplit) -> States | None:
        return states_on(split.states(workspace, self.k, default_dtype(), self.device), self.device)

    def _join(self, encoded, states: States | None, features: list[np.ndarray]) -> _Joined:  # type: ignore[no-untyped-def]
        """Lays the members' features side by side, as many for each; what is added is never read."""
        most = max(len(one) for one in features)
        filled = np.concatenate([np.pad(one, (0, most - len(one)), mode="edge") for one in features])
        own = np.concatenate(features)
        length = padded_length(int(encoded.lengths[own].max()))
        batch = make_batch(single_features(encoded), states, filled, length)
        return _Joined(to_device(batch, self.device), len(features), length, int(encoded.lengths[own].sum()))

    def _optimizer(self, steps: int) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
        lora = [tensor for one in self.layers.values() for tensor in (one.a, one.b)]
        matrices = [p for head in self.heads for p in head.parameters() if p.ndim > 1]
        vectors = [p for head in self.heads for p in head.parameters() if p.ndim <= 1]
        decay, rate = self.recipe.weight_decay, self.recipe.learning_rate
        times = self.recipe.head_rate if self.heads[0].hasty else 1.0
        of_head = {"lr": rate * times}
        groups = [
            {"params": lora, "weight_decay": decay},
            {"params": matrices, "weight_decay": decay if times == 1 else 0.0, **of_head},
            {"params": vectors, "weight_decay": 0.0, **of_head},
        ]
        optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.recipe.rate_at(step, steps))

    def _clip(self) -> None:
        """Scales each member's gradients to the recipe's largest norm, as if it were alone."""
        lora = [g for one in self.layers.values() for p in (one.a, one.b) if (g := p.grad) is not None]
        heads = [[p.grad for p in head.parameters() if p.grad is not None] for head in self.heads]
        squares = torch.stack([g.square().sum(dim=(1, 2)) for g in lora]).sum(0)
        norms = torch._foreach_norm([g for own in heads for g in own])
        per_head = torch.stack(norms).view(len(self.heads), -1).square().sum(1)
        factor = (self.recipe.clip / ((squares + per_head).sqrt() + 1e-6)).clamp(max=1.0)
        for g in lora:
            g.mul_(factor[:, None, None])
        torch._foreach_mul_([g for own in heads for g in own], [factor[i] for i, own in enumerate(heads) for _ in own])

    def _step(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes a step, and of a member with a rate of its own the right share: AdamW's step is linear in the rate."""
        if all(one.rate == 1 for one in self.members):
            optimizer.step()
            return
        lora = [tensor for one in self.layers.values() for tensor in (one.a, one.b)]
        heads = [p for head in self.heads for p in head.parameters()]
        shares = [one.rate for one, head in zip(self.members, self.heads, strict=True) for _ in head.parameters()]
        rates = torch.tensor([one.rate for one in self.members], device=self.device)[:, None, None]
        before = [p.detach().clone() for p in (*lora, *heads)]
        optimizer.step()
        with torch.no_grad():
            for p, old in zip(lora, before, strict=False):
                p.copy_(torch.lerp(old, p, rates))
            for p, old, share in zip(heads, before[len(lora) :], shares, strict=True):
                p.copy_(torch.lerp(old, p, share))

    def _look(self, losses: list[Tensor], title: str) -> None:
        seen = torch.stack(losses).cpu()
        losses.clear()
        if not torch.isfinite(seen).all():
            bad = int((~torch.isfinite(seen)).any(0).nonzero()[0])
            raise AdaptMTLError(
                f"{title}: the loss of member {bad + 1} (seed {self.members[bad].seed}) became infinite or not a "
                f"number by step {self.log.steps}; lower the learning rate ({self.recipe.learning_rate:g})"
            )
        self.log.losses += seen.mean(1).tolist()


@dataclass(frozen=True)
class _Joined:
    """The members' features in one batch of (members * features, length)."""

    batch: Batch
    members: int
    length: int
    tokens: int

    def run(self, encoder: SegmentedEncoder) -> Tensor:
        """Returns hidden states (members, features, length, hidden), fp32."""
        one = self.batch
        states = None if one.states is None else one.states.to(encoder.model.dtype)
        hidden = encoder(one.input_ids, one.attention_mask, one.token_type_ids, states)
        return hidden.float().view(self.members, -1, *hidden.shape[1:])


def _lower_precision(encoder: SegmentedEncoder, dtype: torch.dtype) -> None:
    """Runs everything but the adapters in ``dtype``: on a GPU the step is bound by memory traffic and casts.

    Norms and attention take ``dtype`` too and sum in fp32 inside their kernels. (On CPUs bf16 attention is slow.)
    """
    # transformers reads a model's dtype, and so that of attention masks, off its first parameter
    encoder.given.register_parameter("dtype", nn.Parameter(torch.zeros((), dtype=dtype), requires_grad=False))
    for child in encoder.modules():
        if not isinstance(child, GroupedLowRankLinear):
            for one in (*child._parameters.values(), *child._buffers.values()):
                if one is not None and one.is_floating_point():
                    one.data = one.data.to(dtype)


def train_group(
    workspace: Workspace, backbone: Backbone, data: TaskData, recipe: Recipe, members: Sequence[Member],
    description: str | None = None,
) -> Iterator[Group]:  # fmt: skip
    """Trains members together, as many at a time as the device takes, and yields group after group in their order.

    Args:
        workspace: holds cached states.
        backbone: frozen encoder.
        data: the task.
        recipe: all choices.
        members: starts and seeds.
        description: shown with the progress.
    """
    size = MOST_MEMBERS[accelerator().device.type if torch.cuda.is_available() else "cpu"]
    for first in range(0, len(members), size):
        group = Group(backbone, data, recipe, members[first : first + size])
        group.fit(workspace, description)
        yield group
