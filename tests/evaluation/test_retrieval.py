"""The retrieval evaluator on embeddings whose rankings are known."""

import jax
import numpy as np
import pytest

from tests.data.samples import sample_data, write_jsonl
from tests.evaluation.fakes import FakeData, FakePredictor, FakeSource
from vljax.config import UserError, decode, encode, validate
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.sources import JsonLines
from vljax.datasets import Builtin
from vljax.evaluation.evaluator import Evaluator, ShardedEvaluationSet
from vljax.evaluation.retrieval import MultilingualRetrieval, Retrieval, distinct_captions
from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.parallel.rows import shard_array
from vljax.parallel.rules import batch_sharding

CAPTIONS = ["A red fox", "a  red FOX ", "a boat", "a tree"]
TEXTS = ["A red fox", "a boat", "a tree"]
# Towards the axes fox, boat, tree. Image 0 looks like a tree first and a fox second.
IMAGES = np.array([[0.6, 0.0, 0.8], [0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.7, 0.0, 0.7]], np.float32)
AXES = np.eye(3, dtype=np.float32)


def evaluate(data, images, texts, batch_size=64, **fields):
    evaluator = Retrieval(FakeSource(), batch_size=batch_size, **fields)
    return evaluator.measure(FakePredictor(images, texts, batch_size), data)


def test_metrics_worked_by_hand():
    metrics = evaluate(FakeData(CAPTIONS, TEXTS), IMAGES, AXES)
    # fox finds image 1 first, boat image 2 first, tree image 0 (0.8) before its own (0.7).
    assert metrics["text_to_image/recall@1"] == pytest.approx(2 / 3)
    assert metrics["text_to_image/median_rank"] == 1.0
    # Image 0 finds fox second; 1 and 2 are right; 3 ties fox and tree, so its tree is second.
    assert metrics["image_to_text/recall@1"] == 0.5
    assert metrics["image_to_text/median_rank"] == 1.5
    assert metrics["image_to_text/recall@1_chance"] == pytest.approx(1 / 3)
    # Two of four images are right for fox, one for boat and for tree.
    assert metrics["text_to_image/recall@1_chance"] == pytest.approx((2 / 4 + 1 / 4 + 1 / 4) / 3)
    assert metrics["text_to_image/recall@5"] == metrics["text_to_image/recall@5_chance"] == 1.0
    assert (metrics["examples"], metrics["captions"], metrics["unreadable"]) == (4, 3, 0)


def test_names_of_metrics():
    ways = ("image_to_text", "text_to_image")
    metrics = [
        f"{way}/recall@{k}{end}" for way in ways for k in (1, 5, 10) for end in ("", "_chance")
    ]
    metrics += [f"{way}/median_rank" for way in ways] + ["examples", "captions", "unreadable"]
    assert set(evaluate(FakeData(CAPTIONS, TEXTS), IMAGES, AXES)) == set(metrics)


def test_data_without_captions_are_refused_before_anything_is_computed():
    evaluator = Retrieval(FakeSource())
    evaluator.check(FakeData(["", "a caption"], TEXTS))
    with pytest.raises(UserError, match=r"^no example of fake:test has a caption$"):
        evaluator.check(FakeData(["", " "], TEXTS))
    with pytest.raises(UserError, match=r"^fake:test has no examples$"):
        evaluator.check(FakeData([], TEXTS))


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 64, 23])
def test_results_are_the_same_for_any_batch_size(batch_size, similarity):
    rng = np.random.default_rng(0)
    captions = [f"caption {i}" for i in rng.integers(0, 15, 23)]
    texts = [f"caption {i}" for i in range(15)]
    images, axes = rng.normal(size=(23, 6)), rng.normal(size=(15, 6))
    data = FakeData(captions, texts, unreadable=(4, 22))
    metrics = evaluate(data, images, axes, batch_size, similarity=similarity)
    if similarity == "cosine":
        images, axes = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (images, axes))
    # The definition, one query at a time.
    kept = [i for i in range(23) if i not in (4, 22)]
    asked = sorted({captions[i] for i in kept})
    scores = {text: images @ axes[texts.index(text)] for text in asked}
    ranks = [
        1 + sum(scores[t][i] >= max(scores[t][j] for j in kept if captions[j] == t)
                for i in kept if captions[i] != t)
        for t in asked
    ]  # fmt: skip
    for k in (1, 5, 10):
        assert metrics[f"text_to_image/recall@{k}"] == np.mean(np.array(ranks) <= k)
    assert metrics["text_to_image/median_rank"] == np.median(ranks)
    ranks = [1 + sum(scores[t][i] >= scores[captions[i]][i] for t in asked if t != captions[i])
             for i in kept]  # fmt: skip
    for k in (1, 5, 10):
        assert metrics[f"image_to_text/recall@{k}"] == np.mean(np.array(ranks) <= k)
    assert metrics["image_to_text/median_rank"] == np.median(ranks)
    assert (metrics["examples"], metrics["unreadable"]) == (21, 2)


