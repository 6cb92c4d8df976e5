import json

import numpy as np
import pytest

from tests.data.samples import captioned, sample_data, write_jsonl
from vljax.config import UserError
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.pipeline.preprocessing import ImagePreprocessor, preprocessing
from vljax.data.records import ExampleError
from vljax.data.sources import JsonLines
from vljax.data.transforms import ChooseText, ColourJitter, Decode, Resize


@pytest.fixture
def data(tmp_path):
    return sample_data(
        write_jsonl(tmp_path, captioned(2)),
        eval_transforms=(Decode(), Resize(16, mode="pad"), ChooseText(), ColourJitter()),
    )


def test_stored_preprocessing_equals_that_of_evaluation(data):
    stored = json.loads(json.dumps(preprocessing(data)))
    preprocess = ImagePreprocessor.load(stored)
    examples = EvaluationSet(data, JsonLines(data.source.path))
    batch = next(iter(examples.batches(2)))
    images = [preprocess(examples.records[i].image)["image"] for i in range(2)]
    assert np.array_equal(images, batch["image"])
    assert preprocess.size == 16


def test_stored_content(data):
    stored = preprocessing(data)
    assert stored["image_size"] == 16
    assert stored["text_cleaning"] == "clip"
    assert stored["context_length"] == 12
    assert [step["type"] for step in stored["transforms"]] == [
        "decode",
        "resize",
        "choose_text",
        "colour_jitter",
    ]


def test_bad_images_and_versions_are_an_error(data):
    with pytest.raises(ExampleError, match="image is none of"):
        ImagePreprocessor.load(preprocessing(data))(b"")
    with pytest.raises(UserError, match="version 99, this is made for 1"):
        ImagePreprocessor.load({**preprocessing(data), "version": 99})
