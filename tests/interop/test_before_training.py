"""What a format cannot express is known from the recipe: `vljax check --for`, and export alike.

Most tests change one field of a recipe and keep the shapes of the whole, since what is wrong with
fields is found before shapes are compared. So no model is traced again.
"""

import dataclasses
import json
import shlex

import jax
import numpy as np
import pytest

from tests.interop.test_folders import quiet
from tests.interop.test_programs import embeddings
from tests.parity import interop_inputs as inputs
from vljax import config
from vljax.commands.main import main
from vljax.config import UserError
from vljax.data.tokenizers import Clip, SentencePiece
from vljax.data.transforms import CentreCrop, Label
from vljax.data.transforms.base import image_transforms
from vljax.inference import load
from vljax.interop.checkpoints import read_trained
from vljax.interop.convert import export_model, import_model
from vljax.interop.export_plan import ExportIssues, ExportRefused, of_recipe, plan_export
from vljax.interop.formats import FORMATS
from vljax.interop.open_clip import image as open_clip_image
from vljax.launch import train
from vljax.models.assembly import ModelConfig
from vljax.models.encoders import EfficientNetLite
from vljax.models.heads.classifier import Classifier
from vljax.models.heads.embedding import Embedding
from vljax.models.parameters import leaves, unroll
from vljax.objectives import Classification
from vljax.overrides import override
from vljax.run import Run, prepare
from vljax.training import checkpoint

RECIPE = "configs/clip_small.py:tiny"
ALL = ",".join(FORMATS)
FEW = "--steps 2 --global_batch 16 --optim.schedule.warmup_steps 1"


@pytest.fixture(scope="module")
def prepared():
    """The recipe that every format can express, prepared once."""
    return prepare(config.load(RECIPE, Run), jax.devices()[:1])


def issues_of(prepared, run, kind, accept=("text-cleaning",)):
    """What a format cannot express of the model of a run, with the shapes of another."""
    try:
        plan_export(of_recipe(dataclasses.replace(prepared, run=run)), kind, accept)
    except ExportRefused as refused:
        return refused.issues
    return ()