def test_a_collapsed_model_is_not_above_chance():
    data = FakeData([f"caption {i}" for i in range(40)], [f"caption {i}" for i in range(40)])
    same = np.tile(np.random.default_rng(0).normal(size=33).astype(np.float32), (40, 1))
    metrics = evaluate(data, same, same, 7)
    for way in ("image_to_text", "text_to_image"):
        for k in (1, 5, 10):
            assert metrics[f"{way}/recall@{k}"] == 0 < metrics[f"{way}/recall@{k}_chance"]


def test_unreadable_and_blank_examples_are_left_out():
    """Image 3 was the only tree: neither it nor its caption is a candidate any more."""
    data = FakeData([*CAPTIONS, "  "], TEXTS, unreadable=(3,))
    metrics = evaluate(data, np.concatenate([IMAGES, IMAGES[:1]]), AXES, 3)
    assert data.asked == ["A red fox", "a boat"]
    assert (metrics["examples"], metrics["captions"], metrics["unreadable"]) == (3, 2, 1)
    assert metrics["image_to_text/recall@1"] == 1.0


def test_data_without_readable_images_is_a_user_error():
    message = "^no readable example of fake:test has a caption$"
    with pytest.raises(UserError, match=message):
        evaluate(FakeData(CAPTIONS, TEXTS, unreadable=(0, 1, 2, 3)), IMAGES, AXES)
    with pytest.raises(UserError, match=message):
        evaluate(FakeData([], TEXTS), IMAGES, AXES)


def test_batches_that_end_early_are_an_error():
    data = FakeData(CAPTIONS, TEXTS)
    data.batches = lambda size: list(FakeData.batches(data, size))[:-1]
    with pytest.raises(ValueError, match="the batches hold 3 rows for 4 examples"):
        evaluate(data, IMAGES, AXES, 3)


@pytest.mark.parametrize(
    ("fields", "recall"),
    [({"similarity": "dot"}, 0.5), ({}, 0.0), ({"similarity": "euclidean"}, 1.0)],
)
def test_ranking_uses_the_similarity_of_the_evaluator(fields, recall):
    """By dot product the longer one wins, cosines tie, the distance separates both."""
    data = FakeData(["near", "far"], ["near", "far"])
    vectors = np.array([[1.0, 0.0], [9.0, 0.0]])
    metrics = evaluate(data, vectors, vectors, **fields)
    for way in ("text_to_image", "image_to_text"):
        assert metrics[f"{way}/recall@1"] == recall


def test_the_length_of_embeddings_does_not_matter_by_default():
    scales = np.array([[1e-6], [3.0], [0.7], [1e9]])
    metrics = evaluate(FakeData(CAPTIONS, TEXTS), IMAGES * scales, AXES * scales[1:])
    assert metrics == evaluate(FakeData(CAPTIONS, TEXTS), IMAGES, AXES)


def test_captions_are_distinct_up_to_case_and_white_space():
    captions, groups = distinct_captions(["B b", "a", "b\tB ", "A", "c"])
    assert captions == ["B b", "a", "c"]
    assert groups.tolist() == [0, 1, 0, 1, 2]


