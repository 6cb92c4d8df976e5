"""The grid shows the right queries, images and hits, and draws any caption."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from tests.evaluation.fakes import FakeData, FakePredictor, FakeSource
from vljax.charts import GREEN, GREY, save
from vljax.evaluation.retrieval import Retrieval
from vljax.evaluation.retrieval_grid import GridRow, draw_grid

CAPTIONS = ["fox", "Fox", "boat", "tree"]
TEXTS = ["fox", "boat", "tree", "Fox"]
IMAGES = np.array([[0.2, 0.0, 0.9], [0.9, 0.1, 0.0], [0.6, 0.8, 0.0], [0.1, 0.0, 0.7]], np.float32)
AXES = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]


def grid(batch_size=3, unreadable=(), similarity="cosine", captions=CAPTIONS, **options):
    data = FakeData(captions, TEXTS, unreadable=unreadable)
    evaluator = Retrieval(FakeSource(), batch_size, similarity)
    return evaluator.example_queries(FakePredictor(IMAGES, AXES, batch_size), data, **options)


def shown(images):
    """A fake thumbnail is filled with the index of its example."""
    return [int(image[0, 0, 0]) for image in images]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_rows_worked_by_hand(batch_size):
    fox, boat, tree = grid(batch_size, top=3, similarity="dot")
    assert [fox.query, boat.query, tree.query] == ["fox", "boat", "tree"]
    # fox ranks image 1 (0.9), 2 (0.6), 0 (0.2); its first own example is 0.
    assert (shown([fox.truth]), shown(fox.found)) == ([0], [1, 2, 0])
    assert (fox.hits, fox.rank) == ((True, False, True), 1)
    # tree ranks image 0 (0.9) before its own, 3 (0.7).
    assert (shown([tree.truth]), shown(tree.found)[:2]) == ([3], [0, 3])
    assert (tree.hits, tree.rank) == ((False, True, False), 2)


@pytest.mark.parametrize(
    ("options", "for_fox", "for_tree", "rank"),
    [
        # 0.9, 0.6, 0.2, 0.1 and 0.9, 0.7, 0, 0
        ({"similarity": "dot"}, [1, 2, 0, 3], [0, 3, 1, 2], 2),
        # 0.99, 0.6, 0.22, 0.14 and 0.99, 0.98, 0, 0
        ({}, [1, 2, 0, 3], [3, 0, 1, 2], 1),
        # squared distances 0.02, 0.8, 1.3, 1.45 and 0.05, 0.1, 1.82, 2
        ({"similarity": "euclidean"}, [1, 2, 3, 0], [0, 3, 1, 2], 2),
    ],
)
def test_the_similarity_determines_the_images_found(options, for_fox, for_tree, rank):
    fox, _, tree = grid(**options)
    assert (shown(fox.found), shown(tree.found), tree.rank) == (for_fox, for_tree, rank)


def test_queries_are_spread_over_the_captions():
    assert [row.query for row in grid(queries=2)] == ["fox", "tree"]
    assert [row.query for row in grid(queries=1)] == ["fox"]
    assert len(grid(queries=100)) == 3


def many(count, directions=None, **options):
    names = [f"caption {i}" for i in range(count)]
    axes = np.eye(count, dtype=np.float32)
    images = axes[np.arange(count) % (directions or count)]
    model, data = FakePredictor(images, axes, 8), FakeData(names, names)
    return Retrieval(FakeSource(), 8).example_queries(model, data, **options)


def test_queries_are_rounded_to_the_nearest_caption():
    rows = many(5, queries=4)  # 0, 1.33, 2.67, 4
    assert [row.query for row in rows] == [f"caption {i}" for i in (0, 1, 3, 4)]


def test_a_grid_is_8_queries_with_5_images_large_enough_to_see():
    rows = many(30)
    assert [len(row.found) for row in rows] == [5] * 8
    assert {image.shape for row in rows for image in (row.truth, *row.found)} == {(128, 128, 3)}


def test_images_that_tie_are_shown_in_the_order_of_the_data():
    first, *others = many(60, directions=3, top=60)
    thirds = [*range(0, 60, 3)]
    assert shown(first.found) == thirds + [i for i in range(60) if i % 3]
    assert first.rank == 20
    for row in others:  # captions that no image is near to
        assert shown(row.found) == list(range(60))
        assert row.rank == 60


def test_images_without_a_caption_are_left_out():
    rows = grid(captions=["fox", " ", "boat", "tree"])
    assert [row.query for row in rows] == ["fox", "boat", "tree"]
    assert {i for row in rows for i in shown(row.found)} == {0, 2, 3}


def test_unreadable_images_are_not_shown():
    rows = grid(unreadable=(0, 2))
    assert [row.query for row in rows] == ["Fox", "tree"]
    assert {i for row in rows for i in shown([row.truth, *row.found])} == {1, 3}
    assert grid(unreadable=(0, 1, 2, 3)) == []


def row(caption="a fox", hits=(False, False), found=2):
    image = np.full((32, 32, 3), 200, np.uint8)
    return GridRow(caption, image, (image,) * found, hits, 3)


def green(path):
    """The fraction of a PNG's pixels that have the colour of a hit."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    colour = [int(GREEN[i : i + 2], 16) for i in (1, 3, 5)]
    return np.mean((np.abs(pixels - colour) < 3).all(axis=-1))