IMAGE, TEXT, HEAD = (f"model.nodes.{name}" for name in ("image", "text", "embedding"))
RESIZE, DECODE, TOKENIZER = (
    "data.eval_transforms.1",
    "data.eval_transforms.0",
    "data.tokenizers.text",
)
# Format, overrides of clip_small, and the overrides that each message names.
RULES = [
    ("transformers", f"--{IMAGE}.registers 2", f"--{IMAGE}.registers 0"),
    ("open_clip", f"--{IMAGE}.mask_token True", f"--{IMAGE}.mask_token False"),
    ("open_clip", f"--{IMAGE}.table_size 72", f"--{IMAGE}.table_size None"),
    ("open_clip", f"--{IMAGE}.positions sincos", f"--{IMAGE}.positions learned"),
    ("open_clip", f"--{IMAGE}.position_filter bicubic", f"--{IMAGE}.position_filter bilinear"),
    ("transformers", f"--{IMAGE}.layer_scale 0.1", f"--{IMAGE}.layer_scale None"),
    ("transformers", f"--{TEXT}.post_norm True", f"--{TEXT}.post_norm False"),
    ("open_clip", f"--{TEXT}.layer_scale 0.1", f"--{TEXT}.layer_scale None"),
    ("open_clip", f"--{TEXT}.position_offset 2", f"--{TEXT}.position_offset 0"),
    ("open_clip", f"--{TEXT}.token_types 2", f"--{TEXT}.token_types 0"),
    ("transformers", f"--{TEXT}.embedding_norm True", f"--{TEXT}.embedding_norm False"),
    ("transformers", f"--{TEXT}.activation swiglu", f"--{TEXT}.activation gelu"),
    ("open_clip", f"--{TEXT}.activation quick_gelu", f"--{TEXT}.activation gelu_tanh"),
    ("open_clip", f"--{HEAD}.normalize False", f"--{HEAD}.normalize True"),
    ("transformers", f"--{HEAD}.projections.text affine", f"--{HEAD}.projections.text linear"),
    ("open_clip", f"--{HEAD}.projections.text tanh", f"--{HEAD}.projections.text linear"),
    ("open_clip", f"--{HEAD}.projections.image affine", f"--{HEAD}.projections.image linear"),
    ("transformers", "--objectives.contrastive sigmoid", "--objectives.contrastive softmax"),
    (
        "open_clip",
        "--objectives.contrastive.similarity dot",
        "--objectives.contrastive.similarity cosine",
    ),
    ("transformers", f"--{IMAGE}.input_norm False", f"--{IMAGE}.input_norm True"),
    ("transformers", f"--{IMAGE}.patch_bias True", f"--{IMAGE}.patch_bias False"),
    ("open_clip", f"--{IMAGE}.cls_position False", f"--{IMAGE}.cls_position True"),
    ("transformers", f"--{TEXT}.causal False", f"--{TEXT}.causal True"),
    ("transformers", f"--{TEXT}.pooling mean", f"--{TEXT}.pooling eos"),
    ("open_clip", f"--{TEXT}.pooling mean", f"--{TEXT}.pooling eos"),
    ("open_clip", f"--{TEXT}.causal False", f"--{TEXT}.mask_padding False"),
    (
        "open_clip",
        f"--{IMAGE}.pooling map --{IMAGE}.cls_position False",
        f"--{IMAGE}.pooling cls",
    ),
    ("transformers", f"--{RESIZE}.mode pad", f"--{RESIZE}.mode squash"),
    (
        "open_clip",
        f"--{RESIZE}.mode pad --{RESIZE}.background 1 2 6",
        f"--{RESIZE}.background 3 3 3",
    ),
    ("transformers", f"--{RESIZE}.mode shortest", f"--{RESIZE}.centre floor"),
    (
        "open_clip",
        f"--{RESIZE}.mode shortest --{RESIZE}.centre floor",
        f"--{RESIZE}.centre round",
    ),
    ("open_clip", f"--{RESIZE}.antialias False", f"--{RESIZE}.antialias True"),
    ("transformers", f"--{RESIZE}.interpolation area", f"--{RESIZE}.interpolation bicubic"),
    ("onnx", f"--{DECODE}.scaled True", f"--{DECODE}.scaled False"),
    ("stablehlo", f"--{DECODE}.random_background True", f"--{DECODE}.random_background False"),
    ("transformers", f"--{DECODE}.random_background True", f"--{DECODE}.random_background False"),
    ("transformers", f"--{TOKENIZER}.truncation cut", f"--{TOKENIZER}.truncation keep_eos"),
    ("open_clip", f"--{TOKENIZER}.padding_side left", f"--{TOKENIZER}.padding_side right"),
    ("transformers", f"--{TOKENIZER}.cleaning clip", f"--{TOKENIZER}.cleaning lower"),
    ("open_clip", "", f"--{TOKENIZER}.cleaning clip"),
]


@pytest.mark.parametrize(("kind", "overrides", "remedy"), RULES)
def test_an_issue_names_the_override_that_settles_it(kind, overrides, remedy, prepared):
    run = override(prepared.run, overrides.split())
    changed = prepared
    if "objectives" in overrides:  # the learned scalars are among the shapes
        changed = prepare(run, jax.devices()[:1]) if "sigmoid" in overrides else prepared
    accept = [] if "cleaning" in remedy else ["text-cleaning"]
    (issue,) = issues_of(changed, run, kind, accept)
    assert issue.override == tuple(remedy.split())
    assert issue.message.startswith(kind)
    assert remedy in issue.message
    assert issue.field == remedy.split()[0][2:]
    assert override(run, list(issue.override)) != run


def single(prepared, name, changes, head):
    """A run with one tower and a head."""
    run = prepared.run
    tower = dataclasses.replace(run.model.nodes[name], **changes)
    nodes = {name: tower, "embedding": Embedding(head.pop("dim", 32), {name: "none"}, **head)}
    return dataclasses.replace(
        run, model=dataclasses.replace(run.model, nodes=nodes), objectives={}, pretrained={}
    )


