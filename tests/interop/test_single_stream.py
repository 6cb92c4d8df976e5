"""Folders of vilt and visual_bert as loaded models, and what is refused of them.

`test_fusions.py` compares what they compute with what transformers computes.
"""

import dataclasses
import io
import json

import jax
import numpy as np
import pytest

from tests.interop.test_folders import quiet
from tests.parity import interop_inputs as inputs
from tests.parity.fusion_cases import CASES
from vljax.config import UserError
from vljax.data.transforms import Patchify
from vljax.inference import load
from vljax.interop.convert import import_model
from vljax.interop.export_plan import ExportRefused, of_recipe, plan_export
from vljax.run import prepare


@pytest.mark.parametrize("name", ["vilt_a", "visual_bert_a"])
def test_a_loaded_folder_answers_questions(name, foreign, tmp_path):
    """With the names of the answers, from an image file or a file of region features."""
    source = foreign(name)
    model, stored = load(str(source)), np.load(source / "outputs.npz")
    pictures = inputs.images()
    if name == "visual_bert_a":
        pictures = []
        for i, mask in enumerate(stored["mask"]):
            file = io.BytesIO()
            np.savez(file, features=stored["features"][i][mask], boxes=stored["boxes"][i][mask])
            pictures.append(file.getvalue())
    names = [answer.lower() for answer in CASES[name]["answers"]]
    for picture, text, logits in zip(pictures, inputs.TEXTS, stored["logits"], strict=True):
        found = dict(model.answer(picture, text, top=len(names)))
        weights = np.exp(logits - logits.max())
        odds = 1 / (1 + np.exp(-logits)) if name == "vilt_a" else weights / weights.sum()
        for answer, probability in zip(names, odds, strict=True):
            assert found[answer] == pytest.approx(probability, abs=1e-5)


def changed(folder, file="config.json", part=None, **fields):
    content = json.loads((folder / file).read_text())
    (content if part is None else content[part]).update(fields)
    (folder / file).write_text(json.dumps(content))


PROCESSOR = {"file": "processor_config.json", "part": "image_processor"}


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("vilt_a", {"qkv_bias": False}, "qkv_bias: is False; vljax has only True"),
        ("vilt_a", {"modality_type_vocab_size": 3}, "modality_type_vocab_size: is 3; vljax has"),
        ("vilt_a", {"max_image_length": 9}, "max_image_length: is 9: transformers reads 9 random"),
        ("vilt_a", {**PROCESSOR, "size_divisor": 16}, "size_divisor: is 16; vljax has only 8"),
        ("vilt_a", {**PROCESSOR, "do_pad": False}, "do_pad: is False; vljax has only True"),
        ("vilt_a", {**PROCESSOR, "size": {"height": 9}}, "size: .* does not state a shortest_edge"),
        ("vilt_a", {**PROCESSOR, "resample": 0}, "resample: is 0; vljax has 2"),
        ("vilt_a", {"id2label": {"0": "yes"}}, "has the shape .5, 48., its configuration asks"),
        ("visual_bert_a", {"bypass_transformer": True}, "bypass_transformer: is True; vljax has"),
        ("visual_bert_a", {"type_vocab_size": 1}, "type_vocab_size: is 1; regions have the second"),
        (
            "visual_bert_a",
            {"architectures": ["VisualBertForVisualReasoning"]},
            "architectures: is .*; of heads, vljax has only .'VisualBertForQuestionAnswering'.",
        ),
    ],
)
def test_unsupported_configurations_are_an_error(name, fields, message, foreign, tmp_path):
    source = foreign(name)
    changed(source, **fields)
    with pytest.raises(UserError, match=message):
        load(str(source))


def test_a_visual_bert_without_a_tokenizer_is_told_which_one(foreign):
    source = foreign("visual_bert_b")
    (source / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"put the tokenizer\.json of bert-base-uncased there"):
        load(str(source))


def test_answers_without_names_are_a_note(foreign, tmp_path):
    source = foreign("vilt_a")
    changed(source, id2label={str(i): f"LABEL_{min(i, 3)}" for i in range(5)})
    done = import_model(str(source), str(tmp_path / "w"), overwrite=False, report=quiet)
    assert "id2label does not name the 5 answers, so they are known by index only" in done.notes
    with pytest.raises(UserError, match="the model does not answer questions"):
        load(str(tmp_path / "w")).answer(inputs.images()[0], "what?")


@pytest.mark.parametrize(
    ("name", "node", "fields", "message"),
    [
        ("vilt_a", "fusion", {"pooling": "mean"}, "model.nodes.fusion.pooling = 'mean'"),
        ("vilt_a", "fusion", {"types": False}, "model.nodes.fusion.types = False"),
        ("vilt_a", "fusion", {"pooler": False}, "model.nodes.fusion.pooler = False"),
        ("vilt_a", "answer", {"norm": "after"}, "model.nodes.answer.norm = 'after'"),
        ("vilt_a", "image", {"position_filter": "bilinear"}, "position_filter = 'bilinear'"),
        ("vilt_a", "question", {"depth": 1}, "model.nodes.question.depth = 1; it has 0"),
        ("visual_bert_a", "fusion", {"post_norm": False}, "model.nodes.fusion.post_norm = False"),
        ("visual_bert_a", "regions", {"positions": 3}, "model.nodes.regions.positions = 3"),
        ("visual_bert_a", "answer", {"stream": "fusion"}, "model.nodes.answer.stream = 'fusion'"),
    ],
)
def test_what_a_layout_lacks_is_named(name, node, fields, message, foreign):
    """From the recipe alone, as `vljax check --for transformers` does."""
    run = load(str(foreign(name))).run
    part = dataclasses.replace(run.model.nodes[node], **fields)
    model = dataclasses.replace(run.model, nodes={**run.model.nodes, node: part})
    run = dataclasses.replace(run, model=model)
    with pytest.raises(ExportRefused) as error:
        plan_export(of_recipe(prepare(run, jax.devices()[:1])), "transformers")
    assert message in str(error.value)


def test_patches_by_budget_are_not_those_of_vilt(foreign):
    run = load(str(foreign("vilt_a"))).run
    transforms = tuple(
        dataclasses.replace(t, shortest=None) if isinstance(t, Patchify) else t
        for t in run.data.eval_transforms
    )
    data = dataclasses.replace(run.data, train_transforms=transforms, eval_transforms=transforms)
    run = dataclasses.replace(run, data=data)
    with pytest.raises(ExportRefused, match="a length of the shortest side in pixels"):
        plan_export(of_recipe(prepare(run, jax.devices()[:1])), "transformers")
