"""Zero-shot classification against a computation by hand."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.fakes import FakeData, FakePredictor, FakeSource
from vljax.config import UserError, validate
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.pipeline.pipeline import Data
from vljax.data.sources import JsonLines
from vljax.data.tokenizers import Clip
from vljax.data.transforms import ChooseText, Decode, Resize, Tokenize
from vljax.datasets import Builtin
from vljax.evaluation.zero_shot import ZeroShot

# Prompt ensembles must be normalised twice: the long "cat" vector would else outweigh the other.
TEXTS = np.array([[10.0, 0.0], [0.0, 1.0], [3.0, -4.0], [0.6, -0.8]], np.float32)
CLASSES = np.array([[0.5**0.5, 0.5**0.5], [0.6, -0.8]])
# Dot products with cat and dog: 0.7 / 0.6, 0.7 / -0.8, 0 / 1.4, 0.14 / 0.76, 0.99 / 0.28.
IMAGES = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0], [0.6, -0.4], [0.8, 0.6]], np.float32)


def evaluate(data, images=IMAGES, texts=TEXTS, batch_size=3, **fields):
    fields = {"templates": ("{}", "one {}")} | fields
    evaluator = ZeroShot(FakeSource(), batch_size=batch_size, **fields)
    return evaluator.measure(FakePredictor(images, texts, batch_size), data)


def data_set(labels=(0, 1, 1, -1, 0), **fields):
    vocabulary = ["cat", "one cat", "dog", "one dog"]
    labels = np.array(labels, np.int32)
    return FakeData(
        ["caption"] * len(labels), vocabulary, labels, fields.pop("names", ("cat", "dog")), **fields
    )


def test_class_embeddings_are_normalised_means_of_normalised_prompts():
    evaluator = ZeroShot(FakeSource(), batch_size=3, templates=("{}", "one {}"))
    classes = evaluator.class_embeddings(FakePredictor(IMAGES, TEXTS, 3), data_set())
    np.testing.assert_allclose(classes, CLASSES, atol=1e-7)


@pytest.mark.filterwarnings("error")
def test_a_class_without_a_direction_has_a_zero_embedding():
    evaluator = ZeroShot(FakeSource(), batch_size=3, templates=("{}", "one {}"))
    texts = np.array([[0, 0], [0, 0], [1, 0], [-1, 0]], np.float32)
    classes = evaluator.class_embeddings(FakePredictor(IMAGES, texts, 3), data_set())
    assert classes.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_prompts_are_the_templates_of_each_class_in_turn():
    data = data_set(names=("Red Fox", "{x}"))
    data.vocabulary = asked = ["Red Fox!", "a Red Fox in {2024}", "{x}!", "a {x} in {2024}"]
    evaluate(data, templates=("{}!", "a {} in {2024}"))
    assert data.asked == asked


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_metrics_worked_by_hand(batch_size):
    """Cats 0 and 4 are right; of dogs 1 is wrong and 2 right; 3 has no label."""
    assert evaluate(data_set(), batch_size=batch_size) == {
        "accuracy@1": 0.75,
        "accuracy@1_chance": 0.5,
        "accuracy@5": 1.0,
        "accuracy@5_chance": 1.0,
        "mean_per_class": 0.75,
        "worst_class": 0.5,
        "examples": 4.0,
        "classes": 2.0,
        "unreadable": 0.0,
    }


def test_unreadable_examples_are_left_out():
    metrics = evaluate(data_set(unreadable=(1, 3)))
    assert metrics["accuracy@1"] == metrics["mean_per_class"] == 1.0
    # Example 3 has no label: it was not asked for.
    assert (metrics["examples"], metrics["unreadable"]) == (3, 1)


def test_images_without_a_caption_are_classified(tmp_path):
    """From the file to the metric: only the class is needed, and an image may be unreadable."""
    for name, level in [("dark", 60), ("bright", 200)]:
        Image.new("RGB", (4, 4), (level, 0, 0)).save(tmp_path / f"{name}.png")
    rows = [
        {"image": "dark.png", "class": "cat", "place": "on land"},
        {"image": "bright.png", "class": "dog", "caption": "", "place": 7},
        {"image": "bright.png", "class": "cat", "caption": "a caption", "place": "7"},
        {"image": "lost.png", "class": "cat", "caption": "a caption"},
        {"image": "dark.png"},
    ]
    path = tmp_path / "pets.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = (Decode(), Resize(4), ChooseText(), Tokenize())
    source = JsonLines(str(path))
    data = EvaluationSet(Data(source, {"text": Clip(context_length=8)}, steps, steps), source)
    ids, _ = data.tokenizer(["cat", "dog"])

    class Brightness:
        def run(self, want, batch):
            if want == ["image/embedding"]:
                classes = batch["image"][:, 0, 0, 0] > 128
            else:
                classes = (batch["text"] != ids[0]).any(axis=1)
            return {want[0]: np.eye(2)[classes.astype(int)]}

    metrics = ZeroShot(source, batch_size=2, templates=("{}",)).measure(Brightness(), data)
    assert (metrics["examples"], metrics["unreadable"]) == (3, 1)
    assert metrics["accuracy@1"] == pytest.approx(2 / 3)
    assert metrics["mean_per_class"] == 0.75
    assert not [name for name in metrics if "group" in name]

    grouped = JsonLines(str(path), group="place")
    data = EvaluationSet(Data(grouped, {"text": Clip(context_length=8)}, steps, steps), grouped)
    metrics = ZeroShot(grouped, batch_size=2, templates=("{}",)).measure(Brightness(), data)
    assert (metrics["group/on land"], metrics["group/7"]) == (1.0, 0.5)
    assert metrics["worst_group"] == 0.5
    assert metrics["accuracy@1"] == pytest.approx(2 / 3)


def test_mean_per_class_weighs_classes_equally():
    metrics = evaluate(data_set(labels=(0, 0, 0, -1, 1)))
    # Cats: 0 and 1 are right, 2 is not; the one dog (image 4) is wrong.
    assert metrics["accuracy@1"] == 0.5
    assert metrics["mean_per_class"] == pytest.approx(1 / 3)
    assert metrics["worst_class"] == 0.0


def test_top_5_of_many_classes():
    names = tuple(f"class {i}" for i in range(8))
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0].astype(np.float32)
    images = np.arange(8)[:, None] * vectors[0] + 3.5 * vectors[1]  # class 0 wins from 4 on
    data = FakeData(["x"] * 8, list(names), np.arange(8) % 2, names)
    metrics = evaluate(data, images.astype(np.float32), vectors, templates=("{}",))
    # Right are the even images (class 0) from 4 on and the odd ones (class 1) before.
    assert metrics["accuracy@1"] == 0.5
    assert metrics["accuracy@5_chance"] == 5 / 8


def test_a_collapsed_model_is_not_above_chance():
    same = np.tile(np.random.default_rng(0).normal(size=33).astype(np.float32), (5, 1))
    metrics = evaluate(data_set(), same, same)
    assert metrics["accuracy@1"] == metrics["mean_per_class"] == 0.0


def test_data_without_labels_is_a_user_error():
    message = "^no readable example of fake:test has a class; give a source with labels$"
    with pytest.raises(UserError, match=message):
        evaluate(data_set(labels=(-1,) * 5))


def test_data_that_cannot_be_classified_are_refused_before_anything_is_computed():
    evaluator = ZeroShot(FakeSource())
    evaluator.check(data_set(labels=(-1, 1)))
    with pytest.raises(UserError, match=r"^no example of fake:test has a class; give"):
        evaluator.check(data_set(labels=(-1, -1)))
    with pytest.raises(UserError, match=r"^fake:test has no classes; give"):
        evaluator.check(data_set(labels=(-1, -1), names=()))
    with pytest.raises(UserError, match=r"^fake:test has no examples$"):
        evaluator.check(data_set(labels=()))


@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
def test_without_cosine_a_class_is_the_plain_mean_of_its_prompts(similarity):
    evaluator = ZeroShot(
        FakeSource(), batch_size=3, templates=("{}", "one {}"), similarity=similarity
    )
    classes = evaluator.class_embeddings(FakePredictor(IMAGES, TEXTS, 3), data_set())
    np.testing.assert_allclose(classes, [[5.0, 0.5], [1.8, -2.4]], atol=1e-6)
    assert classes.dtype == np.float64


@pytest.mark.parametrize(
    ("similarity", "accuracy"), [("dot", 0.5), ("cosine", 0.0), ("euclidean", 1.0)]
)
def test_ranking_uses_the_similarity_of_the_evaluator(similarity, accuracy):
    """By dot product the longer one wins, cosines tie, the distance separates both."""
    vectors = np.array([[1.0, 0.0], [9.0, 0.0]], np.float32)
    data = FakeData(["x", "x"], ["near", "far"], np.array([0, 1]), ("near", "far"))
    metrics = evaluate(data, vectors, vectors, templates=("{}",), similarity=similarity)
    assert metrics["accuracy@1"] == accuracy


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ((), "templates: must hold at least one prompt"),
        (("{}", "a photo"), "templates.1: must hold '{}' once, .* got 'a photo'"),
        (("{} and {}",), "templates.0: must hold '{}' once"),
    ],
)
def test_templates_are_checked(templates, message):
    with pytest.raises(UserError, match=message):
        validate(ZeroShot(Builtin(), templates=templates))


def test_the_defaults_are_valid():
    evaluator = validate(ZeroShot(Builtin()))
    assert len(evaluator.templates) > 1
    with pytest.raises(UserError, match="batch_size: must be at least 1"):
        validate(dataclasses.replace(evaluator, batch_size=0))


def test_the_first_class_of_a_name_is_right_if_that_is_asked_for():
    # Classes 0 and 1 have the prompts of "cat", so they tie on every image.
    data = data_set(labels=(0, 1, 1, 2, 0), names=("cat", "cat", "dog"))
    assert evaluate(data)["accuracy@1"].values.tolist() == [0.0, 0.0, 0.0, 1.0, 0.0]
    metrics = evaluate(data, same_name="first")
    # Images 0 and 4 are nearer to cat, and image 3 to dog.
    assert metrics["accuracy@1"].values.tolist() == [1.0, 0.0, 0.0, 1.0, 1.0]
    assert metrics["mean_per_class"] == pytest.approx((1 + 0 + 1) / 3)