def plot(rows, path):
    return save(draw_grid(rows), path)


def test_each_row_shows_the_caption_the_true_image_and_the_images_found():
    def images(*levels):
        return tuple(np.full((4, 4, 3), level, np.uint8) for level in levels)

    rows = [
        GridRow("a fox", *images(1), images(2, 3, 4), (False, True, False), 1234),
        GridRow("word " * 60, *images(5), images(6, 7), (True, False), 1),
    ]
    drawn = draw_grid(rows)
    cells = [
        [axes.images[0].get_array()[0, 0, 0] if axes.images else None for axes in line]
        for line in np.array(drawn.axes).reshape(2, 5)
    ]
    assert cells == [[None, 1, 2, 3, 4], [None, 5, 6, 7, None]]
    frames = [
        (to_hex(axes.spines["left"].get_edgecolor()).upper(), axes.spines["left"].get_linewidth())
        for axes in drawn.axes
        if axes.images
    ]
    black, grey, green = ("#000000", 1), (GREY, 1), (GREEN, 5)
    assert frames == [black, grey, green, grey, black, green, grey]
    fox, words = (drawn.axes[i].texts[0].get_text().split("\n") for i in (0, 5))
    assert fox == ["a fox", "(first hit at rank 1,234)"]
    assert words[-1] == "(first hit at rank 1)"
    assert words[-2].endswith(" …")
    assert len(words) == 6
    assert max(map(len, words)) <= 25
    titles = [axes.get_title() for axes in drawn.axes[:5]]
    assert titles == ["", "true image", "found 1", "found 2", "found 3"]


def test_hits_and_only_hits_are_framed_green(tmp_path):
    none, one, two = (
        green(plot([row(hits=hits)], tmp_path / f"{i}.png"))
        for i, hits in enumerate([(False, False), (True, False), (True, True)])
    )
    assert none == 0 < one
    assert two == pytest.approx(2 * one, rel=0.05)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "caption", ["", "$x_$ and ^", "word " * 60, "x" * 300, "two\nlines", "100 % \\frac{"]
)
def test_any_caption_can_be_drawn(tmp_path, caption):
    sizes = []
    for text in ("a fox", caption):
        with Image.open(plot([row(text)], tmp_path / "grid.png")) as image:
            sizes.append(image.size)
    assert sizes[0] == sizes[1]


def test_rows_of_different_length_can_be_drawn(tmp_path):
    rows = [row(), row(found=1, hits=(True,)), row(found=0, hits=())]
    assert green(plot(rows, tmp_path / "new" / "grid.png")) > 0


def test_the_grid_is_the_figure_of_the_evaluator():
    model, evaluator = FakePredictor(IMAGES, AXES, 3), Retrieval(FakeSource(), 3)
    ((name, draw),) = evaluator.figures(model, FakeData(CAPTIONS, TEXTS)).items()
    assert name == "examples"
    assert "Images found for captions" in draw().get_suptitle()
    assert evaluator.figures(model, FakeData(CAPTIONS, TEXTS, unreadable=(0, 1, 2, 3))) == {}


def test_each_caption_of_an_image_is_a_query_of_its_own():
    rows = grid(captions=[("fox", "Fox"), "boat", "tree", "fox"], queries=100)
    assert [row.query for row in rows] == ["fox", "Fox", "boat", "tree", "fox"]
    assert [shown([row.truth]) for row in rows] == [[0], [0], [1], [2], [3]]
    assert [sum(row.hits) for row in rows] == [1] * 5
