import dataclasses
import io
import itertools
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from tests.data.samples import encoded, picture
from vljax.config import UserError, decode, encode, load, validate
from vljax.data import images
from vljax.data.images import DecodedImageCache, resample
from vljax.data.records import ExampleError, Question, Record, Region
from vljax.data.tokenizers import Clip
from vljax.data.tokenizers.cleaning import clean
from vljax.data.transforms import (
    AnswerCells,
    Blur,
    CentreCrop,
    ChooseQuestions,
    ChooseText,
    ColourJitter,
    Decode,
    DecodeFeatures,
    EncodeAnswers,
    EncodeTags,
    Flip,
    Greyscale,
    GridLabels,
    Hide,
    Label,
    Noise,
    Occlude,
    OtherImage,
    PadRegions,
    Patchify,
    Prompt,
    RandAugment,
    RandomCrop,
    RandomResizedCrop,
    Regions,
    Resize,
    Tokenize,
    Transform,
)
from vljax.data.transforms.base import Context, batch_arrays, declared_arrays, image_transforms
from vljax.interop.programs.standalone import images as standalone_images
from vljax.run import Run

CONFIGS = Path(__file__).parents[3] / "configs"


def generator(seed=0):
    return np.random.default_rng(seed)


def decoded(content, **options):
    record = Record(captions=(), image=content)
    return Decode(**options)({"record": record}, generator())["image"]


def transformed(transform, image, seed=0):
    return transform({"image": image}, generator(seed))["image"]


# --- decode


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG"])
def test_decode_equals_pillow(kind):
    content = encoded(picture(30, 41), kind)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(decoded(content), expected)


@pytest.mark.parametrize("channels", [3, 4])
def test_a_cached_image_has_the_same_pixels(channels, monkeypatch):
    content = encoded(picture(30, 41, channels), "WEBP")
    backgrounds = [(0, 0, 0), (10, 200, 90), (0, 0, 0)]
    repeated = [decoded(content, background=colour) for colour in backgrounds]
    for colour, image in zip(backgrounds, repeated, strict=True):
        monkeypatch.setattr(images, "_cache", DecodedImageCache(0))
        assert np.array_equal(decoded(content, background=colour), image)


def test_a_cached_image_is_refused_by_a_lower_limit():
    content = encoded(picture(30, 41))
    decoded(content)
    with pytest.raises(ExampleError, match="more than 1,000"):
        decoded(content, max_pixels=1000)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(kind, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255  # a white mark in the top left corner
    # EXIF 2.32, tag 0x0112: the sides of the upright image where the stored 0th row and column are.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True}
    content = encoded(np.ascontiguousarray(stored), kind, exif=exif, **options)
    image = decoded(content)
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).max() <= 2


def test_alpha_shows_the_background_in_proportion():
    image = np.zeros((1, 3, 4), np.uint8)
    image[..., :3] = (200, 0, 100)
    image[..., 3] = (0, 128, 255)
    pixels = decoded(encoded(image), background=(10, 20, 30))
    share = np.array([0, 128, 255])[:, None] / 255
    expected = share * (200, 0, 100) + (1 - share) * (10, 20, 30)
    assert np.abs(pixels[0] - expected).max() <= 1


def test_transparent_palettes_and_grey_with_alpha_show_the_background():
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=0)
    assert decoded(buffer.getvalue(), background=(1, 2, 3)).tolist() == [[[1, 2, 3], [0, 255, 0]]]
    grey = Image.new("LA", (1, 1), (50, 0))
    buffer = io.BytesIO()
    grey.save(buffer, "PNG")
    assert decoded(buffer.getvalue(), background=(1, 2, 3)).tolist() == [[[1, 2, 3]]]


def test_sixteen_bit_greys_are_scaled():
    content = encoded(np.array([[0, 32768, 65535]], np.uint16))
    assert decoded(content)[0, :, 0].tolist() == [0, 128, 255]


