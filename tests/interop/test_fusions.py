"""Folders of blip, lxmert, vilt and visual_bert that transformers wrote (`make_fusions.py`).

References are float32, as is the computation here.
"""

import json

import numpy as np
import pytest

from tests.interop.test_folders import quiet, weights
from tests.parity import interop_inputs as inputs
from tests.parity.fusion_cases import CASES
from vljax.inference import load
from vljax.interop.convert import export_model, import_model

TOLERANCE = 1e-5


def outputs_of(kind, model, stored):
    """What an imported model computes of the inputs, by the names of what is stored."""
    ids, mask = model.tokenizers["text"](inputs.TEXTS)
    run = model.predictor.run
    if kind == "blip":
        images = np.stack([model.images(file)["image"] for file in inputs.images()])
        names = {
            "image": "image/embedding",
            "text": "text/embedding",
            "match": "match/logits",
            "image_tokens": "image/tokens",
            "text_tokens": "text/tokens",
            "grounded_tokens": "text.grounded/tokens",
        }
        made = run([*names.values()], {"image": images, "text": ids, "text_mask": mask})
        found = {name: made[output] for name, output in names.items()}
        for name in ("text_tokens", "grounded_tokens"):
            found[name] = found[name] * mask[..., None]
        return {**found, "similarity": found["image"] @ found["text"].T, "ids": ids}
    if kind in ("vilt", "visual_bert"):
        return outputs_of_single_stream(model, stored, ids, mask)
    names = {
        "question_tokens": "fusion.question/tokens",
        "regions_tokens": "fusion.regions/tokens",
        "pooled": "fusion.question/pooled",
    }
    if "answer" in stored:
        names["answer"] = "answer/logits"
    batch = {"question": ids, "question_mask": mask, "regions": stored["features"]}
    batch |= {"regions_boxes": stored["boxes"], "regions_mask": stored["mask"]}
    made = run([*names.values()], batch)
    found = {name: made[output] for name, output in names.items()}
    found["question_tokens"] = found["question_tokens"] * mask[..., None]
    found["regions_tokens"] = found["regions_tokens"] * stored["mask"][..., None]
    return {**found, "ids": ids}


def outputs_of_single_stream(model, stored, ids, mask):
    text = model.run.model.nodes["fusion"].streams[0]
    names = {"text_tokens": f"fusion.{text}/tokens", "pooled": "fusion/pooled"}
    if "logits" in stored:
        names["logits"] = "answer/logits" if text == "question" else "match/logits"
    batch = {text: ids, f"{text}_mask": mask}
    if "regions_tokens" in stored:
        names["regions_tokens"] = "fusion.regions/tokens"
        batch |= {"regions": stored["features"], "regions_mask": stored["mask"]}
    else:
        names["image_class"] = "fusion.image/tokens"
        files = [model.images(file) for file in inputs.images()]
        batch |= {name: np.stack([file[name] for file in files]) for name in files[0]}
    made = model.predictor.run([*names.values()], batch)
    found = {name: made[output] for name, output in names.items()}
    found["text_tokens"] = found["text_tokens"] * mask[..., None]
    if "image_class" in found:
        found["image_class"] = found["image_class"][:, 0]
    else:
        found["regions_tokens"] = found["regions_tokens"] * stored["mask"][..., None]
    return {**found, "ids": ids}


def compare(kind, model, stored):
    ours = outputs_of(kind, model, stored)
    assert ours.keys() == {*stored} - {"features", "boxes", "mask"}
    for name, value in ours.items():
        np.testing.assert_allclose(value, stored[name], rtol=0, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_import_computes_the_same_and_export_preserves_every_bit(name, foreign, tmp_path):
    source = foreign(name)
    import_model(str(source), str(tmp_path / "w"), overwrite=False, report=quiet)
    stored = dict(np.load(source / "outputs.npz"))
    compare(CASES[name]["kind"], load(str(tmp_path / "w")), stored)

    out = tmp_path / "out"
    export_model(str(tmp_path / "w"), str(out), "transformers", report=quiet)
    before, after = weights(source), weights(out)
    assert before.keys() == after.keys()
    for key, array in before.items():
        np.testing.assert_array_equal(
            after[key], array.astype(np.float32), err_msg=key, strict=True
        )
    # Sizes, answers and the tokenizer come back too.
    stated, written = (json.loads((f / "config.json").read_text()) for f in (source, out))
    fields = ("architectures", "l_layers", "visual_feat_dim", "num_qa_labels", "id2label")
    sizes = ("hidden_size", "image_size", "max_position_embeddings", "visual_embedding_dim")
    for field in (*fields, *sizes):
        if field in written:
            assert written[field] == stated[field], field
    compare(CASES[name]["kind"], load(str(out)), stored)
