from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tiny import write_tiny_backbone
from tiny_architectures import write_architecture
from toys import CPU, bundle_of, toy_data
from transformers import AutoModel

from adaptmtl.adapters.bundle import Bundle
from adaptmtl.backbone.load import Backbone, resolve
from adaptmtl.errors import AdapterError, BackboneError
from adaptmtl.tasks.kind import kinds
from adaptmtl.tasks.rows import Split
from adaptmtl.training.model import outputs_of
from adaptmtl.training.restore import restore, spec_of
from adaptmtl.workspace import Workspace
from adaptmtl.zoo.store import Zoo


@pytest.fixture(scope="module")
def made(tiny_backbone: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Backbone, Bundle]:
    workspace = Workspace(home=tmp_path_factory.mktemp("home"), mirror=None, offline=True)
    backbone = resolve(tiny_backbone, workspace)
    return workspace, backbone, bundle_of(workspace, backbone, toy_data("token_classification", backbone))[0]


def with_manifest(bundle: Bundle, **changes: Any) -> Bundle:
    return replace(bundle, manifest=bundle.manifest.model_copy(update=changes))


@pytest.mark.parametrize("kind", list(kinds))
def test_an_adapter_of_every_kind_comes_back(kind: str, backbone: Backbone, workspace: Workspace):
    data = toy_data(kind, backbone)
    bundle, trained = bundle_of(workspace, backbone, data)
    assert trained.model.head.output.weight.requires_grad  # what is saved is a copy: training may go on
    entry = Zoo(workspace).add(bundle)
    model = restore(entry.load(), backbone)
    outputs = outputs_of(model, data.validation.encoded, None, CPU)
    expected = trained.outputs(workspace, data.validation)
    np.testing.assert_allclose(outputs, expected, atol=5e-2 * np.abs(expected).max())
    spec = spec_of(bundle)
    assert (spec.name, spec.kind, spec.label_names) == (data.spec.name, kind, data.spec.label_names)


@pytest.mark.parametrize("case", ["bert", "roberta", "modernbert", "deberta-v2-conv"])
def test_plain_peft_loads_what_the_zoo_holds(case: str, workspace: Workspace, tmp_path: Path):
    backbone = resolve(str(write_architecture(case, tmp_path / case)), workspace)
    bundle, _ = bundle_of(workspace, backbone, toy_data("sequence_classification", backbone, rows=24))
    entry = Zoo(workspace).add(bundle)
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(backbone.path), str(entry.path)).eval()
    ours = restore(entry.load(), backbone, dtype=torch.float32).encoder
    ids, mask = torch.arange(5, 45).reshape(2, 20), torch.tensor([[1] * 20, [1] * 12 + [0] * 8])
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
        plain = AutoModel.from_pretrained(backbone.path).eval()(input_ids=ids, attention_mask=mask).last_hidden_state
        seen = ours(ids, mask, None, None)
    torch.testing.assert_close(seen[mask == 1], expected[mask == 1], atol=1e-4, rtol=0)
    assert float((plain - expected)[mask == 1].abs().max()) > 1e-2


def test_changed_weights_are_noticed(made):
    _, backbone, bundle = made
    name = next(name for name in bundle.adapter if name.endswith("3.output.dense.lora_B.weight"))
    noise = torch.randn(bundle.adapter[name].shape, generator=torch.Generator().manual_seed(0))
    adapter = {**bundle.adapter, name: bundle.adapter[name] + noise}
    head = {**bundle.head, "output.bias": bundle.head["output.bias"] + 0.01}
    for changed in (replace(bundle, adapter=adapter), replace(bundle, head=head)):
        with pytest.raises(AdapterError, match="does not reproduce its saved outputs") as caught:
            restore(changed, backbone)
        assert "\n" not in str(caught.value) and bundle.manifest.name in str(caught.value)
        assert restore(changed, backbone, verify=False) is not None


@pytest.mark.parametrize("logits", [
    lambda rows: [*rows[:-1], [[0.0]]],
    lambda rows: [*rows[:-1], [*rows[-1][:-1], [0.0]]],
    lambda rows: [*rows[:-1], 0.0],
    lambda rows: [*rows[:-1], []],
])  # fmt: skip
def test_probe_outputs_of_another_shape_are_noticed(made, logits):
    _, backbone, bundle = made
    probe = bundle.manifest.probe.model_copy(update={"logits": tuple(logits(list(bundle.manifest.probe.logits)))})
    with pytest.raises(AdapterError, match="does not reproduce"):
        restore(with_manifest(bundle, probe=probe), backbone)


def test_the_rows_in_the_manifest_are_the_ones_that_are_run(made):
    _, backbone, bundle = made
    probe = bundle.manifest.probe
    fewer = probe.model_copy(update={"rows": probe.rows[1:3], "logits": probe.logits[1:3]})
    assert restore(with_manifest(bundle, probe=fewer), backbone) is not None
    swapped = probe.model_copy(update={"rows": probe.rows[::-1]})
    with pytest.raises(AdapterError, match="does not reproduce"):
        restore(with_manifest(bundle, probe=swapped), backbone)


def test_another_backbone_of_the_same_shape_is_refused_by_name(made, tmp_path: Path):
    workspace, backbone, bundle = made
    other = resolve(str(write_tiny_backbone(tmp_path / "twin", seed=1)), workspace)
    with pytest.raises(BackboneError) as caught:
        restore(bundle, other)
    assert backbone.name in str(caught.value) and other.name in str(caught.value) and "\n" not in str(caught.value)


def test_a_head_or_task_that_does_not_fit_is_an_error(made):
    _, backbone, bundle = made
    narrow = {"output.weight": torch.zeros(2, 32), "output.bias": torch.zeros(2)}
    with pytest.raises(AdapterError, match="does not fit its task"):
        restore(replace(bundle, head=narrow), backbone)
    unlabelled = bundle.manifest.task.model_copy(update={"label_names": None})
    with pytest.raises(AdapterError, match="label_names") as caught:
        restore(with_manifest(bundle, task=unlabelled), backbone)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("unit", "zero"), [(5e4, 3e5), (1e-5, 0.0)])
def test_values_of_any_size_come_back_and_changes_are_noticed(unit, zero, backbone: Backbone, workspace: Workspace):
    """Prices differ by cents on a processor that rounds otherwise; shares of a millionth must not be too rough."""
    data = toy_data("regression", backbone)
    rows = tuple({**row, "label": zero + unit * row["label"]} for row in data.train.rows.rows)
    bundle, _ = bundle_of(workspace, backbone, replace(data, train=replace(data.train, rows=Split(rows), _states={})))
    restore(bundle, backbone)
    saved, spread = bundle.manifest.probe, float(bundle.head["spread"])
    assert 2e-3 * spread <= saved.tolerance <= 2.1e-3 * spread + 1e-6 * zero

    def moved(by):
        shift = [[value + by for value in one] for row in saved.logits for one in row]
        return with_manifest(bundle, probe=saved.model_copy(update={"logits": tuple([one] for one in shift)}))

    restore(moved(1e-3 * spread), backbone)
    with pytest.raises(AdapterError, match="does not reproduce its saved outputs"):
        restore(moved(1e-2 * spread), backbone)
