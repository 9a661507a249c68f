"""Successive halving: rounds, the budget of trainings, posteriors, and an early end."""

import numpy as np
import pytest

from adaptmtl.selection.gains import Gain
from adaptmtl.selection.halving import HeldOut, most_candidates, successive_halving
from adaptmtl.tasks.metrics import metrics

accuracy = metrics["accuracy"].score


class Bench:
    """Trainings whose accuracy is given; remembers what was asked."""

    def __init__(self, rates, rows=200, noise=0.0):
        self.rates, self.rows, self.noise, self.asked = rates, rows, noise, []

    def __call__(self, sources, seed):
        self.asked.append((sources, seed))
        rng = np.random.default_rng([seed, len(self.asked)])
        right = np.arange(self.rows) < round((self.rates[sources] + self.noise * rng.normal()) * self.rows)
        statistics = np.stack([right, np.ones(self.rows)], axis=1).astype(float)
        return HeldOut(float(accuracy(statistics.sum(0))), statistics, seconds=1.0, examples=10, tokens=100)


def names(*sources):
    return {(source,): Gain(0.0, 0.05) for source in sources}


@pytest.mark.parametrize(("trainings", "candidates"), [(0, 0), (1, 0), (2, 1), (4, 1), (5, 2), (6, 2), (7, 3), (12, 6)])
def test_as_many_candidates_as_leave_room_for_two_rounds(trainings, candidates):
    assert most_candidates(trainings, [1.0] * 20) == candidates
    assert candidates == 0 or candidates + 1 <= trainings


@pytest.mark.parametrize("trainings", range(13))
def test_no_more_trainings_are_made_than_allowed(trainings):
    bench = Bench({(): 0.5, **{(str(i),): 0.5 for i in range(8)}})
    trial = successive_halving(names(*map(str, range(8))), bench, accuracy, trainings)
    assert len(bench.asked) == trial.trainings <= trainings
    assert bool(trial.tried) is (trainings >= 2)
    assert (trial.seconds, trial.examples, trial.tokens) == (
        trial.trainings,
        10 * trial.trainings,
        100 * trial.trainings,
    )


def test_every_round_trains_the_target_alone_and_the_better_half_with_one_more_seed():
    bench = Bench({(): 0.5, ("a",): 0.40, ("b",): 0.52, ("c",): 0.51, ("d",): 0.45})
    trial = successive_halving(names("a", "b", "c", "d"), bench, accuracy, 10)
    first, second = bench.asked[:5], bench.asked[5:]
    assert first[0] == ((), 0) and {one for one, _ in first[1:]} == {("a",), ("b",), ("c",), ("d",)}
    assert second[:3] == [((), 1), (("b",), 1), (("c",), 1)]
    assert [one.dropped for one in trial.tried][-2:] == [True, True]
    assert trial.tried[0].sources == ("b",) and len(trial.tried[0].scores) >= 2 and trial.rows == 200
    assert [one.sources for one in trial.tried][-1] == ("a",)


def test_the_best_predicted_are_tried_where_not_all_can_be():
    gains = {("a",): Gain(0.0, 0.05), ("b",): Gain(0.1, 0.05), ("c",): Gain(0.05, 0.05)}
    bench = Bench({(): 0.5, ("a",): 0.5, ("b",): 0.5, ("c",): 0.5})
    assert {one.sources for one in successive_halving(gains, bench, accuracy, 5).tried} == {("b",), ("c",)}


def test_a_clear_result_ends_the_trial_early():
    clear, unclear = Bench({(): 0.3, ("a",): 0.9}), Bench({(): 0.5, ("a",): 0.5})
    found = successive_halving({("a",): Gain(0.0, 1.0)}, clear, accuracy, 40)
    assert found.trainings < 12 and found.tried[0].gain.probability > 0.95
    assert successive_halving(names("a"), unclear, accuracy, 40).trainings == 40


def test_a_lucky_seed_does_not_outweigh_what_was_expected():
    bench = Bench({(): 0.60, ("a",): 0.63})
    sceptical = successive_halving({("a",): Gain(-0.1, 0.02)}, bench, accuracy, 2).tried[0]
    hopeful = successive_halving({("a",): Gain(0.1, 0.02)}, Bench(bench.rates), accuracy, 2).tried[0]
    assert sceptical.gain.mean < 0 < hopeful.gain.mean
    assert sceptical.gain.mean > sceptical.expected.mean and hopeful.gain.mean < hopeful.expected.mean


def test_a_bad_seed_of_the_target_alone_flatters_no_candidate():
    """The target alone scores .40 with seed 0, .60 later: what was tried with seed 0 only is no better for that."""

    def bench(sources, seed):
        rate = {(): 0.40 if seed == 0 else 0.60, ("kept",): 0.58, ("dropped",): 0.57}[sources]
        statistics = np.stack([np.arange(200) < round(200 * rate), np.ones(200)], axis=1).astype(float)
        return HeldOut(rate, statistics)

    best, worst = successive_halving({("kept",): Gain(0, 0.5), ("dropped",): Gain(0, 0.5)}, bench, accuracy, 9).tried
    assert (best.sources, len(best.scores), best.dropped) == (("kept",), 4, False)
    assert (worst.sources, len(worst.scores), worst.dropped) == (("dropped",), 1, True)
    assert worst.gain.mean > best.gain.mean  # its one seed flatters it, and still it is not chosen


def test_dear_candidates_are_paid_for():
    """Each training from a source costs nine of the target alone: 10 a round and more with two of them."""
    bench = Bench({(): 0.5, ("a",): 0.5, ("b",): 0.5, ("c",): 0.5})
    price = {("a",): 9.0, ("b",): 9.0, ("c",): 50.0}
    trial = successive_halving(names("a", "b", "c"), bench, accuracy, 28.0, price=price.__getitem__)
    assert [one.sources for one in trial.tried] == [("a",)], "c is too dear, and a and b leave no room for two rounds"
    assert trial.trainings == 4 and sum(price.get(one, 1.0) for one, _ in bench.asked) == 20
    assert most_candidates(28.0, [9.0, 9.0]) == 1 and most_candidates(29.0, [9.0, 9.0]) == 2
    assert not successive_halving(names("c"), bench, accuracy, 28.0, price=price.__getitem__).tried


def test_models_that_agree_on_a_few_rows_are_not_shown_to_be_equal():
    few, many = Bench({(): 0.5, ("a",): 0.5}, rows=10), Bench({(): 0.5, ("a",): 0.5}, rows=10_000)
    hopes = {("a",): Gain(0.05, 0.05)}
    little, much = (successive_halving(hopes, bench, accuracy, 2).tried[0].gain for bench in (few, many))
    assert little.sd > 0.9 * 0.05 > much.sd and little.mean > 0.8 * 0.05 > much.mean


def test_more_seeds_and_more_rows_make_surer():
    def spread(rate, rows, trainings, overlap=0.0):
        bench = Bench({(): 0.5, ("a",): rate}, rows)
        return successive_halving({("a",): Gain(0.0, 0.05)}, bench, accuracy, trainings, overlap).tried[0].gain.sd

    assert spread(0.51, 200, 4) < spread(0.51, 200, 2) < 0.05
    assert spread(0.51, 200, 40) < spread(0.51, 200, 40, overlap=0.25) < spread(0.51, 200, 40, overlap=1.0)
    assert spread(0.55, 20, 2) > spread(0.55, 200, 2)
