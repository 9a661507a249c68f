"""Predicted gains: what is learned from past transfers, how sure it is, and that the target's own past is not used."""

import json
from dataclasses import replace

import numpy as np
import pytest

from adaptmtl.selection.gains import (
    Gain,
    GainModel,
    Past,
    Seen,
    in_usual_sizes,
    past_of,
    pooled,
    shipped_past,
    standardised,
    together,
)
from adaptmtl.transfer.history import Transfer, Transfers

SOURCES = [f"s{i}" for i in range(12)]


def made(targets=12, noise=0.03, popular=(), slope=0.05, level=0.0, reading="rows", seed=0):
    """Past transfers in which a source gains for its probe, and some sources gain on every target."""
    rng = np.random.default_rng(seed)
    found = []
    for t in range(targets):
        for source in SOURCES:
            probe = rng.normal()
            gain = level + slope * probe + 0.1 * (source in popular) + noise * rng.normal()
            found.append(Past("b", f"t{t}", reading, Seen((source,), probe, 0.0), gain))
    return tuple(found)


def test_what_a_probe_was_worth_in_the_past_is_learned():
    model = GainModel(made(), "b", "new")
    low, high = model.predict([Seen(("s0",), -1.0), Seen(("s0",), 1.0)], "rows")
    assert high.mean - low.mean == pytest.approx(0.1, abs=0.025)
    assert high.probability > 0.9 > 0.1 > low.probability
    useless = GainModel(made(slope=0.0), "b", "new").predict([Seen(("s0",), -1.0), Seen(("s0",), 1.0)], "rows")
    assert abs(useless[1].mean - useless[0].mean) < 0.02


def test_a_source_that_helped_everywhere_is_expected_to_help_on_this_backbone_only():
    past = made(popular=("s3",), slope=0.0)
    here = GainModel(past, "b", "new").predict([Seen(("s3",)), Seen(("s4",))], "rows")
    there = GainModel(past, "other", "new").predict([Seen(("s3",)), Seen(("s4",))], "rows")
    assert here[0].mean > here[1].mean + 0.05
    assert there[0].mean == pytest.approx(there[1].mean)


def test_past_targets_on_which_the_probe_said_the_same_count_more_for_popularity():
    up, down = (dict(zip(SOURCES, np.linspace(-sign, sign, len(SOURCES)), strict=True)) for sign in (1.0, -1.0))
    past = []
    for t in range(12):
        profile, helpful = (up, "s3") if t % 2 else (down, "s4")
        past += [
            Past("b", f"t{t}", "rows", Seen((source,), profile[source]), 0.1 * (source == helpful) - 0.01)
            for source in SOURCES
        ]
    candidates = [Seen(("s3",)), Seen(("s4",))]
    like_up = GainModel(tuple(past), "b", "new", up).predict(candidates, "rows")
    like_down = GainModel(tuple(past), "b", "new", down).predict(candidates, "rows")
    like_none = GainModel(tuple(past), "b", "new").predict(candidates, "rows")
    few = GainModel(tuple(past), "b", "new", {name: up[name] for name in SOURCES[:4]}).predict(candidates, "rows")
    assert like_up[0].mean > like_up[1].mean + 0.03 and like_down[1].mean > like_down[0].mean + 0.03
    assert like_none[0].mean == pytest.approx(like_none[1].mean)
    assert few[0].mean == pytest.approx(like_none[0].mean), "four shared sources say nothing of likeness"


