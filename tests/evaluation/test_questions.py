"""Accuracy of answers with a model whose scores are known."""

import numpy as np
import pytest

from vljax.config import UserError, validate
from vljax.data.records import Annotation, Question, Region
from vljax.datasets import Scenes
from vljax.evaluation import Questions
from vljax.recipes import Expand

NAMES = ("cat", "dog", "red", "two")
CAT, DOG = Region("Cat", (0, 0, 2, 4)), Region("dog", (2, 0, 4, 4))
BOXES = np.array([[0, 0, 0.5, 1], [0.5, 0, 1, 1]], np.float32)
ASKED = [
    Question("colour", "Which colour?", "red"),
    Question("colour", "Which colour?", "red", (("red", 1.0), ("two", 4.0))),
    Question("count", "How many?", "Two"),
    Question("what_beside", "What is left of the dog?", "cat"),
    Question("what_beside", "What is right of the cat?", "dog"),
    Question("count", "How many?", "seven"),
]
GIVEN = ["red", "red", "two", "cat", "cat", "two"]
SCORES = np.eye(4, dtype=np.float32)[[NAMES.index(name) for name in GIVEN]]
EVALUATOR = Questions(source=Expand(Scenes()), batch_size=6, attention="fusion/attention")


class Data:
    """Six questions about the same two objects; the image of the last one cannot be read."""

    labels = np.full(6, -1)
    images = np.array([0, 0, 0, 1, 2, 2])
    class_names = ()

    def __init__(self):
        self.captions = [()] * 6
        self.annotations = [Annotation((), regions=(CAT, DOG), questions=(q,)) for q in ASKED]

    def vocabulary(self, array):
        return NAMES

    def batches(self, size):
        boxes, there = np.stack([BOXES] * size), np.ones((size, 2), bool)
        yield {"valid": np.arange(size) < 5, "boxes": boxes, "boxes_mask": there}

    def tokenizer(self, texts):
        raise AssertionError

    def thumbnail(self, index, size):
        return np.zeros((size, size, 3), np.uint8)

    def other(self, source):
        raise AssertionError


class Model:
    """Answers as `GIVEN`; the only word that counts attends to the left of four image tokens."""

    def __init__(self, scores=SCORES):
        self.scores = scores

    def run(self, want, batch):
        weights = np.zeros((6, 2, 1, 2, 4), np.float32)
        weights[:, 0, :, :, 1] = 1  # an earlier block looks elsewhere
        weights[:, 1, :, 0, 0] = 1
        weights[:, 1, :, 1, 3] = 9  # padding
        every = {"answer/logits": self.scores, "fusion/attention": weights}
        every["question/mask"] = np.stack([np.array([True, False])] * 6)
        return {name: every[name] for name in want}


