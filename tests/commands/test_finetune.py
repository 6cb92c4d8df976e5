"""`vljax finetune`: from a folder of other software and a table of pictures to a trained model."""

import ast
import csv
import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tests.commands.conftest import ROOT
from tests.data.samples import encoded, picture
from tests.interop.conftest import unzip
from tests.interop.test_folders import quiet
from vljax import config
from vljax.commands.finetune import _evaluators, _guard, _like, make
from vljax.commands.main import main
from vljax.commands.recipe_arguments import load_run
from vljax.config import UserError
from vljax.data.sources import Csv, Expand, Folder
from vljax.data.transforms.questions import EncodeAnswers
from vljax.data.vocabulary import VocabularyFile
from vljax.datasets import Builtin
from vljax.evaluation import Retrieval, ZeroShot
from vljax.inference import load
from vljax.interop.checkpoints import _arrays, read_trained
from vljax.interop.convert import export_model, import_model, interpolate_models
from vljax.interop.initial import (
    SourceModel,
    finetuning_run,
    plan,
    read_source,
    recipe_files,
)
from vljax.models.assembly import Variables
from vljax.models.low_rank import LowRank
from vljax.models.parameters import leaves, merge, unroll
from vljax.models.pretrained import InitFrom
from vljax.programs import device_batches
from vljax.run import Run, prepare, recipe_tokenizers
from vljax.training import checkpoint, metrics
from vljax.training.checkpoint import saved_state, step_folder
from vljax.workdir import read_recipe

GUIDE = (ROOT / "docs/finetuning.md").read_text()
COMMANDS, WAYS = (block.splitlines() for block in re.findall(r"```bash\n(.*?)```", GUIDE, re.S))
EVALUATION = re.search(r"```python\n(.*?)```", GUIDE, re.S)[1]
OPTIONS = [shlex.split(cell) for cell in re.findall(r"^\|[^|]* \| `(--.*)` \|$", GUIDE, re.M)]


def guide(number, home, workdir="w"):
    """A command of docs/finetuning.md with the paths of the test."""
    return "-m", "vljax.commands.main", *placed(COMMANDS[number], home, workdir)