def test_that_sources_of_the_same_form_gain_more_is_learned():
    past = []
    for i, one in enumerate(made(slope=0.0)):
        alike = (i + i // len(SOURCES)) % 3 == 0  # other sources on every target
        past.append(replace(one, seen=replace(one.seen, alike=float(alike)), gain=one.gain + 0.1 * alike))
    other, same = GainModel(tuple(past), "b", "new").predict([Seen(("x",)), Seen(("x",), alike=1.0)], "rows")
    assert same.mean - other.mean == pytest.approx(0.1, abs=0.03)


def test_a_set_is_seen_midway_between_its_merge_and_its_members():
    members = [Seen(("b",), 1.0, 0.0, 1.0), Seen(("a",), 3.0, 1.0, 0.0)]
    assert together(Seen(("a + b",), 4.0, 0.5), members) == Seen(("a", "b"), 3.0, 0.5, 0.5)


def test_nothing_measured_on_the_target_itself_is_used():
    past = made()
    spoiled = tuple(replace(one, gain=9.9) if one.target == "t0" else one for one in past)
    candidates = [Seen((name,), 0.5) for name in SOURCES]
    assert GainModel(past, "b", "t0").predict(candidates, "rows") == GainModel(spoiled, "b", "t0").predict(
        candidates, "rows"
    )
    assert GainModel(past, "b", "t0").past_targets == 11


def test_intervals_cover_what_they_say_on_targets_that_were_not_seen():
    past, new = made(targets=15), made(targets=40, seed=1)
    inside = []
    model = GainModel(past, "b", "new")
    for one in new:
        (gain,) = model.predict([one.seen], "rows")
        inside.append(gain.low <= one.gain <= gain.high)
    assert 0.85 <= np.mean(inside) <= 0.96


def test_targets_that_are_read_by_token_have_a_scale_of_their_own():
    small = made(noise=0.01, slope=0.0)
    large = tuple(replace(one, target="x" + one.target) for one in made(noise=0.3, slope=0.0, reading="tokens"))
    model = GainModel(small + large, "b", "new")
    rows, tokens = model.predict([Seen(("s0",))], "rows")[0], model.predict([Seen(("s0",))], "tokens")[0]
    assert tokens.sd > 10 * rows.sd


def test_breakdowns_of_training_count_no_more_than_half():
    past = list(made())
    wild = replace(past[0], gain=-40.0)
    tame = replace(past[0], gain=-0.5)
    first, second = (
        GainModel((one, *past[1:]), "b", "new")._line(("t0", "t1"), [Seen(("s0",))], {}) for one in (wild, tame)
    )
    assert first == pytest.approx(second)


def test_without_any_past_nothing_is_expected_and_all_is_possible():
    (gain,) = GainModel((), "b", "new").predict([Seen(("s0",), 3.0)], "rows")
    assert gain.mean == 0 and gain.probability == 0.5 and gain.low < -0.1


def test_a_set_is_as_popular_as_its_members_are_on_average():
    model = GainModel(made(popular=("s3",), slope=0.0), "b", "new")
    both, good, bad = model.predict([Seen(("s3", "s4")), Seen(("s3",)), Seen(("s4",))], "rows")
    assert both.mean == pytest.approx((good.mean + bad.mean) / 2)


def test_that_merges_gain_more_than_their_probes_say_is_learned():
    past = made(slope=0.0)
    merges = tuple(
        replace(one, seen=replace(one.seen, sources=(*one.seen.sources, "other")), gain=one.gain + 0.1) for one in past
    )
    single, several = GainModel(past + merges, "b", "new").predict([Seen(("s0",)), Seen(("s0", "s1"))], "rows")
    assert several.mean - single.mean == pytest.approx(0.1, abs=0.03)


def test_a_measurement_moves_the_gain_by_how_sure_both_are():
    prior = Gain(0.0, 0.1)
    assert prior.updated(0.2, 0.1).mean == pytest.approx(0.1)
    assert prior.updated(0.2, 0.1).sd == pytest.approx(0.1 / 2**0.5)
    assert prior.updated(0.2, 1e9).mean == pytest.approx(0.0)
    assert prior.updated(0.2, 0.0) == Gain(0.2, 0.0) and Gain(0.2, 0.0).probability == 1.0


def test_a_gain_for_people():
    assert str(Gain(0.031, 0.1 / 1.6448536)) == "+3.1% [−6.9, +13.1]"
    assert Gain(-0.02, 0.1).percent == "−2.0%"


def test_rivals_give_the_units():
    assert in_usual_sizes(0.02, [0.02, -0.02], [0.0, 0.0]) == 1.0
    assert in_usual_sizes(0.02, [0.02], [0.02]) == pytest.approx(0.5**0.5)
    assert in_usual_sizes(0.0, [0.0], [0.0]) == 0.0
    assert standardised(3.0, [1, 2, 3, 2]) == pytest.approx(2**0.5)
    assert standardised(3.0, [1, 2, 3]) == 0.0 and standardised(3.0, [3, 3, 3, 3]) == 0.0


def test_the_transfers_that_ship_are_of_several_targets_and_make_a_sensible_model():
    past = shipped_past()
    targets = {one.target for one in past}
    assert len(targets) >= 9 and len(past) >= 200 and {one.reading for one in past} == {"rows", "tokens"}
    backbone = past[0].backbone
    for target in targets:
        low, high = GainModel(past, backbone, target).predict(
            [Seen(("snli",), -1.0, -1.0), Seen(("snli",), 1.0, 1.0)], "rows"
        )
        assert high.mean > low.mean, "a better probe was worse in the past"


def test_what_two_pasts_have_measured_is_the_mean_over_the_seeds_of_both():
    seen, other = Seen(("a",), 1.0), Seen(("a",), 2.0)
    own = [Past("b", "t", "rows", seen, 0.5, seeds=1)]
    shipped = [Past("b", "t", "rows", other, 0.1, seeds=3), Past("b", "t", "rows", Seen(("c",)), 0.3, seeds=2)]
    assert pooled(own, shipped) == (Past("b", "t", "rows", seen, pytest.approx(0.2), seeds=4), shipped[1])
    assert pooled((), shipped) == tuple(shipped) and pooled(own, ()) == tuple(own)


def test_a_history_becomes_past_transfers_where_it_says_what_was_seen():
    seen = Seen((), 1.5, -0.5).to_json()
    known = [Transfer("b", "t", ("a", "c"), seed, score, 0.5, seen=seen) for seed, score in ((0, 0.6), (1, 0.7))]
    elsewhere = replace(known[0], method="trial of joint", score=0.9)  # begins from no merge: what was read says little
    rows = (
        *known,
        elsewhere,
        Transfer("b", "t", ("d",), 0, 0.9, 0.5),
        Transfer("b", "unknown", ("d",), 0, 0.9, 0.5, seen=seen),
    )
    (one,) = past_of(Transfers(rows, {}), {"t": "tokens"})
    assert one == Past("b", "t", "tokens", Seen(("a", "c"), 1.5, -0.5), pytest.approx(0.3), seeds=2)
    assert json.loads(seen) == {"probe": 1.5, "hscore": -0.5, "alike": 0.0}
