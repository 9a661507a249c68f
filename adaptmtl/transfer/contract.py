"""What an estimator is given and what it returns: evidence about a source, evidence about the target, a score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from adaptmtl.errors import DataError, SelectionError
from adaptmtl.registry import Registry
from adaptmtl.transfer.history import Transfers

Delta = Mapping[str, tuple[np.ndarray, np.ndarray]]
TargetForm = Literal["classes", "values", "choices"]
Part = TypeVar("Part")
#: Parts of the evidence, cheapest first; an estimator names those that it needs.
EVIDENCE = (
    "size", "history", "text", "delta", "fisher", "space_map", "classes", "slopes", "features", "short_run",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Features:
    """Training rows of the target as vectors with their labels.

    Attributes:
        x: (n, hidden) float32.
        y: (n,) int64 class or 0/1 mark of the right choice; float32 for values.
        groups: (n,) int64, the row that a vector belongs to, where a row has several (the tokens of a sentence, the
            choices of a question); None where each vector is its own row.
        target: "classes", "values", or "choices" (within a group exactly one ``y`` is 1).

    Raises:
        DataError: shapes do not fit, a number is not finite, labels do not suit ``target``, or fewer than two rows.
    """

    x: np.ndarray
    y: np.ndarray
    groups: np.ndarray | None = None
    target: TargetForm = "classes"

    def __post_init__(self) -> None:
        if self.x.ndim != 2 or self.y.shape != (len(self.x),) or self.x.shape[1] == 0:
            raise DataError(f"features have shape {self.x.shape} and labels {self.y.shape}: give (n, hidden) and (n,)")
        if self.groups is not None and self.groups.shape != self.y.shape:
            raise DataError(f"groups have shape {self.groups.shape}, labels {self.y.shape}: give one group per vector")
        for name, array in (("features", self.x), ("labels", self.y)):
            if not np.isfinite(array).all():
                raise DataError(f"{name} hold NaN or infinity: check the adapter that produced them")
        if self.target not in ("classes", "values", "choices"):
            raise DataError(f"unknown target form {self.target!r}: use classes, values or choices")
        if self.n_rows < 2:
            raise DataError(f"{self.n_rows} target row is too few to estimate transfer: give at least 2")
        if self.target == "choices":
            self._check_choices()
        elif len(np.unique(self.y)) < 2:
            raise DataError(f"all {len(self.y)} target labels equal {self.y[0]!r}: give rows with at least 2 labels")

    def _check_choices(self) -> None:
        if self.groups is None:
            raise DataError("choices need groups: say which question each choice belongs to")
        right = np.bincount(self.row_of, weights=self.y == 1)
        wrong = np.flatnonzero(right != 1)
        if len(wrong) or not np.isin(self.y, (0, 1)).all():
            seen = f"row {self.rows[wrong[0]]} has {int(right[wrong[0]])}" if len(wrong) else "a label is not 0 or 1"
            raise DataError(f"choices need exactly one right answer a row, marked 1 among 0: {seen}")

    @cached_property
    def rows(self) -> np.ndarray:
        """(rows,) the distinct row numbers, ascending."""
        return np.arange(len(self.y)) if self.groups is None else np.unique(self.groups)

    @cached_property
    def row_of(self) -> np.ndarray:
        """(n,) position in ``rows`` of each vector's row."""
        return np.arange(len(self.y)) if self.groups is None else np.unique(self.groups, return_inverse=True)[1]

    @property
    def n_rows(self) -> int:
        """Number of rows (sentences, questions), not of vectors."""
        return len(self.rows)

    @cached_property
    def contrasts(self) -> tuple[np.ndarray, np.ndarray]:
        """Vectors and labels in float64; for choices both less their mean within the question.

        What all choices of a question share cannot tell the right one, and would only add noise.
        """
        x, y = self.x.astype(np.float64), self.y.astype(np.float64)
        if self.target != "choices":
            return x, y
        size = np.bincount(self.row_of).astype(np.float64)
        order = np.argsort(self.row_of, kind="stable")
        starts = np.concatenate([[0], np.cumsum(size[:-1])]).astype(np.int64)
        mean_x = np.add.reduceat(x[order], starts, axis=0) / size[:, None]
        mean_y = np.bincount(self.row_of, weights=y) / size
        return x - mean_x[self.row_of], y - mean_y[self.row_of]


