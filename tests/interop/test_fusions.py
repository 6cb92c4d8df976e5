"""Folders of blip, lxmert, vilt and visual_bert that transformers wrote (`make_fusions.py`).

References are float32, as is the computation here.
"""

import dataclasses
import io
import json

import jax
import numpy as np
import pytest

from tests.interop.test_families import change_config, imported
from tests.interop.test_folders import quiet, weights
from tests.parity import interop_inputs as inputs
from tests.parity.fusion_cases import CASES
from vljax.config import UserError
from vljax.data.records import ExampleError
from vljax.inference import load
from vljax.interop.convert import export_model, import_model
from vljax.interop.export_plan import of_recipe, plan_export
from vljax.models.assembly import ModelConfig
from vljax.models.filters import Gate
from vljax.objectives import SoftmaxContrastive
from vljax.run import prepare

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
    for field in {*fields, *sizes} & stated.keys():
        if (name, field) != ("lxmert_b", "num_qa_labels"):  # a default, for a model without answers
            assert written[field] == stated[field], field
    compare(CASES[name]["kind"], load(str(out)), stored)


def test_an_imported_lxmert_answers_questions_about_files_of_features(foreign, tmp_path):
    source = foreign("lxmert_a")
    model, stored = load(str(source)), np.load(source / "outputs.npz")
    assert model.vocabularies["answer"] == ("yes", "no", "red", "2 dogs", "left of it")
    for i in (0, 1):
        seen, file = stored["mask"][i], io.BytesIO()
        np.savez(file, features=stored["features"][i][seen], boxes=stored["boxes"][i][seen])
        answers = model.answer(file.getvalue(), inputs.TEXTS[i])
        logits = stored["answer"][i]
        best = int(np.argmax(logits))
        assert answers[0][0] == model.vocabularies["answer"][best]
        probability = np.exp(logits - logits.max())[best] / np.exp(logits - logits.max()).sum()
        assert answers[0][1] == pytest.approx(probability, abs=1e-5)
    with pytest.raises(ExampleError, match=r"not a file of numpy\.savez"):
        model.answer(inputs.images()[0], "what?")


def test_answers_without_names_are_noted(foreign, tmp_path):
    source = foreign("lxmert_a")
    change_config(source, id2label={"0": "LABEL_0", "1": "LABEL_1"})
    done = import_model(str(source), str(tmp_path / "w"), overwrite=False, report=quiet)
    assert any("id2label does not name the 5 answers" in note for note in done.notes)
    model = load(str(tmp_path / "w"))
    assert not model.run.objectives
    done = export_model(str(tmp_path / "w"), str(tmp_path / "out"), "transformers", report=quiet)
    assert "id2label is left out: the names of the 5 answers are unknown" in done.notes
    assert "id2label" not in json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("lxmert_a", {"visual_pos_dim": 6}, "visual_pos_dim: is 6; vljax has only 4"),
        ("lxmert_a", {"x_layers": "2"}, "x_layers: '2' is not of type int"),
        ("lxmert_a", {"x_layers": 3}, r"lacks .*x_layers\.2"),
        ("lxmert_a", {"visual_feat_dim": 11}, "visn_fc.weight' has the shape"),
        ("lxmert_a", {"num_qa_labels": 6}, "logit_fc.3"),
        ("blip_a", {"text_config": {"is_decoder": False}}, "is_decoder: is False"),
        ("blip_a", {"image_text_hidden_size": 21}, "_proj"),
    ],
)
def test_unsupported_configurations_are_an_error(name, fields, message, foreign, tmp_path):
    source = foreign(name)
    for field, value in fields.items():
        if isinstance(value, dict):
            stated = json.loads((source / "config.json").read_text())[field]
            fields = {field: {**stated, **value}}
    change_config(source, **fields)
    with pytest.raises(UserError, match=message):
        import_model(str(source), str(tmp_path / "w"), overwrite=False, report=quiet)


@pytest.mark.parametrize(
    ("name", "node", "fields", "message"),
    [
        ("lxmert_a", "fusion", {"shared": False}, "fusion.shared = False; it has True"),
        ("lxmert_a", "fusion", {"cross_attention": "after_self"}, "train with .* before_self"),
        ("lxmert_a", "regions", {"mlp_dim": 64}, "nodes.regions.mlp_dim = 64; it has 40"),
        ("lxmert_a", "answer", {"hidden": 20}, "nodes.answer.hidden = 20; it has 48"),
        ("blip_a", "text", {"cross_attention": "before_self"}, "nodes.text.cross_attention"),
        ("blip_a", "match", {"classes": 3}, "nodes.match.classes = 3; it has 2"),
        ("blip_a", "embedding", {"normalize": False}, "nodes.embedding.normalize = False"),
        ("blip_a", "image", {"registers": 2}, "nodes.image.registers = 2; it has 0"),
    ],
)
def test_what_the_layouts_cannot_express_is_refused(name, node, fields, message, foreign, tmp_path):
    run = load(imported(name, foreign, tmp_path)).run
    nodes = {**run.model.nodes, node: dataclasses.replace(run.model.nodes[node], **fields)}
    other = prepare(dataclasses.replace(run, model=ModelConfig(nodes)), jax.devices()[:1])
    with pytest.raises(UserError, match=message):
        plan_export(of_recipe(other), "transformers")


@pytest.mark.parametrize("form", ["stablehlo", "onnx"])
def test_an_output_without_a_program_is_a_note(form, foreign, tmp_path):
    prepared = prepare(load(str(foreign("blip_a"))).run, jax.devices()[:1])
    _, _, notes = plan_export(of_recipe(prepared), form)
    assert notes == ["no program computes match/logits; its weights are in the folder"]
    nodes = {name: node for name, node in prepared.run.model.nodes.items() if name != "match"}
    without = dataclasses.replace(prepared.run, model=ModelConfig(nodes))
    _, _, notes = plan_export(of_recipe(prepare(without, jax.devices()[:1])), form)
    assert notes == []


@pytest.mark.parametrize("name", ["blip_a", "lxmert_a", "vilt_a", "visual_bert_a"])
def test_learned_filters_and_scalars_are_refused(name, foreign):
    run = load(str(foreign(name))).run
    stream = "text" if name == "blip_a" else "fusion.question"
    model = ModelConfig(run.model.nodes, {stream: Gate()})
    learning = {"contrastive": SoftmaxContrastive()} if name == "blip_a" else run.objectives
    other = dataclasses.replace(run, model=model, objectives=learning)
    with pytest.raises(UserError) as error:
        plan_export(of_recipe(prepare(other, jax.devices()[:1])), "transformers")
    assert f"model.filters.{stream} = 'gate'; it has no filter with parameters" in str(error.value)
    scalars = "objectives = ['logit_scale']; it has no learned scalar"
    assert (scalars in str(error.value)) == (name == "blip_a")


def test_other_heads_of_blip_are_an_error(foreign, tmp_path):
    source = foreign("lxmert_a")
    change_config(source, model_type="blip", architectures=["BlipForConditionalGeneration"])
    with pytest.raises(UserError, match="BlipForConditionalGeneration has no head for matching"):
        import_model(str(source), str(tmp_path / "w"), overwrite=False, report=quiet)
