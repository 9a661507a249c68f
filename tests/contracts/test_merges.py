"""What every merge method must do, whoever wrote it."""

import itertools

import pytest
import torch
from safetensors.torch import load, save

import adaptmtl.fusion.dare
import adaptmtl.fusion.knots
import adaptmtl.fusion.linear
import adaptmtl.fusion.svd
import adaptmtl.fusion.ties  # noqa: F401  (importing a method registers it)
from adaptmtl.errors import AdapterError, SelectionError
from adaptmtl.fusion.contract import Merged, merges
from adaptmtl.fusion.delta import Delta, LowRank, dense, from_peft, norm, relative_error, scale, to_peft

SHAPES = {"layer.0.query": (10, 8), "layer.0.value": (10, 8), "layer.1.dense": (8, 12)}

pytestmark = pytest.mark.parametrize("name", sorted(merges))


def source(seed: int, rank: int, without: str = "") -> Delta:
    g = torch.Generator().manual_seed(seed)
    return {
        module: LowRank(torch.randn(rank, n_in, generator=g), torch.randn(n_out, rank, generator=g))
        for module, (n_out, n_in) in SHAPES.items()
        if module != without
    }


SOURCES = [source(0, 2), source(1, 4, without="layer.0.value"), source(2, 3)]
WEIGHTS = [1.0, 0.5, 2.0]


def same_bytes(x: Delta, y: Delta) -> bool:
    return list(x) == list(y) and all(torch.equal(x[m].a, y[m].a) and torch.equal(x[m].b, y[m].b) for m in x)


def test_names_itself_and_its_paper(name):
    assert merges[name].name == name and merges[name].paper


@pytest.mark.parametrize("rank", [3, 20])
def test_one_source_of_weight_1_is_that_source(name, rank):
    merged = merges[name]([SOURCES[2]], [1.0], rank, 0)
    assert relative_error(merged.delta, SOURCES[2]) < 1e-6
    assert all(kept == pytest.approx(1.0) for kept in merged.kept_energy.values())


def test_source_of_weight_0_is_left_out(name):
    with_zero = merges[name](SOURCES, [1.0, 0.0, 2.0], 4, 0)
    without = merges[name]([SOURCES[0], SOURCES[2]], [1.0, 2.0], 4, 0)
    assert same_bytes(with_zero.delta, without.delta)


def test_source_given_twice_counts_twice(name):
    twice = merges[name]([*SOURCES, SOURCES[0]], [1.0, 0.5, 2.0, 1.0], 4, 0)
    assert same_bytes(twice.delta, merges[name](SOURCES, [2.0, 0.5, 2.0], 4, 0).delta)


def test_order_of_sources_does_not_matter(name):
    results = [
        merges[name]([SOURCES[i] for i in order], [WEIGHTS[i] for i in order], 4, 7).delta
        for order in itertools.permutations(range(3))
    ]
    assert all(same_bytes(results[0], result) for result in results[1:])


def test_same_seed_same_bytes(name):
    first, second = (merges[name](SOURCES, WEIGHTS, 4, 5) for _ in range(2))
    assert same_bytes(first.delta, second.delta) and first.kept_energy == second.kept_energy


def test_saved_and_loaded_is_the_same(name):
    merged = merges[name](SOURCES, WEIGHTS, 4, 0).delta
    state, config = to_peft(merged)
    again = from_peft(load(save(state)), config)
    assert {m: (again[m].a.tolist(), again[m].b.tolist()) for m in again} == {
        m: (merged[m].a.tolist(), merged[m].b.tolist()) for m in merged
    }


def test_sources_may_come_from_disk(name):
    loaded = [from_peft(load(save(state)), config) for state, config in map(to_peft, SOURCES)]
    assert relative_error(merges[name](loaded, WEIGHTS, 4, 0).delta, merges[name](SOURCES, WEIGHTS, 4, 0).delta) < 1e-6


def test_result_covers_every_module_within_the_rank(name):
    merged = merges[name](SOURCES, WEIGHTS, 4, 0)
    assert isinstance(merged, Merged) and merged.note
    assert {m: u.shape for m, u in merged.delta.items()} == SHAPES
    assert merged.kept_energy.keys() == SHAPES.keys()
    assert all(0 < kept <= 1 + 1e-9 for kept in merged.kept_energy.values())
    assert all(u.rank <= 4 for u in merged.delta.values()) or name == "cat"
    assert all(u.a.dtype == torch.float32 for u in merged.delta.values())
    assert all(bool(dense(u).isfinite().all()) for u in merged.delta.values())


def test_rank_beyond_the_true_one_loses_nothing(name):
    high, higher = (merges[name](SOURCES, WEIGHTS, rank, 0) for rank in (12, 40))
    assert relative_error(high.delta, higher.delta) < 1e-6
    assert all(kept == pytest.approx(1.0) for kept in high.kept_energy.values())


def test_inputs_stay_as_they_were(name):
    before = [scale(delta, 1.0) for delta in SOURCES]
    merges[name](SOURCES, WEIGHTS, 2, 0)
    assert all(same_bytes(x, y) for x, y in zip(before, SOURCES, strict=True))


def test_zero_sources_give_zero(name):
    zeros = [scale(delta, 0.0) for delta in SOURCES]
    merged = merges[name](zeros, WEIGHTS, 4, 0)
    assert norm(merged.delta) == 0 and set(merged.kept_energy.values()) == {1.0}


def test_one_zero_source_among_others_is_harmless(name):
    merged = merges[name]([SOURCES[0], scale(SOURCES[2], 0.0)], [1.0, 1.0], 4, 0)
    assert 0 < norm(merged.delta) <= 2 * norm(SOURCES[0])


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0, 1.0], "3 sources but 2 weights"), ([0.0, 0.0, 0.0], "nothing"), ([1.0, float("nan"), 1.0], "finite")],
)
def test_senseless_weights_are_refused(name, weights, message):
    with pytest.raises(SelectionError, match=message):
        merges[name](SOURCES, weights, 4, 0)


def test_no_sources_are_refused(name):
    with pytest.raises(SelectionError, match="nothing to merge"):
        merges[name]([], [], 4, 0)


def test_another_backbone_is_refused(name):
    other = {"layer.0.query": LowRank(torch.ones(1, 9), torch.ones(10, 1))}
    with pytest.raises(AdapterError, match="same backbone"):
        merges[name]([SOURCES[0], other], [1.0, 1.0], 4, 0)
