import numpy as np
import pytest

from tests.data.samples import picture
from vljax.data.records import Record
from vljax.data.transforms import Flip

IMAGE = picture(4, 6)


def mirrored(transform, **example):
    result = transform({"image": IMAGE, **example}, np.random.default_rng(0))["image"]
    assert result is IMAGE or np.array_equal(result, IMAGE[:, ::-1])
    return result is not IMAGE


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("an arrow to the Left", True),
        ("a right-hand glove", True),
        ("turn_left.png", True),
        ("(RIGHT)", True),
        ("leftover bread, bright lights, copyright", False),
        ("", False),
    ],
)
def test_images_are_not_mirrored_if_the_text_names_a_side(text, side):
    assert mirrored(Flip(1.0), text=text) is not side
    assert mirrored(Flip(1.0, unless=()), text=text)


def test_without_a_chosen_text_all_captions_and_tags_count():
    def record(captions, tags=()):
        return Record(captions=captions, tags=tags, image=b"")

    assert mirrored(Flip(1.0), record=record(("a cat",), ("cat",)))
    assert not mirrored(Flip(1.0), record=record(("a cat", "left cat")))
    assert not mirrored(Flip(1.0), record=record(("a cat",), ("right",)))
    assert mirrored(Flip(1.0), record=record(("left cat",)), text="a cat")


def test_words_of_other_languages_can_be_set():
    assert mirrored(Flip(1.0), text="Pfeil nach links")
    assert not mirrored(Flip(1.0, unless=("links", "rechts", "左")), text="Pfeil nach links")
    assert not mirrored(Flip(1.0, unless=("links", "左")), text="左")
    assert mirrored(Flip(1.0, unless=("c++",)), text="c")  # no pattern