VIT = {"input_norm": False, "patch_bias": True}
BERT = {
    "causal": False,
    "mask_padding": True,
    "pooling": "first",
    "post_norm": True,
    "embedding_norm": True,
    "token_types": 2,
}
PLAIN = {"normalize": False}


@pytest.mark.parametrize(
    ("name", "changes", "head", "override"),
    [
        ("image", {**VIT, "registers": 2}, PLAIN, f"--{IMAGE}.registers 0"),
        ("image", {**VIT, "activation": "swiglu"}, PLAIN, f"--{IMAGE}.activation gelu"),
        ("image", {**VIT, "input_norm": True}, PLAIN, f"--{IMAGE}.input_norm False"),
        ("image", VIT, {}, f"--{HEAD}.normalize False"),
        ("image", {**VIT, "layer_scale": 1.0, "mlp_dim": 33}, PLAIN, f"--{IMAGE}.mlp_dim 128"),
        (
            "image",
            {**VIT, "layer_scale": 1.0, "registers": 2},
            PLAIN,
            f"--{IMAGE}.mask_token True",
        ),
        ("text", {**BERT, "token_types": 0}, PLAIN, f"--{TEXT}.token_types 1"),
        ("text", {**BERT, "position_offset": 2}, PLAIN, f"--{TEXT}.position_offset 1"),
        ("text", {**BERT, "pooling": "eos"}, PLAIN, f"--{TEXT}.pooling first"),
    ],
)
def test_an_issue_of_a_single_tower_names_its_override(name, changes, head, override, prepared):
    run = single(prepared, name, changes, dict(head))
    (issue,) = issues_of(prepared, run, "transformers")
    assert issue.override == tuple(override.split())


@pytest.mark.parametrize(
    ("kind", "change", "field", "message"),
    [
        (
            "transformers",
            lambda run: with_transforms(run, (*run.data.eval_transforms[:2], CentreCrop(60))),
            "data.eval_transforms",
            "it has decode and resize",
        ),
        (
            "stablehlo",
            lambda run: with_transforms(run, run.data.eval_transforms[:1]),
            "data.eval_transforms",
            "it has decode, resize and centre_crop",
        ),
        (
            "open_clip",
            lambda run: with_nodes(run, image=EfficientNetLite(image_size=60)),
            IMAGE,
            "it has vit",
        ),
        (
            "onnx",
            lambda run: with_nodes(run, embedding=Embedding(32, {"text": "linear"})),
            IMAGE,
            "it has encoders with an embedding",
        ),
        (
            "transformers",
            lambda run: with_nodes(run, other=run.model.nodes["text"]),
            "model",
            "it has an image tower, a text tower and an embedding head",
        ),
        (
            "open_clip",
            lambda run: with_tokenizer(run, eos_token=None),
            f"{TOKENIZER}.eos_token",
            "a token that ends each text",
        ),
    ],
)
def test_an_issue_without_an_override_says_what_the_format_has(
    kind, change, field, message, prepared
):
    (issue,) = issues_of(prepared, change(prepared.run), kind)
    assert (issue.field, issue.override, issue.flag) == (field, (), None)
    assert message in issue.message


def with_transforms(run, transforms):
    return dataclasses.replace(
        run, data=dataclasses.replace(run.data, eval_transforms=tuple(transforms))
    )


def with_nodes(run, **nodes):
    model = dataclasses.replace(run.model, nodes={**run.model.nodes, **nodes})
    return dataclasses.replace(run, model=model)


def with_tokenizer(run, new=None, **changes):
    tokenizer = new or dataclasses.replace(run.data.tokenizers["text"], **changes)
    return dataclasses.replace(
        run, data=dataclasses.replace(run.data, tokenizers={"text": tokenizer})
    )


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (SentencePiece(None, cleaning="canonical"), "data.tokenizers.text.path: unset"),
        (Clip(context_length=16, cleaning="lower"), "CLIP's vocabulary is built in"),
    ],
)
def test_what_only_an_export_can_tell_is_not_the_fault_of_a_recipe(tokenizer, message, prepared):
    run = with_tokenizer(prepared.run, tokenizer)
    (issue,) = issues_of(prepared, run, "transformers")
    assert issue.at_export
    assert message in issue.message