def test_recipes_hold_evaluators():
    evaluator = Retrieval(Builtin(split="test"), batch_size=8)
    assert decode(Evaluator, encode(evaluator)) == evaluator
    with pytest.raises(UserError, match="batch_size: must be at least 1, got 0"):
        validate(Retrieval(Builtin(), batch_size=0))


# --- Several captions for an image ---


def published(images, texts, owner):
    """Recall@k and median ranks of the published protocol in float64, one query at a time.

    An image finds any of its captions, a caption finds its image; ties count against the model.
    """
    images, texts = (np.asarray(v, np.float64) for v in (images, texts))
    images, texts = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (images, texts))
    cosine = images @ texts.T
    eps = 1e-12  # far above float64 rounding, far below the differences of random float32 numbers
    ranks = {"image_to_text": [], "text_to_image": []}
    for i, row in enumerate(cosine):
        own = owner == i
        ranks["image_to_text"].append(1 + np.sum(row[~own] >= row[own].max() - eps))
    for t, column in enumerate(cosine.T):
        other = np.arange(len(images)) != owner[t]
        ranks["text_to_image"].append(1 + np.sum(column[other] >= column[owner[t]] - eps))
    metrics = {}
    for way, found in ranks.items():
        metrics[f"{way}/median_rank"] = np.median(found)
        for k in (1, 5, 10):
            metrics[f"{way}/recall@{k}"] = np.mean(np.array(found) <= k)
    return metrics


def several(count=30, seed=0):
    """Images with 1 to 6 captions each, some of them equal, and random embeddings of a few axes."""
    rng = np.random.default_rng(seed)
    amounts = rng.integers(1, 7, count)
    owner = np.repeat(np.arange(count), amounts)
    number = rng.permutation(len(owner))
    number[:9] = number[9:18]  # equal captions of different images
    vectors = rng.normal(size=(len(owner), 4)).astype(np.float32)
    vectors[20:26] = vectors[26:32]  # different captions with equal embeddings
    vocabulary = [f"caption {i}" for i in range(len(owner))]
    captions = [tuple(vocabulary[n] for n in number[owner == i]) for i in range(count)]
    near = vectors[number[np.searchsorted(owner, np.arange(count))]]
    images = (near + 0.3 * rng.normal(size=(count, 4))).astype(np.float32)
    return captions, vocabulary, images, vectors, owner, number


@pytest.mark.parametrize("batch_size", [7, 64])
def test_several_captions_follow_the_published_protocol(batch_size):
    captions, vocabulary, images, vectors, owner, number = several()
    metrics = evaluate(FakeData(captions, vocabulary), images, vectors, batch_size)
    expected = published(images, vectors[number], owner)
    assert {name: metrics[name] for name in expected} == expected
    assert 0.1 < metrics["image_to_text/recall@1"] < 0.9
    assert (metrics["examples"], metrics["captions"]) == (30, len(owner))
    # A random ranking finds one of n images, or one of an image's captions among all.
    assert metrics["text_to_image/recall@5_chance"] == pytest.approx(5 / 30)
    amounts = np.bincount(owner)
    assert metrics["image_to_text/recall@1_chance"] == pytest.approx(np.mean(amounts / len(owner)))


def test_unreadable_images_are_left_out_with_all_their_captions():
    captions, vocabulary, images, vectors, owner, number = several(seed=1)
    metrics = evaluate(FakeData(captions, vocabulary, unreadable=(0, 7)), images, vectors)
    kept = [i for i in range(30) if i not in (0, 7)]
    own = np.isin(owner, kept)
    expected = published(images[kept], vectors[number[own]], np.searchsorted(kept, owner[own]))
    assert {name: metrics[name] for name in expected} == expected


def test_two_captions_worked_by_hand():
    """Image 0 finds its second caption first. Its first caption finds image 1."""
    data = FakeData([("fox", "boat"), "tree"], ["fox", "boat", "tree"])
    images = np.array([[0.0, 1.0, 0.2], [0.8, 0.0, 0.9]])
    metrics = evaluate(data, images, AXES)
    assert metrics["image_to_text/recall@1"] == 1.0
    assert metrics["text_to_image/recall@1"] == pytest.approx(2 / 3)


