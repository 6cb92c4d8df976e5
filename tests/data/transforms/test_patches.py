from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import pytest

from benchmarks.naflex_padding import builtin, drawn, padding
from tests.data.samples import captioned, encoded, picture, sample_data, write_jsonl
from vljax.config import UserError, notes, validate
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.pipeline.pipeline import stream_fingerprint, train_batches
from vljax.data.randomness import Step
from vljax.data.sources.mixture import Mixture, Part
from vljax.data.transforms import ChooseText, Decode, Flip, Patchify, Tokenize
from vljax.data.transforms.patches import grid_of_shortest, grid_within, most_patches

images_of_the_builtin_set = functools.cache(builtin)
RNG = np.random.default_rng(0)
LENGTHS = (4, 9, 16)
TRAIN = (Decode(), Patchify(2, lengths=LENGTHS, weights=(1, 2, 1)), ChooseText(), Tokenize())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("naflex")
    rows = [{"image": f"{i}.png", **row} for i, row in enumerate(captioned(11))]
    for i, row in enumerate(rows):
        (folder / row["image"]).write_bytes(encoded(picture(5 + 3 * i, 30 - 2 * i)))
    (folder / rows[3]["image"]).write_bytes(b"no image")
    path = write_jsonl(folder, rows)
    evaluation = (Decode(), Patchify(2, lengths=(9,)), ChooseText(), Tokenize())
    return sample_data(path, train_transforms=TRAIN, eval_transforms=evaluation)


def test_patches_at_their_positions_give_the_image() -> None:
    image = picture(8, 12)  # 2 x 3 patches: as many as fit, so nothing is resized
    made = Patchify(4, lengths=(7,))({"image": image}, RNG)
    assert made["image_grid"].tolist() == [2, 3]
    assert made["image_mask"].tolist() == [True] * 6 + [False]
    again = np.zeros_like(image)
    for patch, (row, column) in zip(made["image"][:6], made["image_positions"], strict=False):
        again[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = patch.reshape(4, 4, 3)
    np.testing.assert_array_equal(again, image)
    assert not made["image"][6].any()


@pytest.mark.parametrize("budget", [1, 2, 5, 64, 4096])
@pytest.mark.parametrize("size", [(1, 1), (1, 9000), (9000, 1), (40, 9000), (333, 500)])
def test_any_image_fits_any_budget(size: tuple[int, int], budget: int) -> None:
    rows, columns = grid_within(*size, 16, budget)
    assert rows >= 1
    assert columns >= 1
    assert rows * columns <= budget


@pytest.mark.parametrize("length", [64, 144, 256, 1024])
def test_less_than_a_tenth_is_padding(length: int) -> None:
    """Aspect ratios from 1/2 to 2, uniform in their logarithm, and those of the built-in set."""
    assert padding(drawn()[:500], 16, length) < 0.1
    assert padding(images_of_the_builtin_set()[:300], 16, length) < 0.1


def test_the_length_follows_from_seed_and_step() -> None:
    transform = Patchify(4, lengths=LENGTHS, weights=(1, 2, 1))
    drawn = [transform.length_at(Step(3, k)) for k in range(400)]
    assert drawn == [transform.length_at(Step(3, k)) for k in range(400)]
    assert drawn != [transform.length_at(Step(4, k)) for k in range(400)]
    for length, share in {4: 0.25, 9: 0.5, 16: 0.25}.items():
        deviation = math.sqrt(share * (1 - share) / 400)
        assert abs(drawn.count(length) / 400 - share) < 4 * deviation
    assert transform.length_at(None) == 16


def test_batches_do_not_depend_on_processes_and_start_step(data) -> None:
    def batches(count: int, start: int = 0, workers: int = 0) -> list[dict[str, np.ndarray]]:
        parts = [
            train_batches(
                dataclasses.replace(data, workers=workers),
                seed=5,
                global_batch=8,
                start_step=start,
                process_index=i,
                process_count=count,
            )
            for i in range(count)
        ]
        made = [
            {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
            for pieces in ([next(part) for part in parts] for _ in range(start, 12))
        ]
        for part in parts:
            part.close()
        return made

    one = batches(1)
    lengths = [batch["image"].shape[1] for batch in one]
    assert set(lengths) == set(LENGTHS)
    assert lengths == [data.length_at(5, step) for step in range(12)]
    for batch, length in zip(one, lengths, strict=True):
        spec = data.batch_spec(8, length)
        assert {name: (array.shape, array.dtype) for name, array in batch.items()} == spec
    for others, first in ((batches(2), 0), (batches(4, start=7), 7)):
        for expected, batch in zip(one[first:], others, strict=True):
            for name in expected:
                np.testing.assert_array_equal(batch[name], expected[name], err_msg=name)


def test_evaluation_has_one_length_and_masks_padding(data) -> None:
    examples = EvaluationSet(data, data.source)
    batches = list(examples.batches(4))
    assert {batch["image"].shape[1:] for batch in batches} == {(9, 12)}
    last = batches[-1]
    assert not last["valid"][-1]
    assert last["image_grid"][-1].tolist() == [1, 1]
    assert last["image_mask"][-1].tolist() == [True] + [False] * 8
    assert not last["image"][-1].any()


def test_lengths_and_weights_are_part_of_the_fingerprint(data) -> None:
    other = (Decode(), Patchify(2, lengths=LENGTHS), ChooseText(), Tokenize())
    plans = {
        stream_fingerprint(
            dataclasses.replace(data, train_transforms=transforms), seed=0, global_batch=4
        )
        for transforms in (TRAIN, other)
    }
    assert len(plans) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_size": 0}, "patch_size: must be at least 1 pixel, got 0"),
        ({"lengths": ()}, r"lengths: need one of at least 1 patch, got \(\)"),
        ({"lengths": (0, 4)}, r"lengths: need one of at least 1 patch, got \(0, 4\)"),
        (
            {"lengths": (9, 4)},
            r"lengths: must be different and in order, the shortest first: \(9, 4\)",
        ),
        (
            {"lengths": (4, 9), "weights": (1.0,)},
            "weights: there are 1 for 2 lengths; give one for each, or none",
        ),
        (
            {"lengths": (4, 9), "weights": (1.0, 0.0)},
            r"weights: must be positive, got \(1.0, 0.0\); leave out what is never drawn",
        ),
    ],
)
def test_a_bad_value_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        validate(Patchify(**{"patch_size": 4, **fields}))


