"""Boxes and masks move with the pixels: compared with rectangles painted into the image."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from tests.data.samples import sample_data
from vljax.config import UserError, validate
from vljax.data.images import JpegImage
from vljax.data.records import ExampleError, Record, Region
from vljax.data.tokenizers import Clip
from vljax.data.transforms import (
    AnswerCells,
    CentreCrop,
    ChooseQuestions,
    Decode,
    Flip,
    GridLabels,
    PadRegions,
    Patchify,
    RandAugment,
    RandomCrop,
    RandomResizedCrop,
    Regions,
    Resize,
    Tokenize,
)
from vljax.data.transforms.base import Transform, batch_arrays
from vljax.data.transforms.geometry import warp_regions
from vljax.data.transforms.randaugment import OPERATIONS

BOXES = ((10, 20, 60, 50), (0, 0, 30, 90), (70, 5, 119, 88), (64, 40, 66, 42))
HEIGHT, WIDTH = 90, 120
COLOUR = 255


def painted(box, height=HEIGHT, width=WIDTH):
    """A black image with one white rectangle."""
    image = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = COLOUR
    return image


def example_of(box, image=None):
    """An example with one region, its mask and its painted picture."""
    image = painted(box) if image is None else image
    masks = (painted(box)[..., 0] > 0).astype(np.uint8)
    boxes = np.array([box], np.float32)
    return {"image": image, "boxes": boxes, "masks": masks, "region_names": ("thing",)}


def extent(image):
    """Left, top, right and bottom of the pixels that are more white than black; None if none."""
    rows, columns = (np.flatnonzero((image >= 128).any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


MOVES = [
    *(Resize(size, mode, background=(0, 0, 0)) for size in (48, 133) for mode in ("squash", "pad")),
    *(Resize(size, "shortest", centre=c) for size in (37, 64, 133) for c in ("round", "floor")),
    Resize(48, antialias=False, interpolation="bilinear"),
    CentreCrop(40),
    CentreCrop(81),
    RandomCrop(64),
    RandomResizedCrop(64, scale=(0.2, 0.6)),
    RandomResizedCrop(150, scale=(0.05, 0.3), interpolation="area"),
    Flip(1.0),
]


@pytest.mark.parametrize("transform", MOVES, ids=str)
@pytest.mark.parametrize("box", BOXES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_a_box_and_a_mask_are_where_the_painted_rectangle_is(transform, box, seed):
    moved = transform(example_of(box), np.random.default_rng(seed))
    image, masks, (found,) = moved["image"][..., 0], moved["masks"], moved["boxes"]
    assert masks.shape == image.shape
    area = (found[2:] - found[:2]).prod()
    seen, masked = extent(image), extent(masks * 255)
    if area == 0:
        assert found.tolist() == [0, 0, 0, 0]
        assert masked is None
    if seen is None:
        assert area == 0 or (found[2:] - found[:2]).min() < 1
        return
    # Bicubic filters round the corners of small rectangles.
    assert np.abs(seen - found).max() <= 1.0
    if masked is not None:
        assert np.abs(masked - found).max() <= 1.0
    inside = np.abs(np.subtract.outer(np.arange(image.shape[0]) + 0.5, found[[1, 3]])).min(1) > 1
    across = np.abs(np.subtract.outer(np.arange(image.shape[1]) + 0.5, found[[0, 2]])).min(1) > 1
    clear = np.outer(inside, across)  # at least a pixel from all edges
    assert np.array_equal((masks > 0)[clear], (image >= 128)[clear])


@pytest.mark.parametrize("transform", [RandomCrop(32), RandomResizedCrop(32), Resize(32)], ids=str)
def test_jpegs_that_are_decoded_in_part_have_the_same_boxes(transform):
    box = (300, 100, 500, 420)
    file = io.BytesIO()
    Image.fromarray(painted(box, 600, 800)).save(file, "JPEG", quality=95)
    image = JpegImage.open(file.getvalue())
    moved = transform(
        {"image": image, "boxes": np.array([box], np.float32)}, np.random.default_rng(3)
    )
    assert np.abs(extent(moved["image"][..., 0]) - moved["boxes"][0]).max() <= 1.0


MOVING = [name for name in OPERATIONS if name.startswith(("Shear", "Translate", "Rotate"))]


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("box", BOXES[:3], ids=str)
def test_rand_augment_moves_boxes_and_masks(name, sign, box):
    transform = RandAugment(magnitude=25)
    image = np.asarray(transform.apply(Image.fromarray(painted(box)), name, sign))[..., 0]
    matrix = np.array(transform.matrix(WIDTH, HEIGHT, name, sign), np.float64).reshape(2, 3)
    moved = warp_regions(example_of(box), matrix, HEIGHT, WIDTH)
    if extent(image) is None:
        assert moved["boxes"].tolist() == [[0, 0, 0, 0]]
        return
    assert np.mean((moved["masks"] > 0) != (image > 0)) < 1e-3
    # The box of the moved corners: a clipped corner can make it larger than what is seen.
    low, high = moved["boxes"][0][:2], moved["boxes"][0][2:]
    seen = extent(image)
    assert (seen[:2] >= low - 1).all()
    assert (seen[2:] <= high + 1).all()
    if name.startswith("Translate"):
        assert np.abs(seen - moved["boxes"][0]).max() <= 1.0


def test_rand_augment_moves_by_the_operations_that_it_draws():
    transform = RandAugment(operations=3, magnitude=20)
    for seed in range(30):
        box = BOXES[seed % 3]
        moved = transform(example_of(box, painted(box)), np.random.default_rng(seed))
        plain = transform({"image": painted(box)}, np.random.default_rng(seed))
        assert np.array_equal(moved["image"], plain["image"])
        assert moved["masks"].shape == (HEIGHT, WIDTH)
        seen = extent(moved["masks"] * 255)
        if seen is not None:
            low, high = moved["boxes"][0][:2], moved["boxes"][0][2:]
            assert (seen[:2] >= low - 1).all()
            assert (seen[2:] <= high + 1).all()


def test_every_transform_that_moves_pixels_says_so():
    images = {type(t) for t in MOVES} | {RandAugment}
    assert images == {kind for kind in Transform.members.values() if kind.moves_pixels}


def test_a_region_outside_becomes_empty_and_leaves_the_masks():
    image = np.zeros((40, 80, 3), np.uint8)
    masks = np.zeros((40, 80), np.uint8)
    masks[:, :10], masks[:, 70:] = 1, 2
    boxes = np.array([[0, 0, 10, 40], [70, 0, 80, 40]], np.float32)
    moved = CentreCrop(40)(
        {"image": image, "boxes": boxes, "masks": masks, "region_names": ("a", "b")},
        np.random.default_rng(0),
    )
    assert moved["boxes"].tolist() == [[0, 0, 0, 0]] * 2
    assert not moved["masks"].any()
    padded = PadRegions(3)(moved, np.random.default_rng(0))
    assert padded["boxes_mask"].tolist() == [False] * 3


def record(*regions, masks=None):
    return Record(captions=(), image=b"", regions=regions, masks=masks)


@pytest.mark.parametrize("box", [(-1, 0, 5, 5), (0, 0, 13, 5), (0, 0, 5, 9), (6, 0, 5, 5)])
def test_a_stored_box_outside_its_image_is_named(box):
    example = {"record": record(Region("cat", box)), "image": np.zeros((8, 12, 3), np.uint8)}
    message = r"box .* of region 0 \('cat'\) is not inside the image of 12 x 8 pixels"
    with pytest.raises(ExampleError, match=message):
        Regions()(example, np.random.default_rng(0))


def test_masks_that_do_not_fit_the_image_are_named():
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    image = np.zeros((8, 12, 3), np.uint8)
    for masks, message in ((file.getvalue(), "masks of 4 x 4 pixels"), (b"no", "not an image")):
        with pytest.raises(ExampleError, match=message):
            Regions()({"record": record(masks=masks), "image": image}, np.random.default_rng(0))


def test_padded_arrays_hold_the_first_regions_scaled_to_one():
    transforms = (Decode(), Regions(), Resize(20), PadRegions(2, masks=True))
    arrays = batch_arrays(transforms, {})
    assert {name: shape for name, (shape, _) in arrays.items()} == {
        "image": (20, 20, 3),
        "boxes": (2, 4),
        "boxes_mask": (2,),
        "masks": (20, 20),
    }
    file = io.BytesIO()
    Image.fromarray(np.zeros((10, 40, 3), np.uint8)).save(file, "PNG")
    masks = np.zeros((10, 40), np.uint8)
    masks[:5, :20], masks[5:, 20:], masks[0, 39] = 1, 2, 3
    mask_file = io.BytesIO()
    Image.fromarray(masks).save(mask_file, "PNG")
    regions = [
        Region("a", (0, 0, 20, 5)),
        Region("b", (20, 5, 40, 10)),
        Region("c", (39, 0, 40, 1)),
    ]
    whole = Record(
        captions=(), image=file.getvalue(), regions=tuple(regions), masks=mask_file.getvalue()
    )
    example = {"record": whole}
    for transform in transforms:
        example = transform(example, np.random.default_rng(0))
    assert example["boxes"].tolist() == [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]
    assert example["boxes_mask"].tolist() == [True, True]
    assert example["region_names"] == ("a", "b")
    expected = np.zeros((20, 20), np.uint8)
    expected[:10, :10], expected[10:, 10:] = 1, 2
    assert np.array_equal(example["masks"], expected)


def test_names_of_regions_can_be_tokenized():
    transforms = (Decode(), Regions(), Resize(20), PadRegions(3), Tokenize("region_names"))
    arrays = batch_arrays(transforms, {"text": Clip(context_length=7)})
    assert arrays["region_names"][0] == (3, 7)


def grid(example, cells, names, cover=0.3):
    label = GridLabels(cells, names, cover)
    return label(example, np.random.default_rng(0))["grid_labels"]


def test_grid_labels_equal_a_direct_count_of_pixels():
    rng = np.random.default_rng(0)
    names = tuple("abcde")
    for cells, size in ((1, 9), (3, 30), (4, 31), (7, 50)):
        masks = rng.integers(0, 6, (3, 3), np.uint8).repeat(20, 0).repeat(20, 1)[:size, :size]
        example = {
            "image": np.zeros((*masks.shape, 3), np.uint8),
            "masks": masks,
            "boxes": np.zeros((5, 4), np.float32),
            "region_names": names,
        }
        found = grid(example, cells, ("c", "a", "e"), 0.4)
        for row in range(cells):
            for column in range(cells):
                inside = [
                    masks[y, x]
                    for y in range(masks.shape[0])
                    for x in range(masks.shape[1])
                    if math.floor((y + 0.5) * cells / masks.shape[0]) == row
                    and math.floor((x + 0.5) * cells / masks.shape[1]) == column
                ]
                shares = [inside.count(i + 1) / len(inside) for i in range(5)]
                best = int(np.argmax(shares))
                known = {"c": 0, "a": 1, "e": 2}.get(names[best], -1)
                assert found[row, column] == (known if shares[best] >= 0.4 else -1)


def test_grid_labels_of_boxes_and_of_an_image_without_regions():
    example = {
        "image": np.zeros((40, 40, 3), np.uint8),
        "boxes": np.array([[0, 0, 20, 26], [20, 20, 40, 40]], np.float32),
        "region_names": ("Red cat", "dog"),
    }
    assert grid(example, 2, ("dog", "red  cat")).tolist() == [[1, -1], [1, 0]]
    assert grid(example, 2, ("dog", "red cat"), 0.31).tolist() == [[1, -1], [-1, 0]]
    example |= {"boxes": np.zeros((0, 4), np.float32), "region_names": ()}
    assert (grid(example, 3, ("dog",)) == -1).all()


def test_cells_of_answers_are_those_that_grid_labels_name():
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 4, (5, 5), np.uint8).repeat(6, 0).repeat(6, 1)
    example = {
        "image": np.zeros((30, 30, 3), np.uint8),
        "masks": masks,
        "boxes": np.zeros((3, 4), np.float32),
        "region_names": ("Cat", "dog", "cat"),
        "answers": ((("cat", 1.0),), (("dog", 2.0), ("cow", 1.0)), (("dog", 0.0), ("no", 1.0))),
    }
    labels = grid(example, 5, ("cat", "dog")).ravel()
    found = AnswerCells(5)(example, np.random.default_rng(0))["answer_cells"]
    expected = [labels == 0, labels == 1, np.zeros(25)]
    assert expected[0].sum() > 5 < expected[1].sum()
    for cells, of in zip(found, expected, strict=True):
        np.testing.assert_allclose(cells, of / max(of.sum(), 1), rtol=1e-6)
    one = AnswerCells(5)({**example, "answers": (("Dog", 1.0),)}, rng)["answer_cells"]
    assert (one == found[1]).all()
    empty = {**example, "boxes": np.zeros((0, 4), np.float32), "region_names": ()}
    assert not AnswerCells(5)(empty, rng)["answer_cells"].any()


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ((Decode(), Resize(16), PadRegions()), "pad_regions reads 'boxes', .*; put regions before"),
        (
            (Decode(), Regions(), Resize(16), PadRegions(), Flip()),
            "flip cannot follow pad_regions, which needs the final image; swap",
        ),
        (
            (Decode(), Regions(), Resize(16), PadRegions(), GridLabels(2, ("cat",))),
            "grid_labels cannot follow pad_regions, which scales the boxes; swap",
        ),
        (
            (Decode(), Regions(), Patchify(4, lengths=(16,)), PadRegions()),
            "pad_regions cannot follow patchify, which leaves no picture; swap",
        ),
        (
            (Decode(), Regions(), PadRegions(masks=True), Patchify(4, lengths=(16,))),
            "pad_regions: no transform before it fixes the image size",
        ),
        ((Decode(), Regions(), Resize(16), GridLabels(2, ())), "names: is empty; name texts"),
        ((Decode(), Regions(), Resize(16), GridLabels(0, ("a",))), "cells: must be at least 1"),
        (
            (Decode(), Regions(), ChooseQuestions(), Resize(16), AnswerCells(0)),
            "cells: must be at least 1",
        ),
        (
            (
                Decode(),
                Regions(),
                ChooseQuestions(),
                Resize(16),
                Tokenize("question"),
                PadRegions(),
                AnswerCells(2),
            ),
            "answer_cells cannot follow pad_regions, which scales the boxes; swap",
        ),
        ((Decode(), Regions(), Resize(16), PadRegions(0)), "most: must be 1 to 255, got 0"),
        (
            (Decode(), Flip(), Resize(16), ChooseQuestions(), Tokenize("question")),
            "flip heeds 'question'; put choose_questions before it",
        ),
    ],
)
def test_impossible_recipes_are_named(transforms, message, tmp_path):
    (tmp_path / "pets.jsonl").touch()
    data = sample_data(
        str(tmp_path / "pets.jsonl"), train_transforms=transforms, eval_transforms=transforms
    )
    with pytest.raises(UserError, match=message):
        validate(data)
