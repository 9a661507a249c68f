"""The embedded backbone itself: our engine beside plain transformers and plain peft."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from toys import QUICK, bundle_of, toy_data
from transformers import AutoModel

from adaptmtl.backbone.load import resolve
from adaptmtl.backbone.segments import SegmentedEncoder, lower_part
from adaptmtl.training.restore import restore
from adaptmtl.workspace import Workspace
from adaptmtl.zoo.store import Zoo


@pytest.mark.real
def test_minilm_is_the_model_that_transformers_and_peft_load(real_workspace: Workspace, workspace: Workspace):
    backbone = resolve("minilm", real_workspace)
    texts = ["The ferry leaves at noon, and the museum closes at five.", "Was it good?"]
    tokens = backbone.tokenizer(texts, padding=True, return_tensors="pt")
    ids, mask, types = tokens["input_ids"], tokens["attention_mask"], tokens["token_type_ids"]
    plain = AutoModel.from_pretrained(backbone.path).eval()
    with torch.no_grad():
        expected = plain(**tokens).last_hidden_state
        states = lower_part(backbone.load_encoder(), backbone.anatomy, 3)(**tokens).last_hidden_state
        seen = SegmentedEncoder(backbone.load_encoder(), backbone.anatomy, 3)(ids, mask, types, states)
    torch.testing.assert_close(seen[mask == 1], expected[mask == 1], atol=1e-4, rtol=0)

    data = toy_data("sequence_classification", backbone, rows=24)
    bundle, _ = bundle_of(workspace, backbone, data, replace(QUICK, lower_layers=3))
    entry = Zoo(workspace).add(bundle)
    theirs = PeftModel.from_pretrained(plain, str(entry.path)).eval()
    ours = restore(entry.load(), backbone, dtype=torch.float32).encoder
    with torch.no_grad():
        adapted, again = theirs(**tokens).last_hidden_state, ours(ids, mask, types, None)
    torch.testing.assert_close(again[mask == 1], adapted[mask == 1], atol=1e-4, rtol=0)
    assert float((adapted - expected)[mask == 1].abs().max()) > 1e-3

    half = restore(entry.load(), backbone, dtype=torch.bfloat16)
    with torch.no_grad():
        expected_logits = half.head(adapted, mask)
        logits = half.head(half.encoder(ids, mask, types, None).float(), mask)
    torch.testing.assert_close(logits, expected_logits, atol=1e-2, rtol=0)
    assert float((logits - expected_logits).abs().max()) > 0