def test_several_lengths_are_noted() -> None:
    assert notes(TRAIN[1]) == [
        "lengths: images of 4 (25%), 9 (50%), 16 (25%) patches: the step is compiled for each"
    ]
    assert notes(Patchify(2)) == []


def test_patchify_must_be_the_last_image_transform(data) -> None:
    transforms = (Decode(), Patchify(2, lengths=LENGTHS), Flip(), ChooseText(), Tokenize())
    with pytest.raises(UserError, match="flip cannot follow patchify, which leaves no picture"):
        validate(dataclasses.replace(data, train_transforms=transforms))


def test_training_and_evaluation_need_the_same_patch_size(data) -> None:
    transforms = (Decode(), Patchify(4, lengths=(9,)), ChooseText(), Tokenize())
    message = (
        r"eval_transforms: make image uint8\[length, 48\], train_transforms uint8\[length, 12\]"
    )
    with pytest.raises(UserError, match=message):
        validate(dataclasses.replace(data, eval_transforms=transforms))


def test_all_parts_of_a_mixture_need_the_same_lengths(data) -> None:
    transforms = (Decode(), Patchify(2, lengths=(4, 9)), ChooseText(), Tokenize())
    mixture = Mixture({"one": Part(data.source), "two": Part(data.source, transforms=transforms)})
    message = "source.parts.two.transforms: patchify has other lengths or weights than in"
    with pytest.raises(UserError, match=message):
        validate(dataclasses.replace(data, source=mixture))


# --- The shortest side of ViLT ---


@pytest.mark.parametrize(
    ("height", "width", "grid"),
    [
        (480, 640, (12, 16)),
        (640, 480, (16, 12)),
        (384, 384, (12, 12)),
        (200, 333, (12, 19)),  # 639.36 pixels, more than 639: rounded down to 608
        (300, 1000, (6, 19)),  # the longest side is cut to 639, the other one to 191.7, so 192
        (1000, 300, (19, 6)),
        (1, 9000, (1, 19)),
    ],
)
def test_the_shortest_side_gives_the_grid_of_vilt(
    height: int, width: int, grid: tuple[int, int]
) -> None:
    """By hand, from `get_resize_output_image_size` of transformers 5."""
    assert grid_of_shortest(height, width, 32, 384) == grid
    assert math.prod(grid) <= most_patches(384, 32) == 228
    image = np.zeros((height, width, 3), np.uint8)
    if height * width < 10**6:
        made = Patchify(32, lengths=(228,), shortest=384)({"image": image}, RNG)
        assert made["image_grid"].tolist() == [*grid]
        assert made["image_mask"].sum() == math.prod(grid)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lengths": (200,)}, "lengths: shortest 384 gives up to 228 patches; use (228,)"),
        ({"shortest": 31}, "shortest: must be at least a patch (32 pixels)"),
    ],
)
def test_a_shortest_side_needs_room_for_its_patches(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        validate(Patchify(32, **{"lengths": (228,), "shortest": 384, **fields}))
    assert message in str(error.value)