def test_captions_limits_the_captions_of_an_image():
    captions, vocabulary, images, vectors, owner, _ = several()
    first = evaluate(FakeData([one[:1] for one in captions], vocabulary), images, vectors)
    assert evaluate(FakeData(captions, vocabulary), images, vectors, captions=1) == first
    two = evaluate(FakeData([one[:2] for one in captions], vocabulary), images, vectors)
    assert evaluate(FakeData(captions, vocabulary), images, vectors, captions=2) == two
    assert two["captions"] == np.minimum(np.bincount(owner), 2).sum()
    with pytest.raises(
        UserError, match="captions: must be at least 1, got 0; leave it out for all"
    ):
        validate(Retrieval(Builtin("test"), captions=0))


@pytest.mark.parametrize("devices", [1, 8])
def test_several_captions_on_one_device_and_on_eight(tmp_path, devices):
    """From files to metrics: the set gives all captions, each device holds a part of a batch."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(20), rng.integers(1, 5, 20))
    texts = [f"caption {i}" for i in range(len(owner))]
    rows = [{"captions": [texts[t] for t in np.flatnonzero(owner == i)]} for i in range(20)]
    path = write_jsonl(tmp_path, rows)
    data = EvaluationSet(sample_data(path), JsonLines(path))
    mesh = make_mesh(MeshConfig(data=devices), jax.devices()[:devices])
    weights = {"image": rng.normal(size=(16 * 16 * 3, 5)), "text": rng.normal(size=(12, 5))}

    def project(name, array):
        return (array.reshape(len(array), -1) / (255 if name == "image" else 49408)) @ weights[name]

    class Projection:
        def run(self, want, batch):
            (output,) = want
            name = output.removesuffix("/embedding")
            array = shard_array(batch[name], batch_sharding(mesh))
            assert len(array.sharding.device_set) == devices
            return {output: np.asarray(jax.jit(project, static_argnums=0)(name, array))}

    evaluator = Retrieval(JsonLines(path), batch_size=8)
    metrics = evaluator.measure(Projection(), ShardedEvaluationSet(data, mesh))
    images = np.concatenate([batch["image"] for batch in data.batches(20)])
    expected = published(project("image", images), project("text", data.tokenizer(texts)[0]), owner)
    assert {name: metrics[name] for name in expected} == expected
    assert metrics["captions"] == len(owner) > 40


def test_languages_are_ranked_by_themselves():
    captions = [("fox", "Fuchs"), ("boat", "the boat", "Boot"), ("tree",), ("oak", "Eiche")]
    tags = (("en", "de"), ("en", "en", "de"), ("en",), ("en", "de"))
    texts = [text for own in captions for text in own]
    rng = np.random.default_rng(3)
    embeddings = rng.standard_normal((len(texts), 3)).astype(np.float32)
    data = FakeData(captions, texts, tags=tags, unreadable=(3,))
    evaluator = MultilingualRetrieval(FakeSource(), batch_size=2)
    evaluator.check(data)
    found = evaluator.measure(FakePredictor(IMAGES, embeddings, 2), data)
    for language in ("en", "de"):
        own = [
            tuple(t for t, of in zip(*pair, strict=True) if of == language)
            for pair in zip(captions, tags, strict=True)
        ]
        alone = evaluate(FakeData(own, texts, unreadable=(3,)), IMAGES, embeddings, 2)
        for name in alone.keys() - {"unreadable"}:
            assert found[f"{language}/{name}"] == alone[name], name
    name = "text_to_image/recall@1"
    assert found[f"mean/{name}"] == (found[f"en/{name}"] + found[f"de/{name}"]) / 2
    assert (found["languages"], found["examples"], found["unreadable"]) == (2, 3, 1)
    assert evaluator.inputs(data) == len(captions) + len(texts)
    with pytest.raises(UserError, match="2 captions, but 0 tags for their languages"):
        evaluator.check(FakeData(captions, texts))
