"""The second image of an example, from the record to batches of two encoders."""

import numpy as np
import pytest

from tests.data.samples import encoded, picture
from tests.data.sources.test_published import write_nlvr2
from tests.data.written import jpeg
from vljax import config
from vljax.config import UserError
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.pipeline.pipeline import Data, train_batches
from vljax.data.records import ExampleError, Record
from vljax.data.transforms import (
    ChooseQuestions,
    Decode,
    EncodeAnswers,
    OtherImage,
    Resize,
    Tokenize,
)
from vljax.recipes import Builtin, Clip, Expand, Nlvr2

RNG = np.random.default_rng(0)
PAIR = (Decode(), Resize(16), OtherImage((Decode(), Resize(16))))
ASK = (ChooseQuestions(None), Tokenize("question"), EncodeAnswers(("true", "false")))


def data(folder, *transforms):
    source = Expand(Nlvr2(str(folder)), by="question")
    return Data(source, {"text": Clip(context_length=8)}, transforms, transforms, workers=0)


def test_each_image_has_its_own_transforms():
    first, second = (encoded(picture(16, 16, 3, seed=i)) for i in (0, 1))
    record = Record(captions=(), image=first, more_images=(second,))
    example = {"record": record}
    for transform in (Decode(), Resize(16), OtherImage((Decode(), Resize(8)))):
        example = transform(example, RNG)
    expected = {"record": Record(captions=(), image=second)}
    for transform in (Decode(), Resize(8)):
        expected = transform(expected, RNG)
    np.testing.assert_array_equal(example["image_2"], expected["image"])
    assert (example["image"].shape, example["record"]) == ((16, 16, 3), record)


def test_batches_hold_both_images_in_training_and_evaluation(tmp_path):
    write_nlvr2(tmp_path)
    every = data(tmp_path, *PAIR, *ASK)
    config.validate(every)
    batches = train_batches(every, seed=0, global_batch=3)
    batch = next(batches)
    batches.close()
    assert batch["valid"].all()
    assert batch["image"].shape == batch["image_2"].shape == (3, 16, 16, 3)
    examples = EvaluationSet(every, every.source)
    evaluated = next(examples.batches(3))
    third = Resize(16)(Decode()({"record": Record(captions=(), image=jpeg(3))}, RNG), RNG)["image"]
    np.testing.assert_array_equal(evaluated["image_2"][2], third)
    assert evaluated["answer"].tolist() == [[1, 0], [0, 1], [0, 1]]


def test_an_example_without_its_second_image_is_left_out_of_evaluation(tmp_path):
    write_nlvr2(tmp_path)
    (tmp_path / "dev" / "dev-850-1-img1.png").write_bytes(b"no image")
    every = data(tmp_path, *PAIR, *ASK)
    batch = next(EvaluationSet(every, every.source).batches(3))
    assert batch["valid"].tolist() == [True, True, False]


def test_an_image_that_nothing_reads_is_an_error(tmp_path):
    write_nlvr2(tmp_path)
    one = data(tmp_path, *PAIR[:2], *ASK)
    with pytest.raises(UserError, match="has 2 images in each example, and no transform reads im"):
        train_batches(one, seed=0, global_batch=3)
    with pytest.raises(UserError, match="no transform reads image 2; add other_image"):
        EvaluationSet(one, one.source).open()
    with pytest.raises(UserError, match="builtin:test has 1 image in each example, and other_im"):
        EvaluationSet(one.__class__(Builtin("test"), {}, PAIR, PAIR), Builtin("test")).open()
    third = data(tmp_path, *PAIR, OtherImage((Decode(), Resize(8)), number=3), *ASK)
    with pytest.raises(UserError, match="has 2 images in each example, and other_image reads im"):
        EvaluationSet(third, third.source).open()
    with pytest.raises(ExampleError, match="no image 2; the example has 1"):
        PAIR[2]({"record": Record(captions=(), image=b"")}, RNG)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (OtherImage((Decode(),)), "none of them fixes the image size"),
        (OtherImage((Decode(), Resize(8)), number=1), "must be at least 2, got 1; decode reads"),
        (OtherImage((Decode(), Resize(8), ChooseQuestions())), "choose_questions makes or reads"),
        (OtherImage(()), "are empty; begin with decode"),
    ],
)
def test_other_transforms_are_refused(transform, message):
    assert message in str(list(transform.problems()))