RAMP = np.tile(np.linspace(0, 65535, 256), (4, 1))


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png_of_16_bits(values, colour_type, transparent):
    """A PNG with 16 bits a channel and a transparent colour, which Pillow does not write."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = {b"IHDR": header, b"tRNS": transparent, b"IDAT": zlib.compress(rows), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*item) for item in chunks.items())


@pytest.mark.parametrize(
    "values",
    [
        RAMP.round().astype(np.uint16),
        (RAMP / 257).round().astype(np.int32),
        RAMP.round().astype(np.int32),
        (RAMP * 32767).astype(np.int32),
        (RAMP / 65535).astype(np.float32),
        (RAMP / 257).round().astype(np.float32),
        RAMP.astype(np.float32),
    ],
)
def test_greys_of_16_and_32_bits_are_scaled_also_in_exported_programs(values):
    content = encoded(values, "TIFF")
    assert np.array_equal(decoded(content)[0, :, 0], np.arange(256))
    program = standalone_images._decode(content, [255, 255, 255], 10**6)
    assert np.array_equal(program, decoded(content))


@pytest.mark.parametrize("values", [[-1.0, 5.0], [0.0, 1e9], [0.0, np.nan]])
def test_greys_in_a_range_without_a_known_white_are_rejected(values):
    content = encoded(np.array([values], np.float32), "TIFF")
    with pytest.raises(ExampleError, match=r"greys of 32 bits from .* no known white") as caught:
        decoded(content)
    assert caught.value.kind == "damaged"
    with pytest.raises(ValueError, match="no known white"):
        standalone_images._decode(content, [255, 255, 255], 10**6)


def test_transparent_colours_of_16_bits_show_the_background_also_in_exported_programs():
    grey = png_of_16_bits(np.array([[0, 255, 65535]]), 0, struct.pack(">H", 0))
    colours = np.array([[[65535, 0, 4660], [65535, 0, 0]]])
    rgb = png_of_16_bits(colours, 2, struct.pack(">HHH", 65535, 0, 4660))
    for content, expected in (
        (grey, [[[9, 8, 7], [1, 1, 1], [255, 255, 255]]]),
        (rgb, [[[9, 8, 7], [255, 0, 0]]]),
    ):
        assert decoded(content, background=(9, 8, 7)).tolist() == expected
        program = standalone_images._decode(content, [9, 8, 7], 10**6)
        assert program.tolist() == expected


def test_the_only_limit_of_pixels_is_max_pixels(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for kind in ("PNG", "JPEG"):
        content = encoded(picture(300, 310), kind)
        assert decoded(content).shape == (300, 310, 3)
        assert decoded(content, scaled=True).shape == (300, 310, 3)
        assert images.read_header(content).width == 310
        assert standalone_images._decode(content, [0, 0, 0], 10**6).shape == (300, 310, 3)
        with pytest.raises(ExampleError, match="more than 90,000"):
            decoded(content, max_pixels=90_000)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_cmyk_jpegs_become_rgb():
    buffer = io.BytesIO()
    Image.fromarray(picture(16, 16)).convert("CMYK").save(buffer, "JPEG", quality=95)
    assert decoded(buffer.getvalue()).shape == (16, 16, 3)


def test_a_random_background_differs_between_draws_and_not_with_the_same_one():
    record = Record(captions=(), image=encoded(np.zeros((1, 1, 4), np.uint8)))
    transform = Decode(random_background=True)
    seen = [
        tuple(transform({"record": record}, generator(seed))["image"][0, 0].tolist())
        for seed in range(20)
    ]
    assert len(set(seen)) == 20
    again = transform({"record": record}, generator(3))["image"][0, 0].tolist()
    assert tuple(again) == seen[3]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_truncated_files_are_rejected(kind):
    content = encoded(picture(64, 64), kind)
    with pytest.raises(ExampleError, match="image cannot be decoded"):
        decoded(content[: len(content) // 2])


@pytest.mark.parametrize("content", [b"", b"GIF", b"<html>404</html>", b"\x00" * 1000])
def test_content_that_is_not_an_image_is_rejected(content):
    with pytest.raises(ExampleError, match=r"^image is none of JPEG, PNG"):
        decoded(content)


def test_postscript_files_are_not_run():
    with pytest.raises(ExampleError, match="image is none of"):
        decoded(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")


@given(st.binary(max_size=40), st.integers(0, 300), st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]))
def test_damage_is_rejected_or_still_decodes(junk, position, kind):
    content = encoded(picture(12, 12), kind)
    try:
        image = decoded(content[:position] + junk + content[position + len(junk) :])
    except ExampleError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3


def test_too_many_pixels_are_refused_before_they_are_decoded():
    content = encoded(np.zeros((100, 101, 3), np.uint8))
    message = r"image has 101 x 100 pixels, more than 10,000"
    with pytest.raises(ExampleError, match=message):
        decoded(content, max_pixels=10_000)
    with pytest.raises(ExampleError, match=message):  # the header suffices
        decoded(content[:60], max_pixels=10_000)
    assert decoded(content, max_pixels=10_100).shape == (100, 101, 3)


# --- resize


def pillow_resized(image, height, width, resampling=Image.Resampling.BICUBIC):
    return np.asarray(Image.fromarray(image).resize((width, height), resampling))


@pytest.mark.parametrize("shape", [(64, 40), (40, 64), (16, 16), (10, 12)])
def test_squash_equals_pillow_bicubic(shape):
    image = picture(*shape)
    assert np.array_equal(transformed(Resize(16), image), pillow_resized(image, 16, 16))


@pytest.mark.parametrize(
    ("shape", "resized", "top", "left"),
    [
        ((60, 100), (24, 40), 0, 8),
        ((100, 60), (40, 24), 8, 0),
        ((37, 61), (24, 39), 0, 8),  # 39.57 truncated, 7.5 rounded to even: torchvision
        ((24, 24), (24, 24), 0, 0),
    ],
)
def test_shortest_resizes_and_crops_as_torchvision(shape, resized, top, left):
    image = picture(*shape)
    expected = pillow_resized(image, *resized)[top : top + 24, left : left + 24]
    assert np.array_equal(transformed(Resize(24, mode="shortest"), image), expected)


def test_long_strips_are_rejected_instead_of_enlarged():
    strip = np.zeros((1, 400_000, 3), np.uint8)
    with pytest.raises(ExampleError, match="image of 400000 x 1 pixels is too long to resize"):
        transformed(Resize(224, mode="shortest"), strip)
    assert transformed(Resize(224, mode="pad"), strip).shape == (224, 224, 3)


@pytest.mark.parametrize("shape", [(60, 100), (100, 61), (5, 7), (1, 500)])
def test_pad_keeps_the_whole_picture_on_the_background(shape):
    image = picture(*shape)
    result = transformed(Resize(20, mode="pad", background=(9, 8, 7)), image)
    factor = 20 / max(shape)
    height, width = max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))
    top, left = (20 - height) // 2, (20 - width) // 2
    assert result.shape == (20, 20, 3)
    inside = np.zeros((20, 20), bool)
    inside[top : top + height, left : left + width] = True
    assert (result[~inside] == (9, 8, 7)).all()
    assert np.array_equal(
        result[inside].reshape(height, width, 3), pillow_resized(image, height, width)
    )


def test_bilinear_without_antialiasing_equals_the_formula():
    image = picture(37, 29)
    size = 16
    result = transformed(Resize(size, interpolation="bilinear", antialias=False), image)
    expected = image.astype(np.float64)
    for axis, length in ((0, 37), (1, 29)):
        centres = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
        low = np.floor(centres).astype(int)
        high = np.minimum(low + 1, length - 1)
        weight = (centres - low).reshape(-1, *[1] * (2 - axis))
        below, above = np.take(expected, low, axis), np.take(expected, high, axis)
        expected = below * (1 - weight) + above * weight
    assert np.abs(result - expected).max() <= 1
    assert not np.array_equal(result, transformed(Resize(size, interpolation="bilinear"), image))


def test_the_filters_are_pillows():
    image = picture(40, 30)
    bilinear = pillow_resized(image, 16, 16, Image.Resampling.BILINEAR)
    assert np.array_equal(resample(image, 16, 16, "bilinear"), bilinear)
    assert not np.array_equal(resample(image, 16, 16, "bicubic"), bilinear)


@pytest.mark.parametrize(
    ("recipe", "size"), [("siglip_vit_b16", 224), ("siglip_so400m14_384", 384)]
)
def test_siglip_recipes_resize_and_clean_as_big_vision(recipe, size):
    """`resize(SIZE)` of pp/ops_image.py and `tokenize` of pp/ops_text.py, with their defaults."""
    data = load(str(CONFIGS / f"{recipe}.py"), Run).data
    for transforms in (data.train_transforms, data.eval_transforms):
        (resize,) = image_transforms(transforms)[1:]
        assert resize == Resize(size, "squash", interpolation="bilinear", antialias=False)
    assert clean("A dog, running!", data.tokenizers["text"].cleaning) == "a dog, running!"


# --- random crops


@given(
    st.integers(1, 80),
    st.integers(1, 80),
    st.sampled_from([(0.08, 1.0), (0.9, 1.0), (0.5, 0.5)]),
    st.sampled_from([(3 / 4, 4 / 3), (1.0, 1.0), (2.0, 3.0)]),
    st.integers(0, 1000),
)
def test_crops_lie_inside_the_image(height, width, scale, ratio, seed):
    crop = RandomResizedCrop(8, scale, ratio)
    top, left, crop_height, crop_width = crop.rectangle(height, width, generator(seed))
    assert 0 <= top < top + crop_height <= height
    assert 0 <= left < left + crop_width <= width


def test_crops_have_the_set_area_and_ratio_and_reach_every_corner():
    crop = RandomResizedCrop(8, scale=(0.3, 0.6), ratio=(0.5, 2.0))
    rng = generator()
    boxes = np.array([crop.rectangle(300, 300, rng) for _ in range(3000)])
    top, left, height, width = boxes.T
    share, ratio = height * width / 300**2, width / height
    assert share.min() > 0.29
    assert share.max() < 0.61
    assert ratio.min() > 0.49
    assert ratio.max() < 2.03
    assert abs(share.mean() - 0.45) < 0.01
    assert abs(np.log(ratio).mean()) < 0.05  # symmetric on the logarithmic scale
    assert top.min() == 0
    assert left.min() == 0
    assert (top + height).max() == 300
    assert (left + width).max() == 300


def test_a_square_crop_is_resampled_from_its_part_of_the_image():
    image = picture(40, 50)
    crop = RandomResizedCrop(16, scale=(0.3, 0.9), ratio=(1.0, 1.0))
    top, left, height, width = crop.rectangle(40, 50, generator(5))
    assert height == width
    expected = pillow_resized(
        np.ascontiguousarray(image[top : top + height, left:][:, :width]), 16, 16
    )
    assert np.array_equal(transformed(crop, image, seed=5), expected)


def test_crops_that_never_fit_fall_back_to_the_centre():
    crop = RandomResizedCrop(8, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert crop.rectangle(20, 60, generator()) == (0, 20, 20, 20)


def offset(crop, resized):
    """Top and left of the position in an image where a crop was cut out."""
    size = len(crop)
    positions = [
        (top, left)
        for top in range(resized.shape[0] - size + 1)
        for left in range(resized.shape[1] - size + 1)
        if np.array_equal(resized[top : top + size, left : left + size], crop)
    ]
    assert len(positions) == 1
    return positions[0]


@pytest.mark.parametrize(("shape", "resized"), [((48, 64), (24, 32)), ((64, 48), (32, 24))])
def test_random_crops_reach_every_position_of_the_resized_image(shape, resized):
    image = picture(*shape)
    small = pillow_resized(image, *resized)
    seen = [offset(transformed(RandomCrop(24), image, seed), small) for seed in range(900)]
    along = [max(position) for position in seen]
    assert {min(position) for position in seen} == {0}
    assert {position.index(max(position)) for position in seen if any(position)} == {
        int(shape[1] > shape[0])
    }
    assert all(abs(along.count(position) / 900 - 1 / 9) < 0.05 for position in range(9))


def test_clips_training_crops_differ():
    recipe = load(str(CONFIGS / "clip_vit_b16.py"), Run)
    (crop,) = image_transforms(recipe.data.train_transforms)[1:]
    image = picture(480, 640)
    crops = {transformed(crop, image, seed).tobytes() for seed in range(50)}
    assert len(crops) > 30  # of 75 positions


def test_a_square_image_is_its_own_only_random_crop():
    image = picture(40, 40)
    assert np.array_equal(transformed(RandomCrop(16), image), pillow_resized(image, 16, 16))


def test_random_crops_of_long_strips_are_rejected():
    with pytest.raises(ExampleError, match="image of 400000 x 1 pixels is too long to resize"):
        transformed(RandomCrop(224), np.zeros((1, 400_000, 3), np.uint8))


# --- flip and colour


def test_flip_mirrors_with_its_probability():
    image = picture(4, 6)
    assert np.array_equal(transformed(Flip(1.0), image), image[:, ::-1])
    assert transformed(Flip(0.0), image) is image
    flips = sum(transformed(Flip(0.25), image, seed) is not image for seed in range(2000))
    assert abs(flips / 2000 - 0.25) < 0.04


@pytest.mark.parametrize(
    ("field", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_jitter_changes_one_property_within_its_limits(field, enhance):
    image = picture(8, 8)
    pillow = Image.fromarray(image)
    seen = np.array([transformed(ColourJitter(**{field: 0.3}), image, s) for s in range(100)])
    ends = [np.asarray(enhance(pillow).enhance(f)).astype(int) for f in (0.7, 1.3)]
    assert (seen >= np.minimum(*ends) - 1).all()
    assert (seen <= np.maximum(*ends) + 1).all()
    assert len(np.unique(seen.reshape(100, -1), axis=0)) > 90


def test_hue_moves_along_the_colour_circle_and_keeps_greys():
    red = np.full((1, 1, 3), (200, 0, 0), np.uint8)
    seen = np.array([transformed(ColourJitter(hue=0.5), red, s)[0, 0] for s in range(300)])
    assert {int(colour.argmax()) for colour in seen} == {0, 1, 2}
    assert (seen.max(axis=1) == 200).all()
    slight = np.array([transformed(ColourJitter(hue=0.05), red, s)[0, 0] for s in range(300)])
    assert (slight.argmax(axis=1) == 0).all()
    assert slight[:, 1].max() > 30
    assert slight[:, 2].max() > 30  # both ways
    grey = np.full((2, 2, 3), 99, np.uint8)
    assert np.array_equal(transformed(ColourJitter(hue=0.5), grey), grey)


def test_jitter_that_is_off_changes_nothing():
    image = picture(8, 8)
    assert np.array_equal(transformed(ColourJitter(), image), image)
    assert transformed(ColourJitter(0.5, 0.5, 0.5, 0.5, probability=0.0), image) is image


# --- text


def chosen(transform, captions, tags=(), seed=0):
    record = Record(captions=tuple(captions), tags=tuple(tags), image=b"")
    return transform({"record": record}, generator(seed))["text"]


def test_evaluation_takes_the_first_caption_that_is_not_blank():
    for seed in range(20):
        assert chosen(ChooseText(), ["", " ", "first", "second"], ["tag"], seed) == "first"


def test_training_takes_all_captions_equally_often():
    texts = [chosen(ChooseText("random"), ["a", "b", "", "c"], seed=s) for s in range(3000)]
    assert set(texts) == {"a", "b", "c"}
    assert all(abs(texts.count(text) / 3000 - 1 / 3) < 0.04 for text in "abc")


def test_tags_replace_or_follow_the_caption_with_their_probabilities():
    transform = ChooseText("random", tags=0.5, caption_and_tags=0.2)
    texts = [chosen(transform, ["C"], ["x", "y", "z"], s) for s in range(4000)]
    subsets = {
        ", ".join(order)
        for count in (1, 2, 3)
        for order in itertools.permutations(["x", "y", "z"], count)
    }
    only_tags = [text for text in texts if not text.startswith("C")]
    both = [text for text in texts if text.startswith("C, ")]
    assert set(only_tags) == subsets
    assert {text.removeprefix("C, ") for text in both} == subsets
    assert abs(len(only_tags) / 4000 - 0.5) < 0.03
    assert abs(len(both) / 4000 - 0.2) < 0.03
    assert chosen(ChooseText(tags=1.0, separator=" "), ["C"], ["x", "x"]) in ("x", "x x")


def test_without_tags_the_caption_stays():
    assert chosen(ChooseText("random", tags=1.0), ["C"], []) == "C"
    assert chosen(ChooseText("random", tags=1.0), ["C"], [" "]) == "C"


@pytest.mark.parametrize("captions", [[], [""], [" \n"]])
def test_no_caption_is_rejected(captions):
    with pytest.raises(ExampleError, match="no caption"):
        chosen(ChooseText(), captions, ["tag"])
    with pytest.raises(ExampleError, match="no caption"):
        chosen(ChooseText(tags=0.1), captions, [" "])


def test_tags_replace_missing_captions():
    texts = {chosen(ChooseText(tags=0.1), [], ["x", "y"], seed) for seed in range(50)}
    assert texts == {"x", "y", "x, y", "y, x"}


def test_the_longest_caption_and_all_of_them():
    captions = ["a cat", " ", "one cat", "two cat"]
    for seed in range(20):
        assert chosen(ChooseText("longest"), captions, seed=seed) == "one cat"
        everything = chosen(ChooseText("all", separator=". "), captions, seed=seed)
        assert everything == "a cat. one cat. two cat"


def test_prompts_are_used_with_their_probability():
    prompt = Prompt(("a photo of {}.", "{}, drawn"), probability=0.6)
    texts = [prompt({"text": "{1}"}, generator(seed))["text"] for seed in range(3000)]
    assert set(texts) == {"{1}", "a photo of {1}.", "{1}, drawn"}
    for text, share in (("{1}", 0.4), ("a photo of {1}.", 0.3), ("{1}, drawn", 0.3)):
        assert abs(texts.count(text) / 3000 - share) < 0.04
    assert Prompt()({"text": "cats"}, generator())["text"] == "a photo of cats"


# --- as components


EVERY = (
    Decode(),
    Resize(8),
    CentreCrop(8),
    RandomCrop(8),
    RandomResizedCrop(8),
    Flip(),
    ColourJitter(0.1),
    Greyscale(1.0),
    RandAugment(),
    Occlude(1.0),
    Blur(1.0),
    Noise(1.0),
    ChooseText("random", tags=0.5),
    Patchify(2, lengths=(4, 9)),
    Prompt(),
    Tokenize(),
    Label(),
    Regions(),
    PadRegions(3),
    GridLabels(2, names=("dog",)),
    AnswerCells(2),
    ChooseQuestions(2),
    EncodeAnswers(("2", "3")),
    EncodeTags(("t", "u")),
    Hide("text"),
    OtherImage((Decode(), Resize(8))),
    DecodeFeatures(most=3, dim=2),
)


def test_every_transform_survives_json_and_leaves_its_input_alone():
    assert {type(t) for t in EVERY} == set(Transform.members.values())
    stored = json.loads(json.dumps(encode(EVERY)))
    assert decode(tuple[Transform, ...], stored) == EVERY
    dog = Region("dog", (1, 2, 5, 7))
    record = Record(
        captions=("c",),
        tags=("t",),
        image=encoded(picture(9, 9)),
        more_images=(encoded(picture(9, 9)),),
        regions=(dog,),
        questions=(Question("count", "How many?", "2"),),
    )
    tokenizers = {"text": Clip(context_length=5).load()}
    features = io.BytesIO()
    np.savez(features, features=np.ones((1, 2), np.float32), boxes=np.float32([[0, 0, 1, 1]]))
    of_features = dataclasses.replace(record, image=features.getvalue())
    for transform in EVERY:

        def example():
            return {
                "record": record,
                "image": picture(9, 9),
                "text": "before",
                "tokenizers": tokenizers,
                "boxes": np.array([dog.box], np.float32),
                "region_names": ("dog",),
                "masks": np.ones((9, 9), np.uint8),
                "question": "How many?",
                "answers": (("2", 1.0),),
            }

        read = of_features if isinstance(transform, DecodeFeatures) else record
        given, before = ({**example(), "record": read} for _ in range(2))
        results = [transform(given, generator()) for _ in range(2)]
        np.testing.assert_equal(given, before)
        assert results[0].keys() == given.keys() | {*transform.makes()}
        changed = {*transform.makes()}
        if transform.moves_pixels:
            changed |= {"boxes", "masks"}
        for name, value in results[0].items():
            np.testing.assert_equal(value, results[1][name])
            assert name in changed or value is given[name]
        declared = transform.arrays(Context({name: Clip(context_length=5) for name in tokenizers}))
        for name, (shape, dtype) in declared.items():
            if not isinstance(transform, EncodeAnswers):
                assert (results[0][name].shape, results[0][name].dtype) == (shape, dtype)


def test_arrays_are_those_of_the_last_transform_that_declares_them():
    assert declared_arrays(EVERY[:5], {}) == [{}] * 4 + [{"image": ((8, 8, 3), np.uint8)}]
    assert batch_arrays((Decode(), Flip()), {}) == {}


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (Resize(0), "size: must be at least 1 pixel, got 0"),
        (Resize(8, background=(0, 0, 256)), "background: channels must be within 0 and 255"),
        (RandomCrop(-1), "size: must be at least 1 pixel, got -1"),
        (RandomResizedCrop(8, scale=(0.9, 0.5)), "scale: must be two positive numbers in order"),
        (RandomResizedCrop(8, scale=(0.5, 2.0)), "scale: must not exceed 1"),
        (RandomResizedCrop(8, ratio=(0.0, 1.0)), "ratio: must be two positive numbers in order"),
        (Flip(1.5), "probability: must be within 0 and 1, got 1.5"),
        (ColourJitter(hue=0.6), "hue: must be within 0 and 0.5"),
        (ColourJitter(contrast=-1.0), "contrast: must be within 0 and 1"),
        (ChooseText(tags=0.7, caption_and_tags=0.7), "caption_and_tags: must not exceed 1"),
        (Decode(max_pixels=0), "max_pixels: must be at least 1"),
        (Resize(8, interpolation="area", antialias=False), "antialias: must be True with"),
        (Flip(unless=("left", " ")), "unless: a blank word is in every text"),
        (Greyscale(-0.1), "probability: must be within 0 and 1"),
        (RandAugment(operations=0), "operations: must be at least 1, got 0"),
        (RandAugment(bins=1), "bins: must be at least 2, got 1"),
        (RandAugment(magnitude=31), "magnitude: must be within 0 and bins - 1 = 30"),
        (RandAugment(fill=(0, 0, -1)), "fill: channels must be within 0 and 255"),
        (Occlude(scale=(0.1, 1.1)), "scale: must not exceed 1, the whole image"),
        (Occlude(colour=(0, 0, 999)), "colour: channels must be within 0 and 255"),
        (Blur(sigma=(0.0, 1.0)), "sigma: must be two positive numbers in order"),
        (Noise(sigma=(2.0, 1.0)), "sigma: must be two positive numbers in order"),
        (Prompt(()), "templates: must hold at least one sentence with '{}'"),
        (Prompt(("a {}", "b")), r"templates.1: must hold '\{\}' once, .* got 'b'"),
    ],
)
def test_invalid_values_are_named(transform, message):
    with pytest.raises(UserError, match=message):
        validate(transform)
    assert dataclasses.is_dataclass(transform)


@pytest.mark.parametrize(("height", "width"), [(9, 12), (8, 8), (11, 9)])
def test_centre_crop(height, width):
    image = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    top, left = (height - 8) // 2, (width - 8) // 2
    made = transformed(CentreCrop(8), image)
    np.testing.assert_array_equal(made, image[top : top + 8, left : left + 8])


def test_a_centre_crop_larger_than_the_image_is_refused():
    with pytest.raises(ExampleError, match="8 pixels cannot be cut out of 9 x 7"):
        transformed(CentreCrop(8), np.zeros((7, 9, 3), np.uint8))