def placed(command, home, workdir):
    """The words of a command of the guide after `vljax`, with the paths of the test."""
    program, *words = shlex.split(command)
    assert program == "vljax"
    words = [re.sub("^runs/photos", str(home / workdir), word) for word in words]
    return [re.sub("^(clip$|photos/|photos-clip)", f"{home}/\\1", word) for word in words]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A CLIP that transformers wrote, and 24 pictures with a table of captions."""
    folder = tmp_path_factory.mktemp("home")
    unzip("transformers_clip_a", folder / "clip")
    photos = folder / "photos"
    photos.mkdir()
    with open(photos / "captions.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "title"])
        for i in range(24):
            (photos / f"{i}.png").write_bytes(encoded(picture(40, 50, seed=i), "PNG"))
            rows.writerow([f"{i}.png", f"picture number {i}", f"picture {i} of a walk"])
    shutil.copy(photos / "captions.csv", photos / "validation.csv")
    for i in range(6):
        file = photos / "old" / ("cat", "dog")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(picture(40, 50, seed=50 + i), "PNG"))
    return folder


@pytest.fixture(scope="module")
def finished(home, call):
    """What the first command of the guide printed, with fields for two steps."""
    status, _, err = call(
        *guide(0, home),
        *("--data.source.captions", "title", "--steps", "2", "--global_batch", "8"),
        *("--log_every", "1", "--checkpoint_every", "1", "--optim.frozen", "text/blocks/0/.*"),
    )
    assert status == 0, err
    return err


def parameters(workdir, step):
    found, _ = read_trained(step_folder(workdir, step))
    return {path: array.read() for path, array in found.parameters.items()}


def test_the_recipe_is_made_from_the_model(finished, home):
    run = read_recipe(str(home / "w" / "recipe.json"))
    assert run.model.nodes["image"].activation == "quick_gelu"
    assert run.model.nodes["text"].vocab_size == 628
    assert run.data.tokenizers["text"].path == str(home / "w" / "tokenizer" / "tokenizer.json")
    assert run.init.path == str(home / "clip")
    assert (run.steps, run.global_batch, run.evaluate_first) == (2, 8, True)
    assert run.optim.learning_rate == 1e-5
    assert "95 loaded of 95 arrays" in finished
    assert f"recipe     {home}/w/recipe.json" in finished
    assert "2 steps of 8 examples" in finished


def test_the_first_loss_is_that_of_the_model(finished, home):
    run = read_recipe(str(home / "w" / "recipe.json"))
    rows = [row for row in metrics.read(str(home / "w")) if "loss" in row]
    import_model(str(home / "clip"), str(home / "imported"), overwrite=False, report=quiet)
    model = load(home / "imported", devices=jax.devices()[:1])
    batch = next(device_batches(prepare(run, jax.devices()[:1]), 0))
    batch = {name: np.asarray(array) for name, array in batch.items()}
    image, text, scale = names = ["image/embedding", "text/embedding", "logit_scale"]
    outputs = model.predictor.run(names, batch)
    logits = np.exp(outputs[scale]) * outputs[image] @ outputs[text].T
    loss = -np.mean([np.diag(jax.nn.log_softmax(logits, axis)) for axis in (0, 1)])
    np.testing.assert_allclose(rows[0]["loss"], loss, rtol=3e-6)


def test_the_model_is_evaluated_before_it_is_trained(finished, home):
    rows = metrics.read(str(home / "w"))
    evaluated = [row["step"] for row in rows if any("recall@1" in name for name in row)]
    assert evaluated == [0, 1, 2]


def test_frozen_parameters_stay_and_others_move(finished, home):
    before, after = (parameters(home / "w", step) for step in (1, 2))
    for path, array in before.items():
        frozen = path.startswith("text/blocks/0/")
        assert np.array_equal(array, after[path]) == frozen, path


def test_a_run_resumes_without_its_model_and_gets_more_steps(finished, home, call):
    again = home / "again"
    shutil.copytree(home / "w", again)
    shutil.rmtree(step_folder(again, 2))
    moved = (home / "clip").rename(home / "moved")
    command = ("-m", "vljax.commands.main", "train", again / "recipe.json", "--workdir", again)
    try:
        status, _, err = call(*command)
    finally:
        moved.rename(home / "clip")
    assert status == 0, err
    assert "resuming at step 1 of 2" in err
    wanted, found = parameters(home / "w", 2), parameters(again, 2)
    assert all(np.array_equal(array, found[path]) for path, array in wanted.items())

    words = guide(1, home, "again")
    assert words[-2] == "--steps"
    status, _, err = call(*words[:-1], "4", "--workdir", again)
    assert status == 0, err
    told = "steps: extended from 2 to 4; optim.schedule is from here on that of 4 steps: its"
    assert f"{told} learning rate at step 2 is 5e-06, not 0" in err
    rows = metrics.read(str(again))
    rates = {row["step"]: row["learning_rate"] for row in rows if "loss" in row}
    assert rates[3] == pytest.approx(5e-6)
    assert [*rates] == [1, 2, 3, 4]
    assert json.loads((again / "checkpoints/4/recipe.json").read_text())["steps"] == 4


def test_the_guide_evaluates_the_result(finished, home, capsys, monkeypatch):
    monkeypatch.chdir(home)
    found = {}
    exec(EVALUATION.replace("runs/photos", "w"), found)
    measured = ast.literal_eval(capsys.readouterr().out)
    assert measured["retrieval/examples"] == 24
    # The run was evaluated with the captions of another column.
    source = Csv("photos/validation.csv", captions=("title",))
    again = found["model"].evaluate(source, "retrieval")
    rows = (row for row in metrics.read("w") if row["step"] == 2)
    prefix = "retrieval/validation/all/"
    trained = {
        f"retrieval/{name.removeprefix(prefix)}": value
        for row in rows
        for name, value in row.items()
        if name.startswith(prefix)
    }
    assert again.keys() == trained.keys()
    # This random model gives some captions similarities that are one rounding apart: two of the 24
    # queries may rank otherwise in batches of another size.
    recalls = {name for name in again if "/recall@" in name}
    assert len(recalls) == 12
    assert {name: again[name] for name in recalls} == pytest.approx(
        {name: trained[name] for name in recalls}, abs=2 / 24
    )


@pytest.fixture(scope="module")
def exported(finished, home, call):
    """The folder that the last command of the guide wrote."""
    status, _, err = call(*guide(2, home))
    assert status == 0, err
    return home / "photos-clip"


CAPTIONS = ["picture number 3", "a photo of a cat", "  Two DOGS,  running!"]


@pytest.fixture(scope="module")
def embedded(finished, home):
    """What the fine-tuned model computes of the pictures and some captions."""
    model = load(home / "w", devices=jax.devices()[:1])
    return model.encode_image(pictures(home)), model.encode_text(CAPTIONS)


def pictures(home):
    return sorted((home / "photos").glob("*.png"))


def test_the_exported_folder_computes_the_same(exported, embedded, home):
    model = load(exported, devices=jax.devices()[:1])
    again = model.encode_image(pictures(home)), model.encode_text(CAPTIONS)
    for ours, theirs in zip(embedded, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # It is the fine-tuned model, not the one before.
    before = load(home / "clip", devices=jax.devices()[:1]).encode_text(CAPTIONS)
    assert np.max(np.abs(before - embedded[1])) > 1e-6


def test_transformers_computes_the_same_from_the_exported_folder(exported, embedded, home):
    torch = pytest.importorskip("torch", reason="no torch: pip install 'vljax[parity]'")
    software = pytest.importorskip(
        "transformers", reason="no transformers: pip install 'vljax[parity]'"
    )
    model = software.AutoModel.from_pretrained(exported).eval()
    processor = software.AutoProcessor.from_pretrained(exported, backend="pil")
    batch = processor(
        text=CAPTIONS,
        images=[Image.open(file).convert("RGB") for file in pictures(home)],
        padding="max_length",
        truncation=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        made = model(**batch)
    for ours, theirs in zip(embedded, (made.image_embeds, made.text_embeds), strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)


def test_transformers_gets_the_fine_tuned_model(exported, home):
    written, trained = read_source(str(home / "photos-clip")), parameters(home / "w", 2)
    assert written.title == "transformers clip"
    assert written.arrays.keys() == trained.keys()
    assert all(np.array_equal(array.read(), trained[p]) for p, array in written.arrays.items())


def test_the_options_of_the_guide_are_fields(finished, home):
    assert len(OPTIONS) == 6
    recipe = str(home / "w" / "recipe.json")
    for words in OPTIONS:
        load_run([recipe, *words], "vljax train")
    together = [word for i, words in enumerate(OPTIONS) for word in words if i != 2]
    prepared = prepare(load_run([recipe, *together], "vljax train"), jax.devices()[:1])
    assert prepared.shapes.params.keys() - prepared.shapes.average.keys() == {"text"}
    assert plan(prepared).arrays["image/positions"].shape == (42**2, 24)


def test_one_option_sets_the_size_of_images(home, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    words = ["finetune", "clip", *TABLE, "--image-size", "48", "--recipe_only"]
    assert main([*words, "--workdir", str(tmp_path / "w")]) == 0
    told = capsys.readouterr().err
    assert "images     48 x 48 pixels, with resized positions (init.resize True)" in told
    assert "resized image/positions: 4 x 4 to 6 x 6" in told
    run = read_recipe(str(tmp_path / "w" / "recipe.json"))
    transforms = (*run.data.train_transforms, *run.data.eval_transforms)
    assert {t.size for t in transforms if hasattr(t, "size")} == {48}
    assert (run.model.nodes["image"].image_size, run.init.resize) == (48, True)


TABLE = ("--data", "photos/captions.csv", "--data.source.captions", "title")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("clip",), "--data: name the training examples"),
        (("none", *TABLE), "PATH: no such file or folder: "),
        (("clip", "--data", "photos/none.csv"), "--data: "),
        (("clip", *TABLE, "--epochs", "some"), "--epochs: must be a whole number of 1 or more"),
        (("clip", *TABLE, "--epochs", "2", "--steps", "3"), "set one of them"),
        (("clip", *TABLE, "--optim.learning_rat", "1"), "did you mean 'optim.learning_rate'?"),
        (("tower", *TABLE), "has no objective to train on, only a tower (image)"),
        (
            ("clip", *TABLE, "--model.nodes.image.image_size", "48"),
            "--image_size 48 sets model and transforms",
        ),
        (
            ("clip", *TABLE, "--image_size", "50"),
            "--image_size: 50 pixels are not a multiple of 8, the size of a patch of"
            " model.nodes.image; use 48 or 56",
        ),
        (
            ("clip", *TABLE, "--image_size", "big"),
            "--image_size: must be a whole number of 1 or more, not 'big'",
        ),
        (
            (
                *("clip", *TABLE, "--model.nodes.image.image_size", "48"),
                *("--data.train_transforms.1.size", "48", "--data.eval_transforms.1.size", "48"),
            ),
            "image/positions is [16, 24] there, [36, 24] here: --init.resize True resizes",
        ),
        (
            (
                *("clip", *TABLE, "--model.nodes.image.image_size", "35", "--init.resize", "True"),
                *("--data.train_transforms.1.size", "35", "--data.eval_transforms.1.size", "35"),
            ),
            "model.nodes.image.image_size: 35 is not a multiple of the patch (8), and 3 pixels at"
            " the edges would not be used; set it and the sizes of the transforms to 32 or 40",
        ),
        (
            ("clip", *TABLE, "--model.nodes.text.mlp_dim", "40"),
            "text/blocks/*/mlp/down/kernel is [36, 16] there, [40, 16] here; text/blocks/*/mlp/up/b"
            "ias is [36] there, [40] here; text/blocks/*/mlp/up/kernel is [16, 36] there, [16, 40] "
            "here: --init.skip 'text/blocks/[0-9]+/mlp/down/kernel' 'text/blocks/[0-9]+/mlp/up/bia"
            "s' 'text/blocks/[0-9]+/mlp/up/kernel' leaves them out",
        ),
        (
            ("clip", *TABLE, "--data.tokenizers.text.bos_token", "None"),
            "bos_token is '<|startoftext|>' there, None here; use that one, or train new embeddings"
            " of tokens with --init.skip text/embedding",
        ),
        (
            (
                *("clip", *TABLE, "--data.tokenizers.text", "clip"),
                *("--model.nodes.text.vocab_size", "49408"),
            ),
            "the token 256 is 'e</w>' there, '!' here; use that one, or",
        ),
        (
            ("clip", *TABLE, "--init.skip", "image/.*", "text/.*", "embedding/.*", "logit_scale"),
            "matches a parameter of this model, whose parts are embedding, image, logit_scale, ",
        ),
        (("clip", *TABLE, "--init", "none"), "init.path: no such file or folder: none"),
        (("clip", *TABLE, "--validation", "expand"), "--validation: expand: expand needs source; "),
        (("--data", "x", "clip"), "--data before PATH: write vljax finetune PATH --data ..."),
        (
            (
                *("clip", *TABLE, "--distributed.processes", "2", "--distributed.process=0"),
                *("--distributed.coordinator", "host:1"),
            ),
            "vljax finetune clip ... --recipe_only`, then start `vljax train ",
        ),
        (
            ("clip", *TABLE, "--optim.frozen", "imge/.*"),
            "optim.frozen: 'imge/.*' matches no parameter; the nearest is",
        ),
    ],
)
def test_bad_input(arguments, message, home, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    monkeypatch.setattr("vljax.launch.train", lambda *_: pytest.fail("it starts, and compiles"))
    if "tower" in arguments and not (home / "tower").exists():
        unzip("vit_a", home / "tower")
    words = ["finetune", *arguments, "--workdir", str(tmp_path / "w")]
    assert main(words) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "w").exists()


def test_another_run_in_the_workdir_is_not_overwritten(finished, home, capsys, monkeypatch):
    monkeypatch.chdir(home)
    before = (home / "w" / "recipe.json").read_text()
    words = ["finetune", "clip", *TABLE, "--workdir", "w", "--steps", "2", "--global_batch", "4"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "holds a run of another recipe (global_batch is 8 there, 4 here" in told
    file = home / "w" / "recipe.json"
    assert told.endswith(f", or go on with that run: `vljax train {file} --steps N`\n")
    assert (home / "w" / "recipe.json").read_text() == before


def test_an_edited_recipe_is_not_overwritten(home, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    words = ["clip", *TABLE, "--workdir", str(tmp_path), "--epochs", "2"]
    with pytest.raises(UserError, match=r"'txt/\.\*' matches no parameter"):
        make([*words, "--optim.frozen", "txt/.*"], "vljax finetune")
    assert [*tmp_path.iterdir()] == []
    run, file = make(words, "vljax finetune")
    assert (run.steps, run.global_batch) == (3, 16)
    assert make(words, "vljax finetune") == (run, file)
    edited = Path(file).read_text().replace('"seed": 0', '"seed": 1')
    Path(file).write_text(edited)
    assert main(["finetune", *words]) == 2
    assert "recipe.json is another recipe, perhaps edited: train it" in capsys.readouterr().err
    assert Path(file).read_text() == edited


def test_check_says_what_is_loaded(finished, home, tmp_path):
    recipe, result = str(home / "w" / "recipe.json"), tmp_path / "result.json"
    words = ["--init.skip", "embedding/.*", "--records", "0", "--json", str(result)]
    assert main(["check", recipe, *words]) == 0
    notes = json.loads(result.read_text())["notes"]
    assert "init: left out: embedding/image/kernel, embedding/text/kernel" in notes


@pytest.mark.parametrize("workdir", ["clip", "clip/run", "."])
def test_a_run_never_writes_into_its_model(workdir, home, capsys, monkeypatch):
    monkeypatch.chdir(home)
    before = sorted(home.rglob("*"))
    assert main(["finetune", "clip", *TABLE, "--workdir", workdir]) == 2
    assert "is the model's folder, lies in it, or contains it" in capsys.readouterr().err
    assert sorted(home.rglob("*")) == before


def test_the_recipe_alone_for_several_processes(home, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    words = ["clip", *TABLE, "--validation", "photos/validation.csv", "--workdir", str(tmp_path)]
    words += ["--recipe_only", "--json", str(tmp_path / "result.json"), "--mesh.data", "3"]
    words += ["--evaluators.retrieval.source.path", "photos/captions.csv"]
    assert main(["finetune", *words]) == 0
    assert "init: " in capsys.readouterr().err
    run = read_recipe(json.loads((tmp_path / "result.json").read_text())["recipe"])
    validation = run.evaluators["retrieval"].source
    assert validation.captions == run.data.source.captions == ("title",)
    assert validation.path == run.data.source.path == str(home / "photos/captions.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("recipe.json", "result.json", "tokenizer")
    ]


def test_fields_of_the_validation_data_win():
    training, given = Csv("a.csv", captions=("title",)), Csv("b.csv", image="picture")
    assert _like(given, training) == Csv("b.csv", captions=("title",), image="picture")
    assert _like(Builtin("train"), Builtin("test")) == Builtin("train")
    assert _like(given, Builtin("train")) == given


def test_a_model_that_answers_keeps_its_vocabulary(tmp_path):
    run = config.load(str(ROOT / "configs/vqa_cross_attention.py"), Run)
    answers = VocabularyFile("elsewhere/answers.txt", size=2)
    changed = {
        name: tuple(
            dataclasses.replace(each, vocabulary=answers)
            if isinstance(each, EncodeAnswers)
            else each
            for each in getattr(run.data, name)
        )
        for name in ("train_transforms", "eval_transforms")
    }
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, **changed))
    model = SourceModel("", run, recipe_tokenizers(run), {"answer": b"yes\nno\n"}, {}, [])
    made = finetuning_run(model, "model", Builtin("train"), str(tmp_path))
    file = tmp_path / "vocabularies" / "answer.txt"
    assert made.data.vocabularies()["answer"] == VocabularyFile(str(file), size=2)
    assert recipe_files(model)["vocabularies/answer.txt"] == b"yes\nno\n"

    (evaluator,) = _evaluators(made, Builtin("test")).values()
    assert evaluator.source == Expand(Builtin("test"), by="question")
    assert [*evaluator.problems()] == []


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_the_fields_of_the_recipe(option, home, capsys):
    with pytest.raises(SystemExit):
        main(["finetune", str(home / "clip"), option])
    assert "--optim.layer_decay" in capsys.readouterr().out


def test_init_of_another_model_is_refused_on_resuming(finished, home, capsys, tmp_path):
    other = unzip("transformers_clip_b", tmp_path / "other")
    recipe, workdir = str(home / "w" / "recipe.json"), str(home / "w")
    words = ["train", recipe, "--workdir", workdir, "--init", str(other), "--init.sha256", "None"]
    assert main(words) == 2
    assert "holds a run of another recipe (init.sha256 is " in capsys.readouterr().err


# --- Factors, heads first, a guard ----------------------------------------------------------------

SHORT = ("--steps", "2", "--global_batch", "8", "--log_every", "1", "--checkpoint_every", "1")


def raw(workdir, step):
    """The parameters of a checkpoint by unrolled path as they are stored, not merged."""
    folder = step_folder(workdir, step)
    arrays = _arrays(folder, "params", saved_state.shapes(folder))
    return {path: array.read() for path, array in arrays.items()}


@pytest.fixture(scope="module")
def low_rank(home):
    """A run with factors of two steps, and with an average."""
    words = placed(WAYS[0], home, "lora")
    workdir = Path(words[-1])
    assert words[-4:-2] == ["--lora", "8"]
    rate = ("--optim.learning_rate", "0.01", "--optim.ema_decay", "0.5")
    assert main([*words, *SHORT, *rate]) == 0
    return workdir


def test_factors_are_trained_in_place_of_kernels(low_rank, home):
    run = read_recipe(str(low_rank / "recipe.json"))
    assert run.low_rank == LowRank(kernels=("(image|text)/blocks/.*/kernel",), rank=8)
    before = {path: array.read() for path, array in read_source(str(home / "clip")).arrays.items()}
    after = raw(low_rank, 2)
    factors = {path for path in after if path.endswith(("/down_kernel", "/up_kernel"))}
    assert after.keys() - factors == before.keys()
    assert all(np.array_equal(after[path], array) for path, array in before.items())
    ups = [path for path in factors if path.endswith("/up_kernel")]
    assert len(ups) == len(factors) / 2
    assert all(np.any(after[path]) for path in ups)


def test_every_reader_gets_merged_kernels(low_rank, home, tmp_path):
    """Within 1e-6 of the model as it was trained."""
    run = read_recipe(str(low_rank / "recipe.json"))
    prepared = prepare(run, jax.devices()[:1])
    state = checkpoint.read_state(step_folder(low_rank, 2), prepared.shapes._asdict())
    params = merge(state["params"], state["average"])
    batch = next(device_batches(prepared, 0))
    embeddings = ["image/embedding", "text/embedding"]
    trained, _ = prepared.model.apply(Variables(params, {}), batch, want=embeddings)
    loaded = load(low_rank, devices=jax.devices()[:1])
    assert not loaded.run.low_rank.used
    found = loaded.predictor.run(embeddings, {k: np.asarray(v) for k, v in batch.items()})
    for name in embeddings:
        np.testing.assert_allclose(found[name], trained[name], atol=1e-6)

    stored = dict(leaves(unroll(jax.device_get(loaded.variables.params))))
    stored = {"/".join(keys): array for keys, array in stored.items()}
    before = {path: array.read() for path, array in read_source(str(home / "clip")).arrays.items()}
    for path, array in before.items():
        moved = "/blocks/" in path and path.endswith("/kernel")
        assert np.array_equal(stored[path], array) != moved, path
    for form in ("transformers", "npz"):
        export_model(str(low_rank), str(tmp_path / form), form, report=quiet)
    between = str(tmp_path / "between")
    interpolate_models(str(home / "clip"), str(low_rank), between, alpha=1.0, report=quiet)
    for source in (*(str(tmp_path / form) for form in ("transformers", "npz")), between):
        arrays = read_source(source).arrays
        assert arrays.keys() == stored.keys(), source
        for path, array in arrays.items():
            np.testing.assert_allclose(array.read(), stored[path], atol=1e-6, err_msg=path)
    again = load(tmp_path / "npz", devices=jax.devices()[:1])
    image = picture(40, 50, seed=3)
    np.testing.assert_allclose(again.encode_image(image), loaded.encode_image(image), atol=1e-6)

    for factors in (run.low_rank, LowRank()):
        further = dataclasses.replace(run, init=InitFrom(str(low_rank)), low_rank=factors)
        made = plan(prepare(further, jax.devices()[:1]))
        assert made.arrays.keys() == stored.keys()
        assert not any("new, with random" in line or "left out" in line for line in made.report)


def test_a_run_with_factors_resumes_bit_for_bit(low_rank, home):
    again = home / "lora-again"
    shutil.copytree(low_rank, again)
    shutil.rmtree(step_folder(again, 2))
    assert main(["train", str(again / "recipe.json"), "--workdir", str(again)]) == 0
    wanted, found = raw(low_rank, 2), raw(again, 2)
    assert all(np.array_equal(array, found[path]) for path, array in wanted.items())


def test_check_says_how_many_parameters_are_trained(low_rank, tmp_path, capsys):
    result = tmp_path / "result.json"
    words = ["--records", "0", "--json", str(result), "--for", "transformers"]
    assert main(["check", str(low_rank / "recipe.json"), *words]) == 0
    summary = json.loads(result.read_text())
    factors = [r for r in summary["placement"] if r["path"].endswith(("down_kernel", "up_kernel"))]
    trained = sum(int(np.prod(row["shape"])) for row in factors)
    assert summary["trained_parameters"] == trained > 0
    assert (
        f"{trained:,} ({trained / summary['parameters']['total']:.2%})" in capsys.readouterr().out
    )
    assert summary["export"] == {"transformers": []}


@pytest.fixture(scope="module")
def guarded(home):
    """A run of the second and third command at once, of two steps."""
    probe, words = (placed(WAYS[i], home, "guarded") for i in (1, 2))
    at = probe.index("--probe_steps")
    assert (probe[at + 1], words[:3]) == ("500", probe[:3])
    words[words.index("--guard_drop") + 1] = "100"
    fields = ("--evaluate_every", "1", "--optim.learning_rate", "0.01")
    assert main([*words, *SHORT, *fields, "--optim.schedule", "constant", probe[at], "1"]) == 0
    return words[-1]


def test_heads_are_trained_first(guarded, home):
    one, two = (raw(guarded, step) for step in (1, 2))
    start = {path: array.read() for path, array in read_source(str(home / "clip")).arrays.items()}
    for path, array in start.items():
        tower = path.startswith(("image/", "text/"))
        assert np.array_equal(one[path], array) == tower, path
        assert not np.array_equal(two[path], one[path]), path


def test_a_guard_shows_the_change_since_the_start(guarded, home, capsys):
    """Of a resumed run, too."""
    run = read_recipe(f"{guarded}/recipe.json")
    assert run.evaluators == {"guard": ZeroShot(Folder(str(home / "photos/old")))}
    assert (run.guard, run.guard_drop) == ("guard", 100)
    assert main(["train", f"{guarded}/recipe.json", "--steps", "3"]) == 0
    printed = capsys.readouterr().err
    name = "zero_shot/old/all/accuracy@1"
    values = {row["step"]: row[name] for row in metrics.read(guarded) if name in row}
    assert [*values] == [0, 1, 2, 3]
    change = f"accuracy@1 {values[3]:.4f} ({values[3] - values[0]:+.4f} since the start)"
    assert f"step 3  guard: {change}" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--lora", "0"), "--lora: must be a whole number of 1 or more, not '0'"),
        (("--probe_steps", "x"), "--probe_steps: must be a whole number of 1 or more, not 'x'"),
        (
            ("--probe_steps", "2", "--steps", "2"),
            "--probe_steps: 2 is not less than the 2 steps of the run",
        ),
        (("--guard", "photos/none"), "--guard: "),
        (("--guard_drop", "2"), "guard_drop: does nothing without a guard; set guard to an"),
        (
            ("--lora", "2", "--low_rank.kernels", "imge/.*/kernel"),
            "low_rank.kernels: 'imge/.*/kernel' matches no parameter; the nearest is 'embedding/",
        ),
    ],
)
def test_bad_options(words, message, home, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    assert main(["finetune", "clip", *TABLE, *words, "--workdir", str(tmp_path / "w")]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "w").exists()


def test_old_data_get_their_fields_before_it_is_decided_how_to_measure_them(
    home, monkeypatch, tmp_path
):
    """And the towers, which begin with the last step, get no warm-up that they cannot finish."""
    monkeypatch.chdir(home)
    words = ["finetune", "clip", *TABLE, "--recipe_only", "--workdir", str(tmp_path / "w")]
    words += ["--steps", "20", "--global_batch", "8", "--probe_steps", "19"]
    fields = ["--evaluators.guard.source.label", "caption"]
    assert main([*words, "--guard", "photos/captions.csv", *fields]) == 0
    run = read_recipe(str(tmp_path / "w" / "recipe.json"))
    table = str(home / "photos/captions.csv")
    source = Csv(table, captions=("title",), label="caption")
    assert run.evaluators == {"guard": ZeroShot(source)}
    assert run.optim.schedule.warmup_steps == 0


def test_old_data_without_classes_are_measured_by_retrieval(home):
    model = read_source(str(home / "clip"))
    source = Csv(str(home / "photos/captions.csv"))
    made = finetuning_run(model, "clip", source, "w")
    assert _guard(made, source) == Retrieval(source)