def test_a_recipe_without_a_tokenizer_is_named(prepared):
    run = dataclasses.replace(
        prepared.run, data=dataclasses.replace(prepared.run.data, tokenizers={})
    )
    for kind in ("open_clip", "transformers"):
        (issue,) = issues_of(prepared, run, kind)
        assert issue.message.startswith(f"{TOKENIZER}: no tokenizer; add one to data.tokenizers")


def test_the_framing_of_texts_does_not_hide_their_cleaning(prepared):
    run = override(
        prepared.run,
        shlex.split(
            f"--{TOKENIZER}.padding_side left --{TOKENIZER}.truncation cut"
            f" --{TOKENIZER}.cleaning clip"
        ),
    )
    fields = [issue.field for issue in issues_of(prepared, run, "transformers", ())]
    assert fields == [f"{TOKENIZER}.{name}" for name in ("truncation", "padding_side", "cleaning")]


def test_all_parts_of_a_recipe_are_reported_at_once(prepared):
    run = with_nodes(prepared.run, image=EfficientNetLite(image_size=60))
    run = override(run, shlex.split(f"--{RESIZE}.mode pad --{TOKENIZER}.padding_side left"))
    fields = [issue.field for issue in issues_of(prepared, run, "transformers")]
    assert fields == [IMAGE, f"{TOKENIZER}.padding_side", f"{RESIZE}.mode"]


def test_statistics_are_an_issue_of_formats_that_cannot_store_them(prepared):
    shapes = prepared.shapes._replace(state={"batch_stats": {"image": {"mean": np.zeros(3)}}})
    changed = dataclasses.replace(prepared, shapes=shapes)
    (issue,) = issues_of(changed, prepared.run, "npz")
    assert "(batch_stats), which npz cannot store; use stablehlo or onnx" in issue.message


