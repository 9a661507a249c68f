"""Low-rank arithmetic against slow dense versions, and PEFT folders read and written."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from transformers import BertConfig, BertModel

from adaptmtl.errors import AdapterError
from adaptmtl.fusion.delta import (
    Delta,
    LowRank,
    add,
    compress,
    cosine,
    dense,
    factorise,
    from_peft,
    inner,
    norm,
    relative_error,
    scale,
    scale_outputs,
    to_peft,
)

SHAPES = {"layer.0.query": (6, 5), "layer.1.dense": (4, 9)}
fast = settings(deadline=None, max_examples=40, derandomize=True)
seeds = st.integers(0, 2**31)
ranks = st.integers(1, 7)


def random_delta(seed: int, rank: int, modules=SHAPES, dtype=torch.float32) -> Delta:
    g = torch.Generator().manual_seed(seed)
    return {
        module: LowRank(
            torch.randn(rank, n_in, generator=g, dtype=dtype), torch.randn(n_out, rank, generator=g, dtype=dtype)
        )
        for module, (n_out, n_in) in modules.items()
    }


def flat(delta: Delta) -> torch.Tensor:
    """All modules as one float64 vector, zeros where a module is missing."""
    parts = [
        dense(delta[m]).double() if m in delta else torch.zeros(shape, dtype=torch.float64)
        for m, shape in SHAPES.items()
    ]
    return torch.cat([part.flatten() for part in parts])


def close(x, y, atol=1e-5):
    torch.testing.assert_close(x, y, atol=atol, rtol=1e-5)


@fast
@given(seeds, st.lists(st.tuples(ranks, st.floats(-3, 3, width=32)), min_size=1, max_size=4), st.booleans())
def test_add_is_the_dense_weighted_sum(seed, sources, drop_module):
    deltas = [random_delta(seed + i, rank) for i, (rank, _) in enumerate(sources)]
    if drop_module and len(deltas) > 1:
        del deltas[0]["layer.1.dense"]
    weights = [weight for _, weight in sources]
    total = add(deltas, weights)
    close(flat(total), sum(w * flat(d) for d, w in zip(deltas, weights, strict=True)))
    assert total["layer.0.query"].rank == sum(rank for rank, _ in sources)


@fast
@given(seeds, ranks, ranks)
def test_compress_is_the_truncated_dense_svd(seed, true_rank, rank):
    delta = random_delta(seed, true_rank)
    small, kept = compress(delta, rank)
    for module, update in delta.items():
        u, s, vt = torch.linalg.svd(dense(update).double(), full_matrices=False)
        close(dense(small[module]).double(), (u[:, :rank] * s[:rank]) @ vt[:rank])
        assert small[module].rank <= rank
        assert kept[module] == pytest.approx(float(s[:rank].square().sum() / s.square().sum()), abs=1e-6)


def test_compress_is_exact_at_the_true_rank_and_finds_it():
    delta = random_delta(0, 2)
    total = add([delta, delta, delta], [1.0, 2.0, -0.5])  # rank 6 as stored, 2 in truth
    small, kept = compress(total, 5)
    assert {update.rank for update in small.values()} == {2}
    assert relative_error(small, scale(delta, 2.5)) < 1e-6
    assert all(value == pytest.approx(1.0, abs=1e-12) for value in kept.values())


def test_compress_leaves_small_enough_modules_as_they_are():
    delta = random_delta(0, 3)
    same, kept = compress(delta, 3)
    assert all(same[m] is delta[m] for m in delta) and set(kept.values()) == {1.0}


def test_compress_works_on_ranks_beyond_the_matrix():
    delta = random_delta(1, 30)
    small, kept = compress(delta, 20)
    assert relative_error(small, delta) < 1e-6
    assert small["layer.1.dense"].rank == 4 and min(kept.values()) == pytest.approx(1.0)


def test_compress_never_forms_the_dense_matrix():
    # (200000, 200000) would take 160 GB.
    g = torch.Generator().manual_seed(0)
    update = LowRank(torch.randn(4, 200_000, generator=g), torch.randn(200_000, 4, generator=g))
    small, kept = compress({"m": update}, 2)
    assert small["m"].rank == 2 and 0 < kept["m"] < 1
    assert norm(small) ** 2 / norm({"m": update}) ** 2 == pytest.approx(kept["m"], abs=1e-5)


def test_zero_delta_survives_everything():
    zero = scale(random_delta(0, 3), 0.0)
    small, kept = compress(zero, 1)
    assert not flat(small).any() and set(kept.values()) == {1.0}
    assert norm(zero) == 0 and cosine(zero, random_delta(1, 2)) == 0
    assert relative_error(zero, zero) == 0 and relative_error(random_delta(1, 2), zero) == math.inf


def test_factorise_is_exact_at_full_rank():
    matrix = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    update, kept = factorise(matrix, 5)
    close(dense(update), matrix)
    assert kept == pytest.approx(1.0)
    assert factorise(torch.zeros(5, 7), 3)[0].rank == 1


@fast
@given(seeds, ranks, ranks)
def test_products_and_norms_are_the_dense_ones(seed, first_rank, second_rank):
    x, y = random_delta(seed, first_rank), random_delta(seed + 1, second_rank)
    assert inner(x, y) == pytest.approx(float(flat(x) @ flat(y)), abs=1e-4)
    assert norm(x) == pytest.approx(float(flat(x).norm()), rel=1e-6)
    expected = torch.nn.functional.cosine_similarity(flat(x), flat(y), dim=0)
    assert cosine(x, y) == pytest.approx(float(expected), abs=1e-6)
    assert relative_error(x, y) == pytest.approx(float((flat(x) - flat(y)).norm() / flat(y).norm()), rel=1e-5)


def test_relative_error_resolves_small_differences():
    x = random_delta(0, 3, dtype=torch.float64)
    y = scale(x, 1 + 1e-10)
    assert relative_error(y, x) == pytest.approx(1e-10, rel=1e-3)


@fast
@given(seeds, ranks)
def test_folded_output_scaling_is_the_unfolded_one(seed, rank):
    delta = random_delta(seed, rank)
    g = torch.Generator().manual_seed(seed)
    for module, update in scale_outputs(
        delta, vectors := {m: torch.randn(s[0], generator=g) for m, s in SHAPES.items()}
    ).items():
        x = torch.randn(3, SHAPES[module][1], generator=g)
        close(x @ update.a.T @ update.b.T, vectors[module] * (x @ delta[module].a.T @ delta[module].b.T))


def test_scalearn_sum_folds_into_one_update():
    deltas = [random_delta(i, i + 1) for i in range(3)]
    g = torch.Generator().manual_seed(9)
    vectors = [{m: torch.rand(s[0], generator=g) for m, s in SHAPES.items()} for _ in deltas]
    folded = add([scale_outputs(d, v) for d, v in zip(deltas, vectors, strict=True)], [1.0] * 3)
    for module, (_, n_in) in SHAPES.items():
        x = torch.randn(4, n_in, generator=g)
        unfolded = sum(v[module] * (x @ dense(d[module]).T) for d, v in zip(deltas, vectors, strict=True))
        close(x @ dense(folded[module]).T, unfolded)
        assert folded[module].rank == 6


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({"layer.0.query": torch.ones(6)}, "layer.1.dense"),
        ({"layer.0.query": torch.ones(6), "layer.1.dense": torch.ones(9)}, r"\(9,\)"),
        ({"layer.0.query": torch.ones(6), "layer.1.dense": torch.ones(4), "x": torch.ones(1)}, "x"),
    ],
)
def test_scaling_vectors_must_fit(vectors, message):
    with pytest.raises(AdapterError, match=message):
        scale_outputs(random_delta(0, 2), vectors)


def test_shapes_must_agree():
    other = random_delta(0, 2, {"layer.0.query": (6, 7)})
    with pytest.raises(AdapterError, match="same backbone"):
        add([random_delta(0, 2), other], [1.0, 1.0])


@pytest.mark.parametrize("rank", [0, -1])
def test_rank_must_be_positive(rank):
    with pytest.raises(AdapterError, match="at least 1"):
        compress(random_delta(0, 2), rank)


def test_factors_must_fit_and_be_precise():
    with pytest.raises(ValueError, match="not factors"):
        LowRank(torch.ones(2, 3), torch.ones(4, 3))
    with pytest.raises(ValueError, match="float32"):
        LowRank(torch.ones(2, 3).bfloat16(), torch.ones(4, 2).bfloat16())


# PEFT ---------------------------------------------------------------------------------------------------------------


def tiny_bert() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    return BertModel(config, add_pooling_layer=False).eval()


def tiny_adapter(seed: int, **settings) -> tuple[dict, dict, PeftModel]:
    """A LoRA with random A and B on the tiny model: its saved state, its config, and the model that carries it."""
    config = LoraConfig(**{"r": 3, "lora_alpha": 7, "target_modules": ["query", "value", "output.dense"], **settings})
    model = get_peft_model(tiny_bert(), config).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    return get_peft_model_state_dict(model), config.to_dict(), model


def outputs(model) -> torch.Tensor:
    ids = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


def with_dense(deltas: Delta) -> BertModel:
    model = tiny_bert()
    with torch.no_grad():
        for module, update in deltas.items():
            model.get_submodule(module).weight += dense(update)
    return model


VARIANTS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "rank pattern": {"rank_pattern": {"layer.1.attention.self.query": 5, "value": 2}},
    "alpha pattern": {"alpha_pattern": {"query": 11, r"^encoder.layer.0.*dense": 2}},
    "both, rslora": {"use_rslora": True, "rank_pattern": {"query": 4}, "alpha_pattern": {"query": 1, "value": 3}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_read_delta_is_what_peft_computes(variant):
    state, config, model = tiny_adapter(1, **VARIANTS[variant])
    delta = from_peft(state, config)
    assert set(delta) == {n.removeprefix("base_model.model.") for n, m in model.named_modules() if hasattr(m, "lora_A")}
    for module, update in delta.items():
        close(dense(update), model.base_model.model.get_submodule(module).get_delta_weight("default").detach())
    close(outputs(with_dense(delta)), outputs(model))


@pytest.mark.parametrize("variant", VARIANTS)
def test_written_delta_reads_back_the_same(variant):
    state, config, _ = tiny_adapter(1, **VARIANTS[variant])
    delta = from_peft(state, config)
    new_state, overrides = to_peft(delta)
    again = from_peft(new_state, config | overrides)
    assert set(again) == set(delta)
    assert all(torch.equal(again[m].a, delta[m].a) and torch.equal(again[m].b, delta[m].b) for m in delta)
    assert all(t.is_contiguous() and t.dtype == torch.float32 for t in new_state.values())


@pytest.mark.parametrize("rank", [None, 4])
def test_two_adapters_merged_load_into_peft(tmp_path, rank):
    first_state, first_config, _ = tiny_adapter(1)
    second_state, second_config, _ = tiny_adapter(2, r=2, use_rslora=True, target_modules=["query", "key"])
    deltas = [from_peft(first_state, first_config), from_peft(second_state, second_config)]
    mean = add(deltas, [0.5, 0.5])
    if rank:
        mean, _ = compress(mean, rank)
    state, overrides = to_peft(mean)
    assert overrides["rank_pattern"]  # query carries both adapters, the others one: ranks differ

    keys = {"r", "lora_alpha", "use_rslora", "target_modules", "lora_dropout", "rank_pattern", "alpha_pattern"}
    config = LoraConfig(**{k: v for k, v in (first_config | overrides).items() if k in keys})
    loaded = get_peft_model(tiny_bert(), config)
    result = set_peft_model_state_dict(loaded, state)
    assert not result.unexpected_keys and not [k for k in result.missing_keys if "lora_" in k]
    reference = with_dense(mean)
    close(outputs(loaded.eval()), outputs(reference))

    loaded.save_pretrained(tmp_path)
    close(outputs(PeftModel.from_pretrained(tiny_bert(), tmp_path).eval()), outputs(reference))
    if rank is None:
        by_hand = tiny_bert()
        with torch.no_grad():
            for delta in deltas:
                for module, update in delta.items():
                    by_hand.get_submodule(module).weight += 0.5 * dense(update)
        close(outputs(loaded), outputs(by_hand))


def test_pattern_of_layer_1_spares_layer_11():
    modules = {f"layer.{i}.query": (4, 4) for i in (0, 1, 2, 11)}
    delta = random_delta(0, 2, modules)
    delta["layer.1.query"] = random_delta(1, 4, modules)["layer.1.query"]
    state, overrides = to_peft(delta)
    assert overrides["r"] == 2 and list(overrides["rank_pattern"].values()) == [4]
    assert {m: u.rank for m, u in from_peft(state, overrides).items()} == {m: u.rank for m, u in delta.items()}


def test_half_precision_is_read_as_float32():
    state, config, _ = tiny_adapter(1)
    half = from_peft({k: v.bfloat16() for k, v in state.items()}, config)
    assert all(u.a.dtype == torch.float32 for u in half.values())
    assert relative_error(half, from_peft(state, config)) < 1e-2


def test_head_is_left_out():
    state, config, _ = tiny_adapter(1)
    state["base_model.model.classifier.weight"] = torch.ones(2, 16)
    assert (
        from_peft(state, config | {"modules_to_save": ["classifier"]}).keys()
        == from_peft({k: v for k, v in state.items() if "classifier" not in k}, config).keys()
    )
    with pytest.raises(AdapterError, match=r"classifier\.weight"):
        from_peft(state, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the backbone"),
        ({"r": 4}, "do not belong together"),
        ({"r": "four"}, "need numbers"),
        ({"r": 0}, "need numbers"),
        ({"lora_alpha": None}, "need numbers"),
        ({"rank_pattern": {"(": 3}}, "broken pattern"),
        ({"rank_pattern": ["query"]}, "need a mapping"),
        ({"lora_bias": True}, "lora_bias"),
    ],
)
def test_unusable_configs_are_refused(change, message):
    state, config, _ = tiny_adapter(1)
    with pytest.raises(AdapterError, match=message):
        from_peft(state, config | change)


def test_broken_states_are_refused():
    state, config, _ = tiny_adapter(1)
    key = next(k for k in state if "lora_A" in k)
    with pytest.raises(AdapterError, match="no lora_A"):
        from_peft({k: v for k, v in state.items() if k != key}, config)
    with pytest.raises(AdapterError, match="not finite"):
        from_peft(state | {key: state[key] * math.nan}, config)
    with pytest.raises(AdapterError, match="do not belong together"):
        from_peft(state | {key: state[key][0]}, config)
    with pytest.raises(AdapterError, match="is it a PEFT LoRA"):
        from_peft({}, config)
    with pytest.raises(AdapterError, match="without modules"):
        to_peft({})
