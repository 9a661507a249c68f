"""The identities that every fusion must pass on real (tiny) models: DESIGN, fusion."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_tasks import FIVE_KINDS, RECIPE, toy_setup

from adaptmtl.adapters.bundle import read_bundle, write_bundle
from adaptmtl.adapters.heads import make_head
from adaptmtl.adapters.methods import peft_state, weights_from_peft
from adaptmtl.errors import SelectionError
from adaptmtl.fusion.contract import merges
from adaptmtl.fusion.delta import from_peft
from adaptmtl.fusion.methods import SourceAdapter, fusions, start_from, start_weights, trains_on_sources
from adaptmtl.fusion.run import rows_behind, run_fusion
from adaptmtl.provenance import Cost
from adaptmtl.storage import key_of
from adaptmtl.training.model import lora_model, outputs_of
from adaptmtl.training.restore import restore
from adaptmtl.training.score import score
from adaptmtl.transfer.evidence import method_of
from adaptmtl.zoo.build import make_bundle, train_adapters

SOURCES = ("mood", "colour", "nouns")
METHODS = ("merge", "scalearn", "joint")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def setup(tmp_path_factory, tiny_backbone):
    folder = tmp_path_factory.mktemp("fusion")
    # 15 steps: sources whose updates are far from zero
    return toy_setup(
        folder / "tasks", tiny_backbone, folder / "home", {*SOURCES, *FIVE_KINDS}, replace(RECIPE, steps=15)
    )


@pytest.fixture(scope="module")
def entries(setup):
    return train_adapters(setup, SOURCES)


@pytest.fixture(scope="module")
def adapters(entries):
    return [SourceAdapter(one.task, one.train_rows, one.load()) for one in entries]


@pytest.fixture(scope="module")
def quick(setup):
    return setup.with_steps(4)


def hidden(setup, weights, task="opinion"):
    """Last hidden states with given weights, in fp32."""
    data = setup.data(task)
    head = make_head(data.spec, setup.backbone.hidden_size, None, 0)
    k = setup.recipe.layers_below(setup.backbone)
    model = lora_model(setup.backbone, setup.recipe.method, k, head, torch.float32, weights).model.eval()
    states = data.validation.states(setup.workspace, k, torch.float32, CPU)
    from adaptmtl.training.batches import make_batch

    batch = make_batch(data.validation.encoded, states, np.arange(8))
    with torch.inference_mode():
        return model.hidden(batch)[batch.attention_mask.bool()]


def test_one_source_merged_with_weight_1_starts_as_that_source(setup, adapters):
    for source in adapters:
        merged = merges["linear"]([source.delta], [1.0], setup.recipe.method.rank, 0)
        start = start_weights(setup, merged.delta)
        own = weights_from_peft(source.bundle.adapter)
        assert torch.allclose(hidden(setup, start), hidden(setup, own), atol=1e-5)
        assert (hidden(setup, start) - hidden(setup, None)).abs().max() > 1e-3, "the source hardly changes anything"


def test_a_start_has_balanced_halves_and_room_to_learn(setup, adapters):
    wide = replace(setup, recipe=replace(setup.recipe, method=replace(setup.recipe.method, rank=5, alpha=10.0)))
    merged = merges["linear"]([adapters[0].delta], [1.0], 5, 0)
    start = start_weights(wide, merged.delta)
    for a, b in start.values():
        assert a.shape[0] == b.shape[1] == 5
        used = b.norm(dim=0) > 0
        assert int(used.sum()) == 2 and bool((a.norm(dim=1) > 0).all())
        assert torch.allclose(
            a[used].norm(dim=1) * 2, b[:, used].norm(dim=0) * 2 * wide.recipe.method.alpha / 5, rtol=1e-4
        )


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_sources_does_not_matter_to_the_byte(quick, entries, method):
    forward = run_fusion(quick, quick.data("opinion"), entries, method, 0).trained
    backward = run_fusion(quick, quick.data("opinion"), entries[::-1], method, 0).trained
    for name, (a, b) in forward.weights.items():
        assert torch.equal(a, backward.weights[name][0]) and torch.equal(b, backward.weights[name][1])
    for name, value in forward.model.head.state_dict().items():
        assert torch.equal(value, backward.model.head.state_dict()[name])


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded_gives_the_same_outputs(quick, entries, method, tmp_path):
    data = quick.data("opinion")
    fused = run_fusion(quick, data, entries, method, 0)
    outputs = fused.trained.outputs(quick.workspace, data.validation)
    bundle = make_bundle(quick, data, fused.trained, score(data, data.validation, outputs), Cost(1.0, 1.0, 100.0),
                         key=key_of(test=method), method="fused", seed=0, lora=fused.lora)  # fmt: skip
    write_bundle(tmp_path, bundle)
    loaded = restore(read_bundle(tmp_path), quick.backbone)
    again = outputs_of(loaded, data.validation.encoded, None, CPU)
    # the training run reads cached bf16 states of the lower layers; the loaded model runs from the embeddings
    assert np.abs(again - outputs).max() < 2e-3
    assert all(torch.equal(bundle.adapter[name], value) for name, value in read_bundle(tmp_path).adapter.items())


def test_scalearn_folded_equals_unfolded(quick, entries, tmp_path):
    from adaptmtl.backbone.precision import LowRankLinear

    data = quick.data("opinion")
    fused = run_fusion(quick, data, entries, "scalearn", 0)
    unfolded = fused.trained.model.eval()
    for layer in unfolded.modules():
        if isinstance(layer, LowRankLinear):
            layer.dtype = torch.float32  # so that only the folding could differ
            assert layer.output_scales is not None and layer.output_scales.shape[0] == len(entries)
            assert layer.output_scales.std() > 0, "no scale was learned"
    k = fused.trained.k
    from adaptmtl.adapters.methods import inject_lora
    from adaptmtl.backbone.precision import default_dtype
    from adaptmtl.backbone.segments import SegmentedEncoder
    from adaptmtl.training.model import TaskModel

    def folded_model(weights):
        encoder = quick.backbone.load_encoder()
        inject_lora(encoder, fused.lora.config(quick.backbone, k), default_dtype(), weights)
        for layer in encoder.modules():
            if isinstance(layer, LowRankLinear):
                layer.dtype = torch.float32
        return TaskModel(SegmentedEncoder(encoder, quick.backbone.anatomy, k), unfolded.head, frozen=True).eval()

    states = data.validation.states(quick.workspace, k, default_dtype(), CPU)
    reference = outputs_of(unfolded, data.validation.encoded, states, CPU)
    direct = outputs_of(folded_model(fused.trained.weights), data.validation.encoded, states, CPU)
    through_peft = weights_from_peft(peft_state(fused.trained.weights))
    saved = outputs_of(folded_model(through_peft), data.validation.encoded, states, CPU)
    assert np.abs(direct - reference).max() < 1e-5
    assert np.abs(saved - direct).max() == 0


def test_scalearn_starts_as_the_mean_of_the_sources_and_keeps_them_frozen(quick, entries, adapters):
    fused = run_fusion(quick, quick.data("opinion"), entries, "scalearn", 0)
    assert fused.lora.rank == sum(quick.recipe.method.rank for _ in entries)
    layers, width = quick.backbone.n_layers - fused.trained.k, quick.backbone.hidden_size
    per_layer = 3 * width + 2 * width  # outputs of query, value, wide and narrow feed-forward (2 x width and width)
    head = 2 * width + 2
    assert fused.trained.trained_parameters == len(entries) * layers * per_layer + head


@pytest.mark.parametrize("target", FIVE_KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_serves_every_kind_of_target(quick, adapters, method, target):
    data = quick.data(target)
    sources = [one for one in adapters if one.task != target]
    fused = fusions[method](quick, data, sources, 0)
    scored = score(data, data.validation, fused.trained.outputs(quick.workspace, data.validation))
    assert all(np.isfinite(value) for value in scored.values.values())
    assert fused.trained.log.steps == 4


def test_seeds_matter_and_repeat(quick, entries):
    first, same, other = (
        run_fusion(quick, quick.data("opinion"), entries, "merge", seed).trained for seed in (0, 0, 1)
    )
    name = next(iter(first.weights))
    assert torch.equal(first.weights[name][0], same.weights[name][0])
    assert not torch.equal(first.weights[name][0], other.weights[name][0])


def test_joint_training_is_that_of_the_rows_that_are_there_now(setup, entries):
    quick, chosen = setup.with_steps(4), entries[:2]
    before = rows_behind(quick, chosen)
    assert set(before) == {one.task for one in chosen} and trains_on_sources("joint") and not trains_on_sources("merge")
    path = Path(setup.catalogue.tasks[chosen[0].task].rows[0].train)
    text = path.read_text()
    try:
        path.write_text(text + text.splitlines(keepends=True)[0])
        assert rows_behind(quick, chosen) != before, "the edited file was not read again"
    finally:
        path.write_text(text)


def test_joint_training_needs_the_rows_of_its_sources(setup, adapters):
    unknown = replace(adapters[0], task="pulled")
    with pytest.raises(SelectionError, match=r"no task 'pulled' is known here.*--method merge"):
        fusions["joint"](setup, setup.data("opinion"), [unknown], 0)


def test_an_adapter_whose_scale_is_not_alpha_over_r_begins_at_its_own_update(setup, adapters):
    bundle = adapters[0].bundle
    scaled = replace(bundle, lora_config={**bundle.lora_config, "use_rslora": True})
    plain, own = (from_peft(one.adapter, one.lora_config) for one in (bundle, scaled))
    start = start_from(setup, [scaled])
    ratio = setup.recipe.method.rank**0.5
    scale = setup.recipe.method.alpha / setup.recipe.method.rank
    for name, (a, b) in start.items():
        update = plain[name].b @ plain[name].a
        torch.testing.assert_close(own[name].b @ own[name].a, ratio * update, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(scale * b @ a, ratio * update, atol=1e-4, rtol=1e-3, check_dtype=False)
    with pytest.raises(SelectionError, match="rsLoRA or other ranks"):
        method_of(scaled, setup)
