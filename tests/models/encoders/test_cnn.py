"""EfficientNet-Lite: sizes as published; its numbers are compared in tests/parity."""

import pytest

from vljax.config import UserError, validate
from vljax.models.encoders import EfficientNetLite
from vljax.models.encoders.cnn import rounded


def test_sizes_of_lite4_are_those_of_the_paper_s_scaling():
    stages = EfficientNetLite(width_factor=1.4, depth_factor=1.8).stages
    # efficientnet-lite4: widths and repeats as in the published TensorFlow code.
    assert [s.width for s in stages] == [24, 32, 56, 112, 160, 272, 448]
    assert [s.repeats for s in stages] == [1, 4, 4, 6, 6, 8, 1]


def test_widths_are_rounded_to_eight_and_never_by_more_than_a_tenth():
    assert [rounded(w) for w in (3, 16 * 1.1, 40 * 1.1, 11)] == [8, 16, 48, 16]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 0}, "image_size: must be at least 1, not 0"),
        ({"width_factor": 0.0}, "width_factor: must be above 0, not 0"),
        ({"norm_momentum": 1.0}, r"norm_momentum: must be in \[0, 1\), not 1"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        validate(EfficientNetLite(**fields))