def test_clip_small_can_be_exported_to_every_format(prepared):
    """open_clip repairs texts (ftfy) before it tokenizes them, transformers cannot."""
    for kind in FORMATS:
        assert issues_of(prepared, prepared.run, kind) == ()
    strict = {kind: issues_of(prepared, prepared.run, kind, ()) for kind in FORMATS}
    assert [kind for kind, found in strict.items() if found] == ["open_clip"]
    assert [issue.flag for issue in strict["open_clip"]] == ["--accept text-cleaning"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """clip_small after two steps."""
    run = override(config.load(RECIPE, Run), FEW.split())
    folder = tmp_path_factory.mktemp("clip_small") / "w"
    train(dataclasses.replace(run, workdir=str(folder), evaluators={}, final_evaluators={}))
    return folder


@pytest.mark.parametrize("kind", FORMATS)
def test_clip_small_computes_the_same_in_every_format(kind, workdir, tmp_path):
    """Weights come back through import to the bit; programs run without vljax."""
    if kind == "onnx":
        for package in ("jax2onnx", "onnxruntime"):
            pytest.importorskip(package)
    out, again = tmp_path / "out", tmp_path / "again"
    accept = ["text-cleaning"] if kind == "open_clip" else []
    export_model(str(workdir), str(out), kind, accept=accept, report=quiet)
    model, images = load(str(workdir)), inputs.images()
    ours = {"image": model.encode_image(images), "text": model.encode_text(inputs.TEXTS)}
    if kind in ("stablehlo", "onnx"):
        theirs = embeddings(out, images, inputs.TEXTS)
    else:
        import_model(str(out), str(again), overwrite=False, report=quiet)
        read = load(str(again))
        theirs = {"image": read.encode_image(images), "text": read.encode_text(inputs.TEXTS)}
        before, after = (dict(leaves(unroll(m.variables.params))) for m in (model, read))
        assert before.keys() == after.keys()
        for keys, array in before.items():
            np.testing.assert_array_equal(after[keys], array, err_msg="/".join(keys))
    for name, wanted in ours.items():
        np.testing.assert_allclose(theirs[name], wanted, rtol=0, atol=2e-6, err_msg=name)


def test_export_says_the_same_as_check(workdir, prepared):
    run = override(prepared.run, shlex.split(f"--{TEXT}.pooling mean --{RESIZE}.mode pad"))
    trained, _ = read_trained(checkpoint.find_intact(str(workdir)))
    with pytest.raises(ExportRefused) as refused:
        plan_export(dataclasses.replace(trained, run=run), "transformers")
    assert refused.value.issues == issues_of(prepared, run, "transformers")
    assert len(refused.value.lines) == 2


def test_check_and_export_agree_about_a_model_without_texts(prepared, tmp_path):
    data = prepared.run.data
    transforms = {
        name: (*image_transforms(getattr(data, name)), Label())
        for name in ("train_transforms", "eval_transforms")
    }
    tower = dataclasses.replace(prepared.run.model.nodes["image"], depth=1)
    nodes = {"image": tower, "kind": Classifier(stream="image", classes=18)}
    run = dataclasses.replace(
        prepared.run,
        model=ModelConfig(nodes),
        data=dataclasses.replace(data, tokenizers={}, **transforms),
        objectives={"kind": Classification(logits="kind/logits", targets="label")},
        evaluators={},
        final_evaluators={},
        workdir=str(tmp_path / "w"),
    )
    run = override(run, FEW.split())
    assert issues_of(prepare(run, jax.devices()[:1]), run, "npz") == ()
    train(run)
    export_model(str(tmp_path / "w"), str(tmp_path / "npz"), "npz", report=quiet)
    import_model(str(tmp_path / "npz"), str(tmp_path / "again"), overwrite=False, report=quiet)
    trained, *others = (load(tmp_path / name) for name in ("w", "npz", "again"))
    for model in others:
        jax.tree.map(
            np.testing.assert_array_equal,
            unroll(model.variables.params),
            unroll(trained.variables.params),
        )
    with pytest.raises(UserError, match="the model has no tokenizer of texts"):
        _ = trained.tokenizer
    with pytest.raises(UserError, match="no image embedding: no head makes image/embedding"):
        trained.encode_image(inputs.images())
    with pytest.raises(ExportRefused) as refused:
        export_model(str(tmp_path / "w"), str(tmp_path / "no"), "open_clip", report=quiet)
    assert any("no tokenizer" in line for line in refused.value.lines)


def test_check_prints_a_command_that_every_format_can_express(capsys, tmp_path):
    """A second override may be needed by the first: here, a class token with a position."""
    file = tmp_path / "result.json"
    command = ["check", "configs/quickstart.py:tiny", "--records", "0", "--json", str(file)]
    asked = ["--for", "open_clip,transformers,npz", "--accept", "text-cleaning"]
    assert main([*command, *asked, "--suggest"]) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert all(line.startswith("error: ") and "; train with --" in line for line in lines)
    exports = json.loads(file.read_text())["export"]
    assert {name: len(found) > 0 for name, found in exports.items()} == {
        **{"open_clip": True, "transformers": True, "npz": False}
    }
    assert len(lines) == sum(map(len, exports.values()))
    words = shlex.split(out.splitlines()[-1])
    assert words[:3] == ["vljax", "train", "configs/quickstart.py:tiny"]
    assert main(["check", *words[2:], "--records", "0", *asked]) == 0
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "asked", "absent"),
    [
        # The model changes from a SigLIP to a CLIP, so demands of the first round do not hold.
        (
            f"--{IMAGE}.pooling map --{IMAGE}.cls_position False",
            "--for open_clip,transformers --accept text-cleaning",
            "is left as it is",
        ),
        # A softmax has no bias.
        (
            "--objectives.contrastive sigmoid --objectives.contrastive.bias -5 --seed 3",
            "--for transformers",
            "--objectives.contrastive.bias",
        ),
    ],
)
def test_the_printed_command_passes_the_same_check(overrides, asked, absent, capsys):
    asked = ["--records", "0", *asked.split()]
    assert main(["check", RECIPE, *overrides.split(), *asked, "--suggest"]) == 2
    out, err = capsys.readouterr()
    assert "cannot be reached" not in err
    command = out.splitlines()[-1]
    assert absent not in command + err
    words = shlex.split(command)
    assert words[:3] == ["vljax", "train", RECIPE]
    assert ("--seed" in words) == ("--seed" in overrides)
    assert main(["check", *words[2:], *asked]) == 0