class SpaceMap(NamedTuple):
    """An affine map that stands for a source's adapter on the plain backbone's vectors: x -> x + shift + (x down) up.

    Attributes:
        down: (hidden, r).
        up: (r, hidden).
        shift: (hidden,).
    """

    down: np.ndarray
    up: np.ndarray
    shift: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Maps (n, hidden) to (n, hidden) float32."""
        return (x + self.shift + (x @ self.down) @ self.up).astype(np.float32)


@dataclass(frozen=True, eq=False)
class SourceEvidence:
    """What is known of a source; parts that no chosen estimator needs stay None.

    Attributes:
        name: the source task.
        key: key of its adapter in the zoo.
        train_rows: rows that its adapter was trained on.
        features: the target's training rows through the backbone with this source's adapter, in the baseline's order.
        text_embedding: (hidden,) mean embedding of the source's training texts by the plain backbone.
        delta: low-rank weight update per module, ``(A (r, in), B (out, r))``, scale folded into B.
        classes: (n, source labels) probabilities that the source's own head gives to its labels, per vector of
            ``features``.
        space_map: what the adapter does to the plain backbone's vectors, as an affine map.
        fisher: module -> (out,) Fisher information of the source's rows on the adapter's fresh B, mean over the rank.
        slopes: (rows,) change of each target row's loss per unit step from the plain backbone along the update.
        short_run: (held-out rows,) score of held-out training rows of the target after a few steps from this source.
    """

    name: str
    key: str
    train_rows: int
    features: Features | None = None
    text_embedding: np.ndarray | None = None
    delta: Delta | None = None
    classes: np.ndarray | None = None
    space_map: SpaceMap | None = None
    fisher: Mapping[str, np.ndarray] | None = None
    slopes: np.ndarray | None = None
    short_run: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class TargetEvidence:
    """What is known of the target, from its training rows only.

    Attributes:
        name: the target task.
        baseline: its training rows through the plain backbone; also fixes the folds that all sources share.
        text_embedding: (hidden,) mean embedding of its training texts.
        delta: weight update of the target's own adapter.
        fisher: as in :class:`SourceEvidence`, of the target's rows.
        short_run: as in :class:`SourceEvidence`, without any source.
        history: past transfers to other targets on this backbone.
        seed: of folds and of the random baseline.
    """

    name: str
    baseline: Features
    text_embedding: np.ndarray | None = None
    delta: Delta | None = None
    fisher: Mapping[str, np.ndarray] | None = None
    short_run: np.ndarray | None = None
    history: Transfers | None = None
    seed: int = 0


@dataclass(frozen=True)
class Score:
    """How well a source is expected to transfer; higher is better, units differ between estimators.

    Attributes:
        value: the score.
        standard_error: its standard error over the target's rows, where the estimator has one.
    """

    value: float
    standard_error: float | None = None


@runtime_checkable
class Estimator(Protocol):
    """Scores one source for one target.

    Attributes:
        name: name in the registry.
        paper: one line that cites where it comes from.
        needs: parts of the evidence it reads, out of ``EVIDENCE``.
    """

    name: str
    paper: str
    needs: frozenset[str]

    def score(self, source: SourceEvidence, target: TargetEvidence) -> Score:
        """Returns the score of ``source`` for ``target``.

        Raises:
            SelectionError: evidence that it needs is missing or does not fit.
        """
        ...


estimators: Registry[Estimator] = Registry("estimator", "adaptmtl.estimators")


@dataclass(frozen=True)
class Skipped:
    """An estimator that could not score a source, and why."""

    estimator: str
    source: str
    reason: str


@dataclass(frozen=True)
class Table:
    """Scores of all sources by all estimators that could run.

    Attributes:
        scores: estimator -> source key -> score; a source that could not be scored is absent.
        skipped: what is absent, and why.
    """

    scores: dict[str, dict[str, Score]]
    skipped: list[Skipped] = field(default_factory=list)


def score_all(names: Iterable[str], sources: Sequence[SourceEvidence], target: TargetEvidence) -> Table:
    """Scores every source with every named estimator; missing evidence is listed, not hidden.

    Args:
        names: names of registered estimators.
        sources: evidence per source, keys distinct.
        target: evidence about the target.

    Returns:
        The table, in the order of ``names`` and ``sources``.

    Raises:
        UnknownNameError: an estimator that is not registered.
        SelectionError: two sources share a key.
    """
    keys = [source.key for source in sources]
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise SelectionError(f"source {twice!r} is given twice: name each source once")
    table = Table({})
    for name in names:
        estimator, row = estimators[name], {}
        for source in sources:
            try:
                row[source.key] = estimator.score(source, target)
            except SelectionError as error:
                table.skipped.append(Skipped(name, source.key, str(error)))
        table.scores[name] = row
    return table


def required(value: Part | None, estimator: str, part: str, of: str, remedy: str) -> Part:
    """Returns ``value``, or raises a SelectionError that names the missing part and how to get it."""
    if value is None:
        raise SelectionError(f"estimator {estimator!r} needs the {part} of {of!r}, which is missing: {remedy}")
    return value


def aligned_features(estimator: str, source: SourceEvidence, target: TargetEvidence) -> Features:
    """Returns the source's features after checking that they are of the target's rows, in the baseline's order.

    Raises:
        SelectionError: there are none, or their labels or groups differ from the baseline's.
    """
    features = required(source.features, estimator, "features", source.name, "run the target through its adapter")
    base = target.baseline
    same = features.target == base.target and np.array_equal(features.y, base.y)
    if not same or not np.array_equal(features.row_of, base.row_of):
        raise SelectionError(
            f"features of source {source.name!r} ({features.target}, {len(features.y)} vectors) are not of the rows of "
            f"target {target.name!r} ({base.target}, {len(base.y)} vectors): read both from equal rows in equal order"
        )
    return features
