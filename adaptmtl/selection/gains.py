"""Predicts the gain of a set of sources, with an interval, from what estimators say and from past transfers.

A ridge regression over past transfers, each past target counting as much as any other: how much a candidate gained for
how it stood among its rivals. What a target has at stake differs by how its rows are read (a span or tag is lost
more easily than a class), so gains are counted in units of their usual size in that group. Intervals are conformal: as
wide as 90% of the errors on past targets, each predicted from the others. The package ships transfers measured on the
embedded backbone, so that it works from no history on; a person's own history adds to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import files
from typing import Literal, get_args

import numpy as np
from scipy.special import ndtr, ndtri

from adaptmtl.transfer.history import Transfer, Transfers

Reading = Literal["rows", "tokens"]
#: What the regression reads: of :class:`Seen`, of the past itself, and whether several sources are merged.
FEATURES = ("probe", "hscore", "popularity", "merged", "alike")
LEVEL = 0.9
#: Gains beyond this are breakdowns of training; how far they went is no news.
MOST_GAIN = 0.5
_RIDGE = 0.3  # in past targets
_POPULARITY = 0.3  # its usual size, so that the ridge treats it like the other features
_SHRINKAGE = 2.0  # past targets that a source's popularity is pulled to 0 by
_LEAST_SHARED = 5  # sources that two targets must share for their profiles to be compared
_LEAST_LIKENESS = 0.1  # of two targets whose profiles have nothing in common
_LEAST_GROUP = 2  # past targets that a reading must have for a scale of its own
_Z = float(ndtri((1 + LEVEL) / 2))
#: Ways to use sources whose gain a reading of the sources, or of their merge, speaks of.
_AS_READ = ("start", "merge", "trial of merge")


@dataclass(frozen=True)
class Seen:
    """What was seen of a candidate before any training on the target.

    Attributes:
        sources: names of the tasks in it, sorted.
        probe: label uncertainty that a probe explains through it and not through the plain backbone, in units of the
            usual size of that difference on this target, see :func:`in_usual_sizes`.
        hscore: standard deviations that its H-score stands above the mean of the single sources', see
            :func:`standardised`.
        alike: share of the sources whose model is given the same columns as the target's: both two texts, say.
    """

    sources: tuple[str, ...]
    probe: float = 0.0
    hscore: float = 0.0
    alike: float = 0.0

    def to_json(self) -> str:
        """Returns what a history keeps of it, beside the sources' names."""
        return json.dumps({"probe": self.probe, "hscore": self.hscore, "alike": self.alike})


@dataclass(frozen=True)
class Past:
    """A measured transfer with what had been seen before it.

    Attributes:
        backbone: hash.
        target: the task it was measured on.
        reading: whether the target's rows are read as one vector or token by token.
        seen: the candidate.
        gain: relative, mean over seeds.
        seeds: how many.
    """

    backbone: str
    target: str
    reading: Reading
    seen: Seen
    gain: float
    seeds: int = 1


