"""How much streams contribute, with a model that answers from one of them."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.data.samples import encoded, picture
from vljax import config
from vljax.config import UserError
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.pipeline.pipeline import Data
from vljax.data.records import Annotation, Question, Records, Source
from vljax.evaluation import Contributions, Questions
from vljax.evaluation.contributions import _PairedBatch, _partners
from vljax.evaluation.predictor import Forward
from vljax.models.assembly import ModelConfig, Variables, build
from vljax.models.compute import Compute
from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.parallel.rules import replicated
from vljax.recipes import (
    BUILTIN_VOCABULARY,
    ChooseQuestions,
    Classifier,
    CrossAttention,
    Decode,
    EncodeAnswers,
    Expand,
    HuggingFace,
    Resize,
    TextTransformer,
    Tokenize,
    ViT,
)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("counts", [[1] * 5, [3, 3], [4, 1, 1, 2], [2, 1, 1]])
def test_each_row_gets_one_about_another_image(counts, seed):
    images = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)) * 7, counts))
    partners = _partners(images, seed, "x")
    assert sorted(partners.tolist()) == list(range(len(images)))
    assert (images[partners] != images).all()


def test_the_order_depends_on_the_seed_and_one_image_cannot_be_shuffled():
    images = np.arange(50)
    first, again, other = (_partners(images, seed, "x") for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
    with pytest.raises(UserError, match="asked: more than half of the rows are about one image; "):
        _partners(np.array([0, 0, 0, 1]), 0, "asked")


class AskedRecords(Records):
    """Eight images; the answer of each first question is in its text, that of the second is not."""

    identity = "asked"

    def __len__(self):
        return 8

    def annotation(self, index):
        word = ("red", "blue")[index % 2]
        asked = Question("told", f"Is it {word}?", word), Question("seen", "Which?", word)
        return Annotation((), questions=asked)

    def image(self, index):
        return encoded(picture(16, 16, 3, seed=index))


@dataclasses.dataclass(frozen=True)
class Asked(Source, name="test_asked"):
    @property
    def full_name(self):
        return "asked"

    def open(self):
        return AskedRecords()


STACK = {"width": 16, "depth": 1, "heads": 2, "mlp_dim": 16, "pooling": "mean"}
NODES = {
    "image": ViT(image_size=16, patch_size=8, **STACK),
    "question": TextTransformer(vocab_size=2048, context_length=8, **STACK),
    "fusion": CrossAttention(queries="question", **STACK),
    "answer": Classifier(stream="fusion", classes=2),
}


@pytest.fixture(scope="module")
def model():
    """A model with random parameters, the data, and a function that gives its logits."""
    transforms = (Decode(), Resize(16), ChooseQuestions(None), Tokenize("question"))
    transforms += (EncodeAnswers(("red", "blue")),)
    source = Expand(Asked(), by="question")
    data = Data(
        source,
        {"text": HuggingFace(str(BUILTIN_VOCABULARY), context_length=8)},
        transforms,
        transforms,
        workers=0,
    )
    nodes, mesh = ModelConfig(NODES), make_mesh(MeshConfig(), jax.devices()[:1])
    built = build(nodes, Compute())
    examples = EvaluationSet(data, source)
    batch = {k: v for k, v in next(examples.batches(16)).items() if k not in ("valid", "answer")}
    rng = np.random.default_rng(0)
    variables = jax.jit(built.init)(jax.random.key(0), batch)
    params = jax.tree.map(
        lambda x: x + rng.normal(0, 0.3, x.shape).astype(x.dtype), variables.params
    )
    predictor = Forward(built, nodes, mesh, replicated(mesh)).bind(Variables(params, {}))
    apply = jax.jit(lambda p, batch, given: built.apply(Variables(p, {}), batch, given=given)[0])
    return predictor, examples, apply, params, jax.tree.map(jax.numpy.asarray, batch)


def test_a_predictor_replaces_streams(model):
    predictor, _, apply, params, batch = model
    want = ["answer/logits"]
    outputs = apply(params, batch, {})
    other = jax.tree.map(lambda x: x[::-1], batch)
    images = {k: v for k, v in outputs.items() if k.startswith("image/")}
    zeros = {k: v * 0 if k.endswith(("tokens", "pooled")) else v for k, v in images.items()}
    swapped = {k: v[::-1] for k, v in images.items()}
    host = jax.tree.map(np.asarray, batch)
    for streams, given in (
        ({"image": None}, zeros),
        ({"image": jax.tree.map(np.asarray, other)}, swapped),
        ({}, {}),
    ):
        expected = apply(params, batch, given)
        found = predictor.run(want, host, streams=streams)["answer/logits"]
        np.testing.assert_allclose(found, expected["answer/logits"], rtol=1e-5, atol=1e-6)
        if streams:
            assert not np.allclose(found, outputs["answer/logits"], atol=1e-3)
    with pytest.raises(UserError, match="no node makes the stream 'imag'; did you mean 'image'"):
        predictor.run(want, host, streams={"imag": None})


def test_accuracy_with_each_stream_zeroed_and_shuffled(model):
    """Each figure is that of answers computed for the example and its partner by hand."""
    predictor, examples, apply, params, batch = model
    evaluator = Contributions(source=examples.source, batch_size=8, streams=("image", "question"))
    config.validate(evaluator)
    evaluator.check(examples)
    found = evaluator.measure(predictor, examples)
    plain = Questions(source=examples.source, batch_size=8).measure(predictor, examples)
    assert {name: found[name] for name in plain} == plain
    partners = _partners(examples.images, 0, "x")
    outputs = apply(params, batch, {})
    right = np.array([i // 2 % 2 for i in range(16)])  # two questions about each image
    kinds = np.arange(16) % 2
    for stream in ("image", "question"):
        own = {k: v for k, v in outputs.items() if k.split("/")[0] == stream}
        shuffled = {k: v[partners] for k, v in own.items()}
        zeroed = {k: v * 0 if k.endswith(("tokens", "pooled")) else v for k, v in own.items()}
        for way, given in (("shuffled", shuffled), ("zeroed", zeroed)):
            logits = np.asarray(apply(params, batch, given)["answer/logits"])
            hit = logits.argmax(1) == right
            assert found[f"{way}/{stream}/accuracy"] == pytest.approx(hit.mean())
            for kind, name in enumerate(("told", "seen")):
                expected = hit[kinds == kind].mean()
                assert found[f"{way}/{stream}/accuracy/{name}"] == pytest.approx(expected)
        lost = found["accuracy"] - found[f"shuffled/{stream}/accuracy"]
        assert found[f"contribution/{stream}"] == pytest.approx(lost)


def test_a_question_whose_partner_cannot_be_read_does_not_count():
    own, other = ({"valid": np.array(valid)} for valid in ([1, 1, 0], [1, 0, 1]))
    assert _PairedBatch(own, other)["valid"].tolist() == [1, 0, 0]
    assert _PairedBatch(own, None)["valid"].tolist() == [1, 1, 0]


def test_wrong_streams_are_named(model):
    predictor, examples, *_ = model
    evaluator = Contributions(source=examples.source, streams=("image", "image"))
    with pytest.raises(UserError, match="streams: must name different streams"):
        config.validate(evaluator)
    wrong = dataclasses.replace(evaluator, streams=("picture",))
    assert "picture/tokens" in wrong.reads()  # so that a recipe with it is refused
    with pytest.raises(UserError, match="no node makes the stream 'picture'"):
        wrong.measure(predictor, examples)
