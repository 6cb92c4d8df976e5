"""Several labels of an image with its text: from tags to training and figures."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from tests.evaluation import test_questions
from tests.extending import tiny
from vljax import config
from vljax.config import UserError
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.pipeline.pipeline import train_batches
from vljax.data.records import Annotation
from vljax.data.vocabulary import tag_vocabulary
from vljax.evaluation import MultiLabel
from vljax.evaluation.predictor import Forward
from vljax.models.assembly import Variables
from vljax.parallel.rules import replicated
from vljax.recipes import (
    Classification,
    Classifier,
    CrossAttention,
    EncodeTags,
    JsonLines,
)

TAGS = ("dark", "red", "loud")


@pytest.fixture
def examples(tmp_path):
    """Twelve images; two tags are in the image, the third one in the text."""
    lines = []
    for i in range(12):
        dark, red, loud = i % 2, i // 2 % 2, i // 4 % 2
        light = 80 if dark else 200
        colour = (light, light if not red else 0, light if not red else 0)
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{i}.png")
        tags = [tag for tag, has in zip(TAGS, (dark, red, loud), strict=True) if has]
        caption = "a loud noise" if loud else "a flower and a tree"
        lines.append(json.dumps({"image": f"{i}.png", "caption": caption, "tags": tags}))
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    return JsonLines(str(tmp_path / "all.jsonl"))


def prepared(source, vocabulary=TAGS):
    fusion = CrossAttention(queries="text", width=32, depth=1, heads=2, mlp_dim=32, scan=False)
    genre = Classifier(stream="fusion", classes=len(TAGS))
    nodes = {"image": tiny.IMAGE, "text": tiny.TEXT, "fusion": fusion, "genre": genre}
    loss = Classification(
        logits="genre/logits", targets="tags", loss="sigmoid", empty_targets="negative"
    )
    run = tiny.prepared(nodes, {"genre": loss}, EncodeTags(vocabulary), global_batch=12)
    data = dataclasses.replace(run.run.data, source=source)
    return dataclasses.replace(run, run=dataclasses.replace(run.run, data=data))


def test_image_and_text_are_trained_to_several_labels(examples):
    of = prepared(examples)
    config.validate(of.run)
    params, metrics = tiny.train(of, 60)
    assert metrics[-1]["genre/loss"] < 0.1 * metrics[0]["genre/loss"]
    evaluator = MultiLabel(source=examples, batch_size=12)
    data = EvaluationSet(of.run.data, examples)
    evaluator.check(data)
    at = replicated(of.mesh)
    forward = Forward(of.model, of.run.model, of.mesh, at)
    before, after = (
        evaluator.measure(forward.bind(jax.device_put(Variables(p, {}), at)), data)
        for p in (params[0], params[-1])
    )
    assert after["f1_macro"] == after["f1_micro"] == after["mean_average_precision"] == 1
    assert before["mean_average_precision"] < 0.9
    # Four of the examples have no tag at all: F1 of an example without any is 0.
    assert (after["examples"], after["labels"]) == (12, 3)


class Scores:
    """Given logits."""

    def __init__(self, logits):
        self.logits = np.float32(logits)

    def run(self, want, batch):
        return dict.fromkeys(want, self.logits)


class Data(test_questions.Data):
    """Three examples; the image of the last one cannot be read."""

    labels = np.zeros(3)

    def __init__(self):
        super().__init__()
        tags = ("Red", "x"), ("dark", "red"), ("loud",)
        self.annotations = [Annotation((), tags=each) for each in tags]

    def vocabulary(self, array):
        return TAGS

    def batches(self, size):
        yield {"valid": np.array([True, True, False])}


def test_figures_by_hand():
    evaluator = MultiLabel(source=JsonLines("x"), threshold=0.5)
    logits = [[-1, 3, 0.5], [-2, -1, -3], [9, 9, 9]]
    found = evaluator.measure(Scores(logits), Data())
    expected = {
        # dark: the other example is above; red: found before all others; loud does not occur.
        "mean_average_precision": (0.5 + 1) / 2,
        "f1_micro": 2 * 1 / (2 + 3),
        "f1_macro": (0 + 2 / 3 + 0) / 3,
        "f1_samples": (2 * 1 / (2 + 1) + 0) / 2,
        "examples": 2,
        "labels": 2,
        "unreadable": 1,
    }
    assert found == pytest.approx(expected)
    lower = dataclasses.replace(evaluator, threshold=0.25).measure(Scores(logits), Data())
    assert lower["f1_micro"] == pytest.approx(2 * 2 / (4 + 3))  # -1 is above log(1 / 3)


def test_tags_and_vocabularies_that_do_not_fit_are_named(examples):
    assert tag_vocabulary(examples) == ("dark", "red", "loud")
    with pytest.raises(
        UserError, match=r"encode_tags: 2\d\.\d% of 16 tags are not in the vocabulary o"
    ):
        next(
            train_batches(prepared(examples, ("dark", "red", "x")).run.data, seed=0, global_batch=4)
        )
    other = EvaluationSet(prepared(examples).run.data, examples)
    with pytest.raises(UserError, match="none makes 'tag' by a vocabulary; did you mean 'tags'"):
        MultiLabel(source=examples, targets="tag").check(other)
    (problem,) = MultiLabel(source=examples, threshold=1.0).problems()
    assert problem == ("threshold", "must be between 0 and 1, got 1.0")
