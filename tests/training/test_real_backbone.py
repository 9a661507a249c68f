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

    data = toy_data("sequence_classification", backbone, rows=96)
    bundle, _ = bundle_of(workspace, backbone, data, replace(QUICK, lower_layers=3, steps=24, learning_rate=3e-3))
    entry = Zoo(workspace).add(bundle)
    texts = [row["text"] for row in data.train.rows.rows[:64]] + texts
    tokens = backbone.tokenizer(texts, padding=True, return_tensors="pt")
    ids, mask, types = tokens["input_ids"], tokens["attention_mask"], tokens["token_type_ids"]
    theirs = PeftModel.from_pretrained(plain, str(entry.path)).eval()
    with torch.no_grad():
        adapted = theirs(**tokens).last_hidden_state
        expected = plain(**tokens).last_hidden_state  # peft put its layers into this very model: adapted as well
        assert torch.equal(expected, adapted)
    for dtype, most in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        ours = restore(entry.load(), backbone, dtype=dtype)
        with torch.no_grad():
            wanted, logits = ours.head(adapted, mask), ours.head(ours.encoder(ids, mask, types, None).float(), mask)
        assert float(wanted.abs().max()) > 1, "the adapter learned something"
        assert 0 < float((logits - wanted).abs().max()) <= most * float(wanted.abs().max())