@dataclass(frozen=True)
class Gain:
    """A predicted relative gain: (score with the sources - score without) / score without.

    Attributes:
        mean: expected gain.
        sd: standard deviation.
        low, high: 90% interval.
        probability: that the gain is above 0.
    """

    mean: float
    sd: float

    @property
    def low(self) -> float:
        """Lower end of the 90% interval."""
        return self.mean - _Z * self.sd

    @property
    def high(self) -> float:
        """Upper end of the 90% interval."""
        return self.mean + _Z * self.sd

    @property
    def probability(self) -> float:
        """Probability that the gain is above 0."""
        return float(ndtr(self.mean / self.sd)) if self.sd > 0 else float(self.mean > 0)

    def updated(self, measured: float, error: float) -> Gain:
        """Returns the posterior after a measurement of the gain with this standard error."""
        weight = self.sd**2 / (self.sd**2 + error**2) if error > 0 else 1.0
        return Gain(self.mean + weight * (measured - self.mean), self.sd * (1 - weight) ** 0.5)

    @property
    def in_words(self) -> str:
        """The gain with its interval and how sure its sign is, for a sentence."""
        return f"{self}, above 0 with probability {self.probability:.2f}"

    def __str__(self) -> str:
        """Returns it for people: "+3.1% [−7.0, +13.2]"."""
        return f"{self.percent} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]".replace("-", "−")

    @property
    def percent(self) -> str:
        """The expected gain for people, without its interval."""
        return f"{100 * self.mean:+.1f}%".replace("-", "−")

    def to_dict(self) -> dict[str, float]:
        """Returns plain values."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "probability": self.probability}


@dataclass(frozen=True, eq=False)
class GainModel:
    """The regression for one target; nothing that was measured on the target itself is used.

    Args:
        past: measured transfers.
        backbone: hash; sources are popular by what they did on this backbone.
        target: the task to predict for.
        profile: single source -> what the probe said of it for this target. Past targets on which it said the same of
            the same sources count more for which sources are popular.
    """

    past: tuple[Past, ...]
    backbone: str
    target: str
    profile: Mapping[str, float] = field(default_factory=dict)
    _by_target: Mapping[str, tuple[Past, ...]] = field(init=False, repr=False)
    _fits: dict[tuple[str, ...], np.ndarray] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        by_target: dict[str, list[Past]] = {}
        for one in self.past:
            if one.target != self.target:
                by_target.setdefault(one.target, []).append(one)
        object.__setattr__(self, "_by_target", {name: tuple(rows) for name, rows in sorted(by_target.items())})

    @property
    def past_targets(self) -> int:
        """How many past targets the predictions rest on."""
        return len(self._by_target)

    def predict(self, candidates: Sequence[Seen], reading: Reading) -> list[Gain]:
        """Returns the predicted gain of each candidate."""
        targets = tuple(self._by_target)
        scale = self._scale(reading, targets)
        mean = scale * self._line(targets, candidates, self.profile)
        return [Gain(float(value), float(scale * self._radius / _Z)) for value in mean]

    @cached_property
    def _radius(self) -> float:
        """What 90% of the errors on past targets stay within, in units of the gains' scale."""
        errors = []
        for name, rows in self._by_target.items():
            others = tuple(other for other in self._by_target if other != name)
            scale = self._scale(rows[0].reading, others)
            line = self._line(others, [one.seen for one in rows], self._profiles[name])
            errors += [abs(one.gain / scale - value) for one, value in zip(rows, line, strict=True)]
        errors.sort()
        place = min(int(np.ceil((len(errors) + 1) * LEVEL)), len(errors)) - 1
        return errors[place] if errors else _Z

    def _line(
        self, targets: tuple[str, ...], candidates: Sequence[Seen], profile: Mapping[str, float]
    ) -> np.ndarray:  # fmt: skip
        """Gains of candidates, in units of their scale, by the regression over some past targets."""
        if targets not in self._fits:
            self._fits[targets] = self._fitted(targets)
        x = _matrix(candidates, self._popularity(targets, profile))
        return np.c_[np.ones(len(x)), x] @ self._fits[targets]

    def _fitted(self, targets: tuple[str, ...]) -> np.ndarray:
        """Coefficients, intercept first, from some past targets."""
        normal = _RIDGE * np.diag([1e-6, *np.ones(len(FEATURES))])
        right = np.zeros(len(FEATURES) + 1)
        for name in targets:
            rows = self._by_target[name]
            others = tuple(other for other in targets if other != name)
            popularity = self._popularity(others, self._profiles[name])
            x = np.c_[np.ones(len(rows)), _matrix([one.seen for one in rows], popularity)]
            y = self._clipped[name] / self._scale(rows[0].reading, targets)
            normal += x.T @ x / len(rows)
            right += x.T @ y / len(rows)
        return np.linalg.solve(normal, right)

    def _popularity(self, targets: tuple[str, ...], profile: Mapping[str, float]) -> dict[str, float]:
        """Source -> its mean gain above the other sources', in units of scale, pulled to 0 where few saw it.

        Past targets weigh by how like theirs the given profile is.
        """
        scales = {reading: self._scale(reading, targets) for reading in get_args(Reading)}
        likeness = {name: _likeness(profile, self._profiles[name]) for name in targets}
        usual = sum(likeness.values()) / max(len(likeness), 1)
        total: dict[str, float] = {}
        count: dict[str, float] = {}
        for name in targets:
            weight, scale = likeness[name] / usual, scales[self._by_target[name][0].reading]
            for source, above in self._above[name]:
                total[source] = total.get(source, 0.0) + weight * above / scale
                count[source] = count.get(source, 0.0) + weight
        return {source: value / (count[source] + _SHRINKAGE) for source, value in total.items()}

    def _scale(self, reading: Reading, targets: tuple[str, ...]) -> float:
        """Root mean square of gains, of past targets that are read alike where there are enough."""
        alike = [name for name in targets if self._by_target[name][0].reading == reading]
        squares = [self._square[name] for name in (alike if len(alike) >= _LEAST_GROUP else targets)]
        return (sum(squares) / len(squares)) ** 0.5 if squares else 0.1

    @cached_property
    def _clipped(self) -> dict[str, np.ndarray]:
        """Target -> (rows,) its gains, none beyond a breakdown."""
        return {
            name: np.clip([one.gain for one in rows], -MOST_GAIN, MOST_GAIN) for name, rows in self._by_target.items()
        }

    @cached_property
    def _square(self) -> dict[str, float]:
        """Target -> mean square of its gains."""
        return {name: float(np.mean(gains**2)) for name, gains in self._clipped.items()}

    @cached_property
    def _profiles(self) -> dict[str, dict[str, float]]:
        """Target -> single source -> what the probe said of it, on this backbone."""
        return {
            name: profile_of(one.seen for one in rows if one.backbone == self.backbone)
            for name, rows in self._by_target.items()
        }

    @cached_property
    def _above(self) -> dict[str, list[tuple[str, float]]]:
        """Target -> single sources on this backbone, each with its gain above their mean; none where it is alone."""
        found: dict[str, list[tuple[str, float]]] = {}
        for name, rows in self._by_target.items():
            single = [
                (one.seen.sources[0], float(gain)) for one, gain in zip(rows, self._clipped[name], strict=True)
                if len(one.seen.sources) == 1 and one.backbone == self.backbone
            ]  # fmt: skip
            mean = sum(gain for _, gain in single) / max(len(single), 1)
            found[name] = [(source, gain - mean) for source, gain in single] if len(single) > 1 else []
        return found


