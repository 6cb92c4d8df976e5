"""SugarCrepe's and Winoground's evaluators on embeddings whose scores are known."""

import numpy as np
import pytest

from tests.evaluation.fakes import FakeData, FakePredictor, FakeSource
from vljax.config import UserError
from vljax.evaluation.compositional import CaptionChoice, WinogroundAccuracy, pair_scores

# Directions in the plane, in degrees from the first axis; lengths do not matter for cosine.
ANGLES = {"right": 0, "near": 20, "far": 80, "other": 200}
TEXTS = list(ANGLES)
TURNS = np.deg2rad(np.array([*ANGLES.values()]))
EMBEDDINGS = (np.stack([np.cos(TURNS), np.sin(TURNS)], axis=1) * [[3], [1], [7], [1]]).astype("f4")


def towards(*degrees):
    turns = np.deg2rad(np.array(degrees))
    return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)


def measured(evaluator, data, images):
    evaluator.check(data)
    return evaluator.measure(FakePredictor(images, EMBEDDINGS, evaluator.batch_size), data)


def test_the_first_caption_must_be_nearer_than_all_others():
    captions = [("right", "near"), ("right", "near"), ("right", "far", "near"), ("right",)]
    data = FakeData(captions, TEXTS, unreadable=())
    metrics = measured(CaptionChoice(FakeSource(), 2), data, towards(5, 15, 15, 0))
    assert metrics["accuracy"].values.tolist() == [1.0, 0.0, 0.0]
    assert metrics["examples"] == 3.0
    assert data.asked[:2] == ["right", "near"]
    assert data.asked.count("right") == 1  # encoded once


def test_categories_count_alike():
    captions = [("right", "near"), ("right", "far"), ("far", "right"), ("right", "near")]
    data = FakeData(captions, TEXTS, np.array([0, 0, 1, 0]), ("add", "swap"), unreadable=(3,))
    metrics = measured(CaptionChoice(FakeSource(), 3), data, towards(15, 0, 80, 0))
    assert metrics["accuracy/add"] == 0.5
    assert metrics["accuracy/swap"] == 1.0
    assert metrics["accuracy"] == 0.75
    assert metrics["unreadable"] == 1.0


def test_a_tie_is_an_error_as_in_the_official_script():
    data = FakeData([("right", "right")], TEXTS)
    assert measured(CaptionChoice(FakeSource()), data, towards(40))["accuracy"] == 0.0
    assert measured(CaptionChoice(FakeSource(), ties="right"), data, towards(40))["accuracy"] == 1.0


def test_scores_of_winoground_worked_by_hand():
    captions = ["right", "far", "right", "far", "right", "far"]
    # Pair 0: all right. Pair 1: both images are nearest to "right" (text is wrong), but the first
    # is the nearer one to it, and the second to "far". Pair 2: its first image cannot be read.
    data = FakeData(captions, TEXTS, unreadable=(4,))
    metrics = measured(WinogroundAccuracy(FakeSource(), 4), data, towards(0, 80, 10, 30, 0, 80))
    assert metrics["text"].values.tolist() == [1.0, 0.0]
    assert metrics["image"].values.tolist() == [1.0, 1.0]
    assert metrics["group"].values.tolist() == [1.0, 0.0]
    assert (metrics["pairs"], metrics["unreadable"]) == (2.0, 1.0)


def test_data_without_pairs_are_refused():
    with pytest.raises(UserError, match="no example of fake:test has two captions"):
        CaptionChoice(FakeSource()).check(FakeData(["right"], TEXTS))
    for captions in (["right", "far", "near"], ["right", " "]):
        with pytest.raises(UserError, match="two examples in a row must be a pair"):
            WinogroundAccuracy(FakeSource()).check(FakeData(captions, TEXTS))
    data = FakeData(["right", "far"], TEXTS, unreadable=(1,))
    with pytest.raises(UserError, match="no pair of images can be read"):
        measured(WinogroundAccuracy(FakeSource(), 2), data, towards(0, 80))


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_pair_scores_are_those_of_the_definition(similarity):
    left, right = np.random.default_rng(0).standard_normal((2, 5, 3))
    product = {
        "cosine": lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b),
        "dot": lambda a, b: a @ b,
        "euclidean": lambda a, b: -(np.linalg.norm(a - b) ** 2),
    }[similarity]
    expected = [product(a, b) for a, b in zip(left, right, strict=True)]
    np.testing.assert_allclose(pair_scores(left, right, similarity), expected, rtol=1e-12)
