"""`vljax.load` on folders and files of other software, and what the loaded model computes.

References are float32 numbers of transformers, open_clip and big_vision (`tests/parity`).
"""

import csv
import dataclasses
import doctest
import inspect
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

import vljax
from tests.interop.conftest import unzip
from tests.interop.test_by_recipe import recipe  # noqa: F401  a fixture
from tests.parity import interop_inputs as inputs
from tests.parity import verify_inputs
from vljax.config import UserError
from vljax.inference import TEMPLATES, Index, _best
from vljax.interop.convert import import_model
from vljax.models.assembly import AssembledModule, Variables
from vljax.models.numerics import Precision, unit
from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.recipes import Folder, SoftmaxContrastive
from vljax.run import build_model

GUIDE = Path(__file__).parents[2] / "docs" / "python.md"
PARITY = Path(__file__).parents[1] / "parity" / "data"
VERIFIED = json.loads((PARITY / "verify.json").read_text())
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return unzip("transformers_clip_a", tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder):
    return vljax.load(folder)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return vljax.load(unzip("transformers_siglip_a", tmp_path_factory.mktemp("siglip")))


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return vljax.load(unzip("vit_a", tmp_path_factory.mktemp("vit")))


@pytest.fixture(scope="module")
def stored(folder):
    return dict(np.load(folder / "outputs.npz"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The images of the references, as files."""
    home = tmp_path_factory.mktemp("images")
    for i, content in enumerate(inputs.images()):
        (home / f"{i}.png").write_bytes(content)
    return sorted(home.glob("*.png"))


# --- Load ---


def test_a_model_is_traced_once_to_be_loaded(folder, monkeypatch):
    """To trace it takes a third of a second for a ViT-B; so do its shapes and its outputs."""
    traced = []

    def count(module, *args, **kwargs):
        traced.append(module.is_initializing())
        return call(module, *args, **kwargs)

    call = AssembledModule.__call__
    monkeypatch.setattr(AssembledModule, "__call__", count)
    vljax.load(folder)
    assert traced == [True, False]  # the second tells which outputs there are


@pytest.mark.parametrize("name", ["open_clip_siglip_a", "siglip2_a", "bert_a"])
def test_a_foreign_folder_is_loaded_as_it_is(name, foreign):
    source = foreign(name)
    before = sorted(source.rglob("*"))
    model, stored = vljax.load(str(source)), np.load(source / "outputs.npz")
    assert model.step == 0
    np.testing.assert_array_equal(model.tokenizer(inputs.TEXTS)[0], stored["ids"])
    text = model.encode_text(inputs.TEXTS)
    np.testing.assert_allclose(text, stored["text"], rtol=0, atol=TOLERANCE)
    if "image" in stored:
        image = model.encode_image(inputs.images())
        np.testing.assert_allclose(image, stored["image"], rtol=0, atol=TOLERANCE)
    assert sorted(source.rglob("*")) == before


def test_an_import_computes_the_same_as_its_source(clip, folder, tmp_path):
    import_model(str(folder), str(tmp_path / "w"), overwrite=False, report=lambda done, total: None)
    imported = vljax.load(tmp_path / "w")
    assert imported.images == clip.images
    assert imported.run.precision == clip.run.precision == Precision("float32")
    for name, given in (("image", inputs.images()), ("text", inputs.TEXTS)):
        own, other = (getattr(model, f"encode_{name}")(given) for model in (clip, imported))
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-6)


def test_stacks_are_scanned_and_every_device_holds_them(clip):
    assert clip.run.model.encoders["image"].scan
    held = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(clip.variables)}
    assert held == {len(jax.local_devices())} == {8}


def test_a_file_of_big_vision_needs_the_words_of_import(recipe, tmp_path):  # noqa: F811
    weights = PARITY / "big_vision.npz"
    with pytest.raises(UserError, match=r"only weights; add --recipe \(in Python recipe=\)"):
        vljax.load(weights)
    model = vljax.load(weights, recipe=" ".join(recipe[1:]))
    with np.load(PARITY / "big_vision_outputs.npz") as wanted:
        batch = {name: wanted[name] for name in ("image", "text")}
        batch["text_mask"] = np.ones(batch["text"].shape, bool)
        for name in ("image/embedding", "text/embedding"):
            made = model.predictor.run([name], batch)[name]
            np.testing.assert_allclose(made, wanted[name], rtol=0, atol=5e-6)
    with np.load(weights) as arrays:
        assert model.logit_bias == arrays["params/b"][0]
        assert model.logit_scale == pytest.approx(np.exp(arrays["params/t"][0]), rel=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "x: no such file or folder"),
        (
            {},
            "x: no intact checkpoint, and no model of a format that vljax imports; pass a workdir",
        ),
        ({"state/a": b""}, "x: no intact checkpoint"),
        ({"model.safetensors": b""}, "x: no intact checkpoint, and no model"),
        ({"config.json": b'{"model_type": "t5"}'}, "t5"),
    ],
)
def test_a_path_without_a_model_is_one_line(content, message, tmp_path):
    if content is not None:
        (tmp_path / "x").mkdir()
        for name, data in content.items():
            (tmp_path / "x" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "x" / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        vljax.load(tmp_path / "x")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": ""}, "recipe: '' names no file; pass the words after `vljax import ..."),
        ({"recipe": "a 'b"}, """recipe: "a 'b": No closing quotation; pass the words after"""),
        ({"recipe": "clip.py"}, "is a folder, which describes its own model; recipe is for a file"),
        ({"precision": "bfloat16"}, "precision: must be a vljax.recipes.Precision, such as"),
        ({"precision": Precision("bf16")}, "precision.compute: "),
        ({"devices": []}, "devices: pass at least one device, or None for all of this process"),
    ],
)
def test_bad_options_of_load_are_one_line(options, message, folder):
    path = PARITY / "big_vision.npz" if options.get("recipe", "clip.py") != "clip.py" else folder
    with pytest.raises(UserError) as caught:
        unchecked(vljax.load)(path, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def unchecked(function):
    """The function as users call it: the tests check the types of arguments before (jaxtyping)."""
    return inspect.unwrap(function)


# --- Comparisons ---


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_logits_and_similarities_equal_those_of_transformers(name, request, foreign):
    model = request.getfixturevalue(name)
    stored = np.load(foreign(f"transformers_{name}_a") / "outputs.npz")
    files = inputs.images()
    logits = model.logits(files, inputs.TEXTS)
    np.testing.assert_allclose(logits, stored["logits"], rtol=0, atol=1e-4)
    cosine = stored["image"] @ stored["text"].T
    np.testing.assert_allclose(model.similarity(files, inputs.TEXTS), cosine, atol=TOLERANCE)
    np.testing.assert_allclose(
        model.logit_scale * cosine + model.logit_bias, stored["logits"], rtol=0, atol=1e-4
    )
    assert (model.logit_bias != 0) == (name == "siglip")


def test_embeddings_serve_in_place_of_inputs(clip, stored):
    images, texts = 3 * stored["image"], stored["text"]  # cosine ignores the length
    np.testing.assert_allclose(clip.similarity(images, texts), stored["image"] @ texts.T, atol=1e-6)
    assert clip.similarity(images, ["a cat"]).shape == (5, 1)
    assert clip.similarity([], texts).shape == (0, 5)
    with pytest.raises(UserError, match="images: embeddings of 7 numbers, but this model's have"):
        clip.similarity(images[:, :7], texts)


def test_embeddings_in_other_forms(clip, stored):
    images, texts = stored["image"], stored["text"]
    wanted = clip.similarity(images, texts)
    index = Index(tuple("abcde"), images)
    for form in (index, list(images), images.tolist(), [jax.numpy.asarray(row) for row in images]):
        np.testing.assert_allclose(clip.similarity(form, texts), wanted, rtol=0, atol=1e-7)
    np.testing.assert_allclose(clip.similarity(images, list(texts)), wanted, rtol=0, atol=1e-7)
    found = clip.search(index, index, top=1)
    assert [hits[0].position for hits in found] == list(range(5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m.similarity(np.ones(20, np.float32), ["a"]),
            r"images: embeddings have the shape \[rows, dim\], not \[20\]; pass E\[None\]",
        ),
        (lambda m: m.similarity(np.ones((1, 20)), np.ones(20)), r"texts: .*pass E\[None\]"),
        (lambda m: m.similarity(np.ones((4, 4, 3)), ["a"]), "the pixels of images are uint8"),
        (lambda m: m.search(np.ones(20), np.ones((1, 20))), r"query: .*pass E\[None\]"),
        (lambda m: m.similarity([np.ones(3), np.ones(4)], ["a"]), "different lengths"),
        (lambda m: Index(("a",), np.ones((2, 20))), "index: 1 names for 2 rows of embeddings"),
        (lambda m: m.search(None, np.ones((1, 20))), "query is None; pass a text, an image"),
        (
            lambda m: m.search([Path("a.png"), "a cat"], np.ones((1, 20))),
            r"query\[1\] is a string, which is a text, query\[0\] is not; pass a list of texts or",
        ),
        (
            lambda m: unchecked(type(m).search)(m, "a", np.ones((1, 20)), top=2.0),
            "top: must be a whole number, got",
        ),
    ],
)
def test_what_is_not_an_embedding_or_a_query_is_named(clip, call, message):
    with pytest.raises((TypeError, UserError), match=message):
        call(clip)


def test_an_encoder_without_an_embedding_is_no_hindrance(clip, stored):
    """Such as the encoder of questions beside an image tower and a text tower."""
    nodes = {**clip.run.model.nodes, "question": clip.run.model.nodes["text"]}
    run = dataclasses.replace(clip.run, model=dataclasses.replace(clip.run.model, nodes=nodes))
    params = {**clip.variables.params, "question": clip.variables.params["text"]}
    model = dataclasses.replace(
        clip,
        run=run,
        model=build_model(run, make_mesh(MeshConfig(), jax.local_devices())),
        variables=Variables(params, clip.variables.state),
    )
    assert model.encode_image([]).shape == (0, 20)
    made = model.similarity(stored["image"], stored["text"])
    np.testing.assert_array_equal(made, clip.similarity(stored["image"], stored["text"]))


def test_probabilities_of_clip_sum_to_one_and_those_of_siglip_stand_alone(clip, siglip, stored):
    made = clip.classify(inputs.images(), inputs.TEXTS, templates=["{}"])
    wanted = np.exp(stored["logits"] - stored["logits"].max(axis=1, keepdims=True))
    wanted /= wanted.sum(axis=1, keepdims=True)
    assert made.kind == "softmax"
    np.testing.assert_allclose(made.probabilities, wanted, rtol=0, atol=1e-5)
    assert made.top(2)[3][0] == (
        inputs.TEXTS[int(wanted[3].argmax())],
        pytest.approx(wanted[3].max(), abs=1e-5),
    )
    assert [len(each) for each in made.top(2)] == [2] * 5
    several, one = (
        siglip.classify(inputs.images(), names, templates="a {}") for names in (["x", "y"], "y")
    )
    assert one.kind == "sigmoid"
    np.testing.assert_allclose(one.probabilities, several.probabilities[:, 1:], rtol=0, atol=1e-6)
    logits = siglip.logits(inputs.images(), ["a y"])
    np.testing.assert_allclose(one.probabilities, 1 / (1 + np.exp(-logits)), rtol=0, atol=1e-6)


def test_a_class_is_the_mean_of_its_normalized_prompts(clip, stored):
    prompts = [[template.replace("{}", name) for template in TEMPLATES] for name in ("cat", "dog")]
    means = np.stack([clip.encode_text(of_class).mean(axis=0) for of_class in prompts])
    wanted = clip.logits(stored["image"], means)
    made = clip.classify(stored["image"], ["cat", "dog"]).probabilities
    odds = np.log(made[:, 0] / made[:, 1])
    np.testing.assert_allclose(odds, wanted[:, 0] - wanted[:, 1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["dot", "euclidean"])
def test_a_model_is_compared_as_its_objective_does(clip, kind):
    objectives = {"main": SoftmaxContrastive(similarity=kind)}
    model = dataclasses.replace(clip, run=dataclasses.replace(clip.run, objectives=objectives))
    rng = np.random.default_rng(0)
    images, texts = (rng.normal(size=(rows, 20)).astype(np.float32) for rows in (4, 3))
    pairs = images[:, None], texts[None]
    wanted = np.multiply(*pairs) if kind == "dot" else -np.square(np.subtract(*pairs))
    made = model.similarity(images, texts)
    np.testing.assert_allclose(made, wanted.sum(axis=2), rtol=0, atol=1e-4)
    found = model.search(texts, images, top=1)
    best = wanted.sum(axis=2).argmax(axis=0)
    assert [hits[0].position for hits in found] == best.tolist()


# --- Search ---


def test_search_finds_the_most_similar_images(clip, files, stored):
    index = clip.index(file for file in files)
    assert index.names == tuple(map(str, files))
    order = np.argsort(-stored["image"] @ stored["text"][0])[:3]
    found = clip.search(inputs.TEXTS[0], index, top=3)
    assert [hit.position for hit in found] == order.tolist()
    assert [hit.name for hit in found] == [str(files[i]) for i in order]
    np.testing.assert_allclose(
        [hit.score for hit in found], (stored["image"] @ stored["text"][0])[order], atol=TOLERANCE
    )
    assert clip.search(inputs.TEXTS[0], stored["image"], top=1)[0].name == f"images[{order[0]}]"
    assert len(clip.search(inputs.TEXTS[0], index)) == 5  # fewer than `top`


def test_queries_may_be_images_and_several(clip, files):
    index = clip.index(files)
    for query in (files[2], files[2].read_bytes(), np.asarray(_open(files[2]))):
        assert clip.search(query, index, top=1)[0].position == 2
    several = clip.search(files, index, top=2)
    assert [hits[0].position for hits in several] == list(range(5))
    by_text = clip.search(inputs.TEXTS[:2], index, top=2)
    for text, hits in zip(inputs.TEXTS[:2], by_text, strict=True):
        alone = clip.search(text, index, top=2)
        assert [hit.position for hit in hits] == [hit.position for hit in alone]
    embeddings = clip.encode_text(iter(inputs.TEXTS[:2]))
    assert [[hit.position for hit in hits] for hits in clip.search(embeddings, index, top=2)] == [
        [hit.position for hit in hits] for hits in by_text
    ]
    assert clip.search([], index) == []


def _open(file):
    from PIL import Image

    return Image.open(file)


def test_equal_scores_keep_the_order_of_the_images(clip):
    same = Index(tuple("abc"), np.ones((3, 20), np.float32))
    assert [hit.name for hit in clip.search("a cat", same)] == ["a", "b", "c"]
    assert [hit.name for hit in clip.search("a cat", same, top=2)] == ["a", "b"]


def test_the_best_scores_are_those_of_a_stable_sort():
    rng = np.random.default_rng(0)
    for size in (1, 7, 40):
        for values in (2, 5, 1000):
            scores = rng.integers(0, values, size).astype(np.float32)
            scores[rng.random(size) < 0.1] = np.nan
            order = np.argsort(-scores, kind="stable")
            for top in (1, 3, size, size + 1):
                assert _best(scores, top).tolist() == order[:top].tolist()


def test_images_are_normalized_once_for_all_queries(clip, monkeypatch):
    images = np.random.default_rng(0).normal(size=(6, 20)).astype(np.float32)
    wanted = clip.search(images, images, top=3)
    rows = []
    monkeypatch.setattr("vljax.inference._SIMILARITIES", 12)  # two queries at a time
    monkeypatch.setattr("vljax.inference.unit", lambda v: rows.append(len(v)) or unit(v))
    found = clip.search(images, images, top=3)
    assert rows == [6, 2, 2, 2]
    for hits, others in zip(found, wanted, strict=True):
        assert [hit.position for hit in hits] == [hit.position for hit in others]


# --- Metrics ---


def test_metrics_equal_those_of_other_software(clip, tmp_path, monkeypatch):
    """A recipe's worker processes are not started: they would run a plain script once more."""
    monkeypatch.setattr("grain.MultiprocessingOptions", None)
    data = dataclasses.replace(clip.run.data, workers=2)
    clip = dataclasses.replace(clip, run=dataclasses.replace(clip.run, data=data))
    about = VERIFIED["transformers_clip_a"]
    verify_inputs.write_folder(tmp_path / "imagenet", about["labels"])
    verify_inputs.write_split(tmp_path / "coco", about["captions"])
    prompts = [prompt.replace("{c}", "{}") for prompt in verify_inputs.PROMPTS]
    calls = []
    made = clip.evaluate(
        Folder(str(tmp_path / "imagenet")),
        "zero_shot",
        class_names=verify_inputs.CLASSES,
        templates=prompts,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert 100 * made["zero_shot/accuracy@1"] == pytest.approx(about["accuracy@1"], abs=1e-9)
    assert calls[-1] == (18 + 6 * 3, 18 + 6 * 3)
    made = clip.evaluate(tmp_path / "coco" / "dataset_coco.json", ["retrieval"], batch_size=16)
    for name in ("image_to_text/recall@1", "text_to_image/recall@1"):
        assert 100 * made[f"retrieval/{name}"] == pytest.approx(about[name], abs=1e-9)


@pytest.mark.parametrize(
    ("data", "tasks", "options", "message"),
    [
        ("builtin:test", "zero-shot", {}, "tasks: unknown task 'zero-shot'; did you mean"),
        ("builtin:test", "zero_shot", {"class_names": ["a"]}, "class_names: 1 names, but"),
        ("builtin:test", "zero_shot", {"templates": ["a"]}, "templates.0: must hold '{}' once"),
        ("builtin:test", "retrieval", {"batch_size": 0}, "batch_size: must be at least 1"),
        ("no/such/file.csv", "retrieval", {}, "no/such/file.csv"),
    ],
)
def test_bad_data_and_tasks_are_one_line(clip, data, tasks, options, message):
    with pytest.raises(UserError) as caught:
        clip.evaluate(data, tasks, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# --- Inputs, progress and memory ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.classify([], []), "names: pass at least one class name"),
        (lambda m: m.classify([], ["a"], templates=["{} {}"]), "templates.0: must hold '{}' once"),
        (lambda m: m.search("a", [], top=0), "top: must be at least 1, got 0"),
        (lambda m: m.preprocess([]), "images: pass at least one image"),
        (lambda m: m.index(["a.png"]), "a.png: cannot be read"),
    ],
)
def test_bad_arguments_are_named(clip, call, message):
    with pytest.raises(UserError) as caught:
        call(clip)
    assert message in str(caught.value)


def test_a_single_tower_says_what_it_lacks(tower):
    assert tower.encode_image(inputs.images()).shape == (5, 24)
    for call in (
        lambda: tower.similarity(inputs.images(), ["a"]),
        lambda: tower.classify(inputs.images(), ["a"]),
        lambda: tower.search("a", inputs.images()),
        lambda: tower.evaluate("builtin:test", "retrieval"),
    ):
        with pytest.raises(UserError, match=r"no text tower|no logit scale"):
            call()
    first = inputs.images()[0]
    assert tower.search(first, inputs.images(), top=1)[0].position == 0


def test_preprocess_gives_what_the_tower_reads(clip, stored):
    batch = clip.preprocess(inputs.images())
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        "image": ((5, 32, 32, 3), np.uint8)
    }
    made = clip.predictor.run(["image/embedding"], batch)["image/embedding"]
    np.testing.assert_allclose(made, stored["image"], rtol=0, atol=TOLERANCE)


def test_progress_is_reported(clip, monkeypatch, caplog):
    calls = []

    def report(done, total):
        calls.append((done, total))

    clip.encode_text(["a"] * 300, progress=report)
    clip.encode_text((text for text in ["a"] * 300), progress=report)
    clip.encode_image(inputs.images()[0], progress=report)
    # 44 texts beyond 256 are a batch of 64, as 16 would not do.
    assert calls == [(256, 300), (300, 300), (256, 256), (300, 300), (1, 1)]
    monkeypatch.setattr("vljax.data.records._SECONDS_BETWEEN_LINES", 0)
    clip.encode_image(inputs.images(), progress=True)
    assert caplog.messages[-1] == "encode_image: 5 of 5 images"


def test_few_images_are_in_memory_at_a_time(clip, monkeypatch):
    """One batch is computed while the next is made, and at most one more is decoded ahead."""
    content, read, begun, waited = inputs.images()[0], [], [], []
    begin = clip.predictor.begin

    class Watched:
        def begin(self, want, batch):
            assert len(waited) == len(begun)  # the devices hold one batch
            begun.append(len(read))
            wait = begin(want, batch)

            def watched():
                waited.append(len(read))
                return wait()

            return watched

    def each():
        for i in range(1300):
            read.append(i)
            yield content

    monkeypatch.setitem(clip.__dict__, "predictor", Watched())
    assert clip.encode_image(each()).shape == (1300, 20)
    assert begun[:3] == [512, 768, 1024]
    assert waited[:2] == [768, 1024]


def test_an_unreadable_image_among_many_is_named(clip, files):
    given = [*files * 100, files[0].parent / "missing.png", *files * 100]
    with pytest.raises(UserError, match=r"missing\.png: cannot be read"):
        clip.encode_image(given)


def test_the_examples_of_the_guide_run(folder, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip-vit-base-patch32").symlink_to(folder)
    (tmp_path / "photos").mkdir()
    with open(tmp_path / "photos" / "captions.csv", "w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow(["image", "caption", "kind"])
        for i, file in enumerate(files):
            (tmp_path / "photos" / file.name).write_bytes(file.read_bytes())
            rows.writerow([file.name, f"picture {i}", ("cat", "dog")[i % 2]])
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S)
    text = "".join(block for block in blocks if ">>> " in block)
    test = doctest.DocTestParser().get_doctest(text, {}, "python.md", str(GUIDE), 0)
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    assert result.failed == 0
    assert result.attempted > 25