def test_credit_by_kind_and_the_most_frequent_answer():
    """The second answer has a quarter of the largest weight; an unreadable image is left out."""
    found = EVALUATOR.measure(Model(), Data())
    expected = {
        "accuracy": (1 + 0.25 + 1 + 1 + 0) / 5,
        "accuracy/colour": 0.625,
        "accuracy/count": 1.0,
        "accuracy/what_beside": 0.5,
        "majority": (2 * 1 + 1 * 1 + 2 * 0.5) / 5,
        "majority/what_beside": 0.5,
        "questions": 5.0,
        "questions/colour": 2.0,
        "unreadable": 1.0,
        "attention/right": 0.5,
        "attention/other": 0.5,
        "attention/questions": 2.0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    # Of each question that points, so that the two have an interval.
    for name, values in {"attention/right": [1, 0], "attention/other": [0, 1]}.items():
        assert found[name].values.tolist() == values
        assert found[name].examples.tolist() == [1, 2]  # their images


class TwoHeads(Model):
    """One head looks at the other object, the second one, less sharply, at the right one."""

    def run(self, want, batch):
        outputs = super().run(want, batch)
        if "fusion/attention" in outputs:
            weights = np.zeros((6, 2, 2, 2, 4), np.float32)
            for row, (right, other) in {3: (0, 1), 4: (1, 0)}.items():
                weights[row, 1, 0, 0, other] = 1
                weights[row, 1, 1, 0, [right, 2]] = 0.6, 0.4
            outputs["fusion/attention"] = weights
        return outputs


def test_the_head_that_points_best_is_told_from_the_mean():
    found = EVALUATOR.measure(TwoHeads(), Data())
    assert (found["attention/right"], found["attention/other"]) == (0, 1)
    assert (found["attention/head_right"], found["attention/head_other"]) == (1, 0)


def test_a_tie_is_wrong():
    found = EVALUATOR.measure(Model(np.zeros_like(SCORES)), Data())
    assert found["accuracy"] == 0


def test_the_figure_has_a_panel_for_each_kind():
    (draw,) = EVALUATOR.figures(Model(), Data()).values()
    titles = [axes.get_title() for axes in draw().axes if axes.get_title()]
    assert titles == [
        "Which colour?\nred",
        "How many?\ntwo",
        "What is left of the dog?\ncat",
    ]


class Abstaining(Model):
    """Surest of the first and the fourth answer, which are right; it gives the first two."""

    def run(self, want, batch):
        sharpness = np.array([4, 1, 2, 4, 3, 9], np.float32)[:, None]
        every = {"answer/logits": sharpness * SCORES, "answer/decided": np.arange(6) < 2}
        return {name: every[name] for name in want}


SELECTIVE = Questions(source=Expand(Scenes()), batch_size=6, decided="answer/decided", curve=True)


def test_coverage_and_the_accuracy_of_what_is_covered():
    """The unreadable image, though the model is surest of it, counts for neither."""
    found = SELECTIVE.measure(Abstaining(), Data())
    assert found["coverage"] == pytest.approx(2 / 5)
    assert found["covered_accuracy"] == pytest.approx((1 + 0.25) / 2)
    # By falling confidence: 1 and 1 together, 0, 1, 0.25.
    accuracies = [1, 1, 2 / 3, 3 / 4, 3.25 / 5]
    assert found["accuracy_coverage_area"] == pytest.approx(np.mean(accuracies))
    assert "coverage" not in EVALUATOR.measure(Model(), Data())


def test_a_model_that_decides_nothing_has_no_accuracy_where_it_decides():
    class Silent(Abstaining):
        def run(self, want, batch):
            return {**super().run(want, batch), "answer/decided": np.zeros(6, bool)}

    found = SELECTIVE.measure(Silent(), Data())
    assert found["coverage"] == 0
    assert "covered_accuracy" not in found
    assert set(SELECTIVE.figures(Silent(), Data())) == {"questions", "accuracy_coverage"}


def test_the_accuracy_coverage_curve_has_the_point_of_the_decided_answers():
    figures = SELECTIVE.figures(Abstaining(), Data())
    (axes,) = figures["accuracy_coverage"]().axes
    curve, _, point = axes.lines
    np.testing.assert_allclose(curve.get_xdata(), [40, 60, 80, 100])
    np.testing.assert_allclose(curve.get_ydata(), [100, 200 / 3, 75, 65])
    np.testing.assert_allclose(np.ravel(point.get_xydata()), [40, 62.5])


def test_a_source_with_several_questions_in_a_row_is_refused():
    with pytest.raises(UserError, match=r"source: has several questions in a row; put it into Exp"):
        validate(Questions(source=Scenes()))


def test_the_official_accuracy_is_there_if_several_people_answered():
    """Of ten, three say red and seven Pink; the others agree, or gave one answer."""
    people = Question("colour", "Which colour?", "Pink", (("Red.", 3.0), ("Pink", 7.0)))
    assert EVALUATOR.measure(Model(), Asked([people] * 6))["vqa_accuracy"] == pytest.approx(
        (0.9 + 0.9 + 0 + 0 + 0) / 5
    )
    alike = Question("colour", "Which colour?", "red")
    mixed = EVALUATOR.measure(Model(), Asked([people, alike, *[alike] * 4]))
    assert mixed["vqa_accuracy"] == pytest.approx((0.9 + 1) / 5)
    shares = Question("colour", "Which colour?", "red", (("red", 0.3), ("pink", 0.7)))
    assert "vqa_accuracy" not in EVALUATOR.measure(Model(), Asked([shares] * 6))
    assert "vqa_accuracy" not in EVALUATOR.measure(Model(), Asked([alike] * 6))


class Asked(Data):
    """Other questions about the same objects."""

    def __init__(self, questions):
        super().__init__()
        self.annotations = [Annotation((), regions=(CAT, DOG), questions=(q,)) for q in questions]


def test_data_without_questions_says_what_is_missing():
    data = Data()
    data.labels, data.annotations = np.full(0, -1), []  # as an expanded source without questions
    with pytest.raises(UserError, match="has no questions; a source of files names their columns"):
        EVALUATOR.check(data)