def _matrix(candidates: Sequence[Seen], popularity: Mapping[str, float]) -> np.ndarray:
    """(candidates, features)."""
    rows = [
        (
            one.probe, one.hscore,
            sum(popularity.get(name, 0.0) for name in one.sources) / len(one.sources) / _POPULARITY,
            float(len(one.sources) > 1), one.alike,
        )
        for one in candidates
    ]  # fmt: skip
    return np.array(rows, np.float64).reshape(len(candidates), len(FEATURES))


def profile_of(candidates: Iterable[Seen]) -> dict[str, float]:
    """Returns single source -> what the probe said of it."""
    return {one.sources[0]: one.probe for one in candidates if len(one.sources) == 1}


def _likeness(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """How alike two targets' profiles are: their correlation over the sources that both have, never quite 0."""
    shared = sorted(set(one) & set(other))
    a, b = (np.array([profile[name] for name in shared], np.float64) for profile in (one, other))
    if len(shared) < _LEAST_SHARED or a.std() == 0 or b.std() == 0:
        return _LEAST_LIKENESS
    return _LEAST_LIKENESS + max(float(np.corrcoef(a, b)[0, 1]), 0.0)


def together(merge: Seen, members: Sequence[Seen]) -> Seen:
    """Returns what is seen of a set: midway between its merge's own reading and the mean of its members'."""

    def midway(part: str) -> float:
        return float((getattr(merge, part) + np.mean([getattr(one, part) for one in members])) / 2)

    names = tuple(sorted({name for one in members for name in one.sources}))
    alike = float(np.mean([one.alike for one in members]))
    return Seen(names, probe=midway("probe"), hscore=midway("hscore"), alike=alike)


def in_usual_sizes(gain: float, gains: Iterable[float], errors: Iterable[float]) -> float:
    """Returns a difference in units of the root mean square of all candidates', sampling error included.

    Unlike a z-score it keeps the sign, and says something of a single candidate too.
    """
    size = float(np.sqrt(np.mean(np.square(list(gains))) + np.mean(np.square(list(errors)))))
    return gain / size if size > 0 else 0.0


def standardised(value: float, rivals: Iterable[float]) -> float:
    """Returns how many standard deviations a value stands above its rivals' mean; 0 with fewer than four of them.

    Two or three rivals would stand one deviation apart whatever their difference.
    """
    array = np.array([one for one in rivals if np.isfinite(one)], np.float64)
    if len(array) < 4 or not np.isfinite(value) or array.std() == 0:
        return 0.0
    return float((value - array.mean()) / array.std())


def past_of(measured: Transfers, readings: Mapping[str, Reading]) -> tuple[Past, ...]:
    """Returns the transfers of a history that say what had been seen before; seeds and recipes are averaged.

    Methods of fusion that begin from something else than what was read are left out.

    Args:
        measured: of one backbone.
        readings: by target; targets that are not in it are left out.
    """
    found: dict[tuple[str, tuple[str, ...]], list[Transfer]] = {}
    for row in measured.rows:
        if row.seen and row.target in readings and row.method in _AS_READ:
            found.setdefault((row.target, row.sources), []).append(row)
    return tuple(
        Past(
            rows[-1].backbone, target, readings[target], Seen(sources, **json.loads(rows[-1].seen)),
            float(np.mean([row.gain for row in rows])), len(rows),
        )
        for (target, sources), rows in found.items()
    )  # fmt: skip


def pooled(own: Sequence[Past], others: Sequence[Past]) -> tuple[Past, ...]:
    """Joins two pasts; what both have measured is the mean over the seeds of both, as the first has seen it."""
    apart = {(one.backbone, one.target, one.seen.sources): one for one in own}
    for other in others:
        place = (other.backbone, other.target, other.seen.sources)
        if (one := apart.get(place)) is None:
            apart[place] = other
        else:
            seeds = one.seeds + other.seeds
            apart[place] = replace(one, gain=(one.seeds * one.gain + other.seeds * other.gain) / seeds, seeds=seeds)
    return tuple(apart.values())


def shipped_past() -> tuple[Past, ...]:
    """Returns the transfers measured on the embedded backbone that come with the package."""
    rows = json.loads(files("adaptmtl.selection").joinpath("past_transfers.json").read_text(encoding="utf-8"))
    return tuple(Past(**{**row, "seen": Seen(tuple(row["seen"].pop("sources")), **row["seen"])}) for row in rows)
