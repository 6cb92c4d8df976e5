import numpy as np
import pytest
from matplotlib.colors import to_rgb

from vljax.datasets.scenes.cutouts import colour_of

WHOLE = np.ones((10, 10), bool)


def filled(*parts: tuple[str, int]) -> np.ndarray:
    """Ten rows of ten pixels; each part is a CSS colour and a number of rows."""
    rows = [np.full((count, 10, 3), np.array(to_rgb(name)) * 255) for name, count in parts]
    return np.concatenate(rows).astype(np.uint8)


@pytest.mark.parametrize(
    ("css", "name"),
    [
        ("black", "black"),
        ("white", "white"),
        ("gray", "grey"),
        ("red", "red"),
        ("firebrick", "red"),
        ("darkorange", "orange"),
        ("saddlebrown", "brown"),
        ("yellow", "yellow"),
        ("gold", "yellow"),
        ("lime", "green"),
        ("forestgreen", "green"),
        ("blue", "blue"),
        ("royalblue", "blue"),
        ("purple", "purple"),
        ("hotpink", "pink"),
        # Between two names.
        ("turquoise", None),
        ("yellowgreen", None),
        ("beige", None),
        ("tan", None),
        ("tomato", None),
    ],
)
def test_css_colours_have_their_names_or_none(css, name):
    assert colour_of(filled((css, 10)), WHOLE) == name


def test_a_black_outline_does_not_count_and_a_second_colour_does():
    assert colour_of(filled(("red", 7), ("black", 3)), WHOLE) == "red"
    assert colour_of(filled(("black", 10)), WHOLE) == "black"
    assert colour_of(filled(("red", 8), ("blue", 2)), WHOLE) is None
    assert colour_of(filled(("red", 9), ("blue", 1)), WHOLE) == "red"
    assert colour_of(filled(("red", 5), ("black", 5)), WHOLE) is None


def test_only_visible_pixels_count():
    mask = WHOLE.copy()
    mask[5:] = False
    assert colour_of(filled(("red", 5), ("blue", 5)), mask) == "red"
