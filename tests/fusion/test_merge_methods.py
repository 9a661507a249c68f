"""Each merge against a slow dense version written after its paper."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from adaptmtl.errors import AdapterError, SelectionError
from adaptmtl.fusion.dare import Dare, keep_mask
from adaptmtl.fusion.delta import Delta, LowRank, add, cosine, dense, factorise, from_peft, norm, relative_error, scale
from adaptmtl.fusion.knots import Knots
from adaptmtl.fusion.linear import Linear
from adaptmtl.fusion.svd import Cat, Svd
from adaptmtl.fusion.ties import Ties, trim, trimmed_mean

SHAPE = (7, 6)
FULL = 6
fast = settings(deadline=None, max_examples=30, derandomize=True)
seeds = st.integers(0, 2**31)
sources = st.lists(st.tuples(st.integers(1, 4), st.floats(0.1, 3)), min_size=2, max_size=4)


def one_module(seed: int, rank: int, dtype=torch.float64) -> Delta:
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, SHAPE[1], generator=g, dtype=dtype)
    return {"m": LowRank(a, torch.randn(SHAPE[0], rank, generator=g, dtype=dtype))}


def drawn(seed: int, spec) -> tuple[list[Delta], list[float]]:
    return [one_module(seed + i, rank) for i, (rank, _) in enumerate(spec)], [weight for _, weight in spec]


def slow_ties(matrices, weights, density) -> torch.Tensor:
    """Entry by entry, in plain Python."""
    kept = []
    for matrix in matrices:
        size = sorted(matrix.abs().flatten().tolist(), reverse=True)
        threshold = size[max(1, round(density * len(size))) - 1]
        kept.append([[x if abs(x) >= threshold else 0.0 for x in row] for row in matrix.tolist()])
    rows, columns = matrices[0].shape
    result = torch.zeros(rows, columns, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            entries = [(w, k[i][j]) for w, k in zip(weights, kept, strict=True)]
            sign = 1 if sum(w * x for w, x in entries) >= 0 else -1
            agreeing = [(w, x) for w, x in entries if x * sign > 0]
            if agreeing:
                result[i, j] = sum(w * x for w, x in agreeing) / sum(w for w, _ in agreeing)
    return result


def close(x, y, atol=1e-8):
    torch.testing.assert_close(x, y, atol=atol, rtol=1e-6)


@fast
@given(seeds, sources)
def test_linear_svd_and_cat_are_dense_sums(seed, spec):
    deltas, weights = drawn(seed, spec)
    total = sum(w * dense(d["m"]) for d, w in zip(deltas, weights, strict=True))
    close(dense(Linear()(deltas, weights, FULL, 0).delta["m"]), total / sum(weights))
    close(dense(Svd()(deltas, weights, FULL, 0).delta["m"]), total)
    exact = Cat()(deltas, weights, 1, 0)
    close(dense(exact.delta["m"]), total)
    assert exact.delta["m"].rank == sum(rank for rank, _ in spec) and exact.kept_energy == {"m": 1.0}
    truncated = Linear()(deltas, weights, 2, 0)
    best, kept = factorise(total / sum(weights), 2)
    close(dense(truncated.delta["m"]), dense(best), atol=1e-6)
    assert truncated.kept_energy["m"] == pytest.approx(kept)


def test_task_arithmetic_subtracts():
    x, y = one_module(0, 2), one_module(1, 3)
    close(dense(Cat()([x, y], [1.0, -1.0], 1, 0).delta["m"]), dense(x["m"]) - dense(y["m"]))


@fast
@given(seeds, sources, st.sampled_from([0.1, 0.3, 0.5, 1.0]))
def test_ties_is_the_slow_one(seed, spec, density):
    deltas, weights = drawn(seed, spec)
    merged = Ties(density)(deltas, weights, FULL, 0)
    close(dense(merged.delta["m"]), slow_ties([dense(d["m"]) for d in deltas], weights, density))


def test_ties_of_entries_worked_by_hand():
    x = torch.tensor([[4.0, 1.0, -3.0, 0.5]])
    y = torch.tensor([[2.0, -1.5, 2.0, 0.1]])
    # density 0.75 trims 0.5 and 0.1; signs +, -, -; means of those that agree: 3, -1.5, -3
    assert trimmed_mean([x, y], [0.5, 0.5], 0.75).tolist() == [[3.0, -1.5, -3.0, 0.0]]
    assert trimmed_mean([x, y], [0.75, 0.25], 1.0).tolist() == [[3.5, 1.0, -3.0, pytest.approx(0.4)]]


def test_trim_keeps_the_largest_and_equal_ones_together():
    assert trim(torch.tensor([[3.0, -2.0, 1.0, 0.0]]), 0.5).tolist() == [[3.0, -2.0, 0.0, 0.0]]
    assert trim(torch.tensor([[1.0, -1.0, 1.0, 0.0]]), 0.25).tolist() == [[1.0, -1.0, 1.0, 0.0]]
    assert trim(torch.tensor([[3.0, 2.0]]), 1e-6).tolist() == [[3.0, 0.0]]


@fast
@given(seeds, sources, st.sampled_from([0.2, 0.6, 1.0]))
def test_knots_is_the_slow_one(seed, spec, density):
    deltas, weights = drawn(seed, spec)
    # The order within [dW_1 ... dW_n] does not matter, V_s just moves along.
    u, s, vt = torch.linalg.svd(torch.cat([dense(d["m"]) for d in deltas], dim=1), full_matrices=False)
    signal = int((s > 1e-10 * s[0]).sum())
    right = [v[:signal] for v in vt.split(SHAPE[1], dim=1)]
    expected = (u[:, :signal] * s[:signal]) @ slow_ties_any_sign(right, weights, density)
    close(dense(Knots(density)(deltas, weights, FULL, 0).delta["m"]), expected, atol=1e-6)


def slow_ties_any_sign(matrices, weights, density):
    """TIES does not change when a row changes its sign in all matrices, which singular vectors are free to do."""
    result = slow_ties(matrices, weights, density)
    flipped = slow_ties([-m for m in matrices], weights, density)
    close(flipped, -result)
    return result


@fast
@given(seeds, sources)
def test_dare_of_full_density_is_linear(seed, spec):
    deltas, weights = drawn(seed, spec)
    dare, linear = (merge(deltas, weights, FULL, 0).delta["m"] for merge in (Dare(1.0), Linear()))
    close(dense(dare), dense(linear))


def test_dare_is_unbiased_and_keeps_the_stated_share():
    deltas = [one_module(i, 3) for i in range(3)]
    draws = torch.stack([dense(Dare(0.5)(deltas, [1.0, 2.0, 1.0], FULL, seed).delta["m"]) for seed in range(400)])
    mean = dense(Linear()(deltas, [1.0, 2.0, 1.0], FULL, 0).delta["m"])
    standard_error = draws.std(dim=0) / 20
    assert float(((draws.mean(dim=0) - mean) / standard_error).abs().max()) < 4.5  # 42 entries
    assert float(keep_mask((200, 200), 0.3, "0:x:m").double().mean()) == pytest.approx(0.3, abs=0.01)


def test_dare_follows_its_seed_and_spares_other_masks():
    x, y = one_module(0, 3), one_module(1, 3)

    def merged(seed):
        return dense(Dare()([x, y], [1.0, 1.0], FULL, seed).delta["m"])

    assert torch.equal(merged(3), merged(3)) and not torch.equal(merged(3), merged(4))
    # A third source that is zero halves nothing but weights: entries dropped from x and y stay dropped.
    zero = {"m": LowRank(torch.zeros(1, SHAPE[1]).double(), torch.zeros(SHAPE[0], 1).double())}
    close(dense(Dare()([zero, x, y], [2.0, 1.0, 1.0], FULL, 3).delta["m"]), merged(3) / 2)


def test_low_rank_keeps_less_of_sparse_merges():
    deltas = [one_module(i, 2) for i in range(3)]
    for merge in (Ties(0.2), Dare(0.3)):
        assert 0 < merge(deltas, [1.0] * 3, 2, 0).kept_energy["m"] < 1 - 1e-6


@pytest.mark.parametrize("merge", [Linear(), Ties(), Dare(), Knots()])
def test_means_refuse_negative_weights(merge):
    with pytest.raises(SelectionError, match=r"negative.*'svd'"):
        merge([one_module(0, 2), one_module(1, 2)], [1.0, -0.5], 2, 0)


@pytest.mark.parametrize("method", [Ties, Dare, Knots])
@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, float("nan")])
def test_density_is_a_share(method, density):
    with pytest.raises(AdapterError, match="density"):
        method(density)


def test_mean_is_true_where_peft_linear_is_not():
    """peft's ``linear`` adds A and B apart; ours is the mean of the products."""
    base = torch.nn.Sequential(torch.nn.Linear(16, 12, bias=False))
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["0"])
    model = get_peft_model(base, config, adapter_name="x")
    model.add_adapter("y", config)
    layer = model.base_model.model[0]
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in "xy":
            layer.lora_A[name].weight.copy_(torch.randn(4, 16, generator=g))
            layer.lora_B[name].weight.copy_(torch.randn(12, 4, generator=g))
    model.add_weighted_adapter(["x", "y"], [0.5, 0.5], "theirs", combination_type="linear")
    mean = (layer.get_delta_weight("x") + layer.get_delta_weight("y")).detach() / 2
    deltas = [
        from_peft(
            {f"base_model.model.0.lora_{k}.weight": getattr(layer, f"lora_{k}")[n].weight for k in "AB"},
            config.to_dict(),
        )
        for n in "xy"
    ]
    ours = dense(Linear()(deltas, [1.0, 1.0], 8, 0).delta["0"])
    assert float((ours - mean).norm() / mean.norm()) < 1e-5
    assert float((layer.get_delta_weight("theirs").detach() - mean).norm() / mean.norm()) > 0.3


@pytest.mark.parametrize("merge", [Linear(), Cat(), Svd(), Ties(), Knots()])
def test_merges_scale_with_their_sources(merge):
    deltas = [one_module(i, 3) for i in range(3)]
    merged, scaled = (merge([scale(d, w) for d in deltas], [1.0, 2.0, 0.5], FULL, 0).delta for w in (1.0, 4.0))
    assert relative_error(scaled, scale(merged, 4.0)) < 1e-10


def test_shared_initialisation_compresses_better():
    """LoRAs that share A merge into rank r without loss; separate ones do not."""
    a = one_module(0, 3)["m"].a
    shared = [{"m": LowRank(a, one_module(i, 3)["m"].b)} for i in range(1, 4)]
    apart = [one_module(i, 3) for i in range(1, 4)]
    assert Linear()(shared, [1.0] * 3, 3, 0).kept_energy["m"] == pytest.approx(1.0)
    assert Linear()(apart, [1.0] * 3, 3, 0).kept_energy["m"] < 0.999
    assert cosine(shared[0], add(shared, [1, 1, 1])) > 0 and norm(shared[0]) > 0
    assert relative_error(Linear()(shared, [1.0] * 3, 3, 0).delta, add(shared, [1 / 3] * 3)) < 1e-12
