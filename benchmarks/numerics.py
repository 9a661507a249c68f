"""How far are our logits from those of plain transformers and peft in fp32?

Every adapter of a workspace is loaded twice, by peft into transformers' own model and by us in each dtype, and reads
its task's evaluation rows. Differences are shares of the largest logit.

    python benchmarks/numerics.py --home DIR [--mirror DIR] [--eval-rows 500] [--smoke]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from common import parser


def differences(entry: Any, setup: Any) -> dict[str, Any]:
    """Returns what an adapter's logits are in each dtype beside the plain ones."""
    import numpy as np
    import torch

    from adaptmtl.training.model import outputs_of
    from adaptmtl.training.restore import restore

    encoded, device = setup.data(entry.task).validation.encoded, torch.device("cpu")
    bundle = entry.load()
    models = {
        name: restore(bundle, setup.backbone, dtype=dtype, verify=False)
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    wanted = plain(entry.path, setup, models["fp32"], encoded)
    largest = float(np.abs(wanted).max())
    found: dict[str, Any] = {"task": entry.task, "rows": encoded.n_rows, "largest": largest}
    for name, model in models.items():
        off = np.abs(outputs_of(model, encoded, None, device) - wanted) / largest
        found[name] = {"root_mean_square": float(np.sqrt((off**2).mean())), "most": float(off.max())}
    return found


def plain(folder: Path, setup: Any, model: Any, encoded: Any) -> Any:
    """Returns the logits of an adapter's folder that peft loads, with the head of a model of ours."""
    import torch
    from peft import PeftModel
    from transformers import AutoModel

    from adaptmtl.training.model import empty_outputs, feature_batches, place_outputs

    out = empty_outputs(model.head, encoded)
    encoder = AutoModel.from_pretrained(setup.backbone.path, local_files_only=True)
    encoder = PeftModel.from_pretrained(encoder, str(folder)).eval()
    for batch in feature_batches(encoded, None):
        with torch.inference_mode():
            given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
            if batch.token_type_ids is not None:
                given["token_type_ids"] = batch.token_type_ids
            values = model.head.scale_outputs(model.head(encoder(**given).last_hidden_state, batch.attention_mask))
        place_outputs(out, values.numpy(), model.head, encoded, batch.features)
    return out


def main() -> int:
    options_of = parser(__doc__, "numerics.json", "--backbone", "--threads", "--mirror", "--home", "--task-file")
    options_of.add_argument("--eval-rows", type=int, default=500)
    options_of.add_argument("--max-length", type=int, default=64)
    options = options_of.parse_args()
    if options.smoke:
        options.eval_rows = 16
    import torch
    from common import resumed, setup_of

    from adaptmtl.provenance import record
    from adaptmtl.storage import write_json
    from adaptmtl.training.recipe import Recipe
    from adaptmtl.zoo.store import Zoo

    torch.set_num_threads(options.threads)
    setup = setup_of(
        Recipe(), backbone=options.backbone, home=options.home, mirror=options.mirror, task_file=options.task_file,
        max_length=options.max_length, eval_rows=options.eval_rows,
    )  # fmt: skip
    entries = Zoo(setup.workspace).find(method="lora", backbone_hash=setup.backbone.hash)
    if not entries:
        raise SystemExit(f"no adapters of {setup.backbone.name} in {setup.workspace.home}: train some there first")
    settings = {name: getattr(options, name) for name in ("backbone", "eval_rows", "max_length")}
    result = resumed(options.out, settings, question=(__doc__ or "").splitlines()[0], adapters=[])
    done = {one["key"] for one in result["adapters"]}
    for entry in {entry.task: entry for entry in entries}.values():
        if entry.key not in done:
            result["adapters"].append({"key": entry.key, **differences(entry, setup)})
            write_json(options.out, {**result, "provenance": record()})
            print(result["adapters"][-1], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