def test_no_command_is_printed_if_no_override_can_help(capsys):
    """The ids of another tokenizer are no field to override."""
    command = ["check", "configs/naflex.py:tiny", "--records", "0", "--for", "transformers"]
    assert main([*command, f"--{TOKENIZER}.padding_side", "left", "--suggest"]) == 2
    out, err = capsys.readouterr()
    assert "vljax train" not in out
    *_, ids, last = err.splitlines()
    assert "would get other ids" in ids
    assert last == "error: transformers cannot be reached by overrides: data.tokenizers.text"


def test_overrides_of_formats_that_cannot_be_reached_are_left_out(capsys):
    """transformers has no such tower, so the cleaning that it would need is not changed."""
    command = ["check", RECIPE, "--records", "0", "--for", "transformers,npz,onnx", "--suggest"]
    changes = f"--{IMAGE} efficientnet_lite --{IMAGE}.image_size 60 --{TOKENIZER}.cleaning clip"
    assert main([*command, *changes.split(), f"--{DECODE}.scaled", "True"]) == 2
    out, err = capsys.readouterr()
    wanted = f"vljax train {RECIPE} {changes} --{DECODE}.scaled False"
    assert out.splitlines()[-1] == wanted
    assert err.splitlines()[-2:] == [
        f"error: transformers cannot be reached by overrides: model, {IMAGE}",
        "error: npz cannot be reached by overrides: model",
    ]


def test_formats_that_need_different_values_are_named(capsys):
    command = ["check", RECIPE, "--records", "0", "--for", "transformers,open_clip", "--suggest"]
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert "vljax train" not in out
    *_, line = err.splitlines()
    field = "data.tokenizers.text.cleaning"
    assert line == (
        f"error: {field} is left as it is: open_clip needs --{field} clip,"
        f" transformers needs --{field} lower"
    )


@pytest.mark.parametrize(
    ("recipe", "trunk"),
    [
        ("configs/siglip_vit_b16.py", "vit_base_patch16_siglip_224"),
        ("configs/siglip_vit_l16_256.py", "vit_large_patch16_siglip_256"),
        ("configs/siglip_so400m14_384.py", "vit_so400m_patch14_siglip_384"),
    ],
)
def test_a_trunk_of_timm_that_differs_in_activation_alone_asks_for_it(recipe, trunk):
    run = config.load(recipe, Run)
    tower, head = run.model.nodes["image"], run.model.nodes["embedding"]
    issues = ExportIssues("open_clip")
    open_clip_image.check(tower, head, HEAD, issues)
    (issue,) = issues.found
    assert issue.override == (f"--{IMAGE}.activation", "gelu")
    exact = override(run, list(issue.override)).model.nodes["image"]
    open_clip_image.check(exact, head, HEAD, issues)
    assert len(issues.found) == 1
    assert open_clip_image.write(exact, head)["timm_model_name"] == trunk


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--for", "open_clop"], "--for: unknown format 'open_clop'; did you mean 'open_clip'?"),
        (["--suggest"], "--suggest: needs --for FORMAT"),
        (["--accept", "resize"], "--accept: needs --for FORMAT"),
        (["--for", "npz", "--accept", "size"], "--accept: unknown issue 'size'"),
        (["--for"], "--for needs formats, separated by commas: transformers, open_clip"),
    ],
)
def test_bad_options_are_an_error(arguments, message, capsys):
    assert main(["check", RECIPE, *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
