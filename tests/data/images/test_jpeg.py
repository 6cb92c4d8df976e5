"""JPEG files decoded at a fraction of their size, and rectangles cut out of them."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.data.samples import encoded, picture
from vljax.data.images import Box, JpegImage, cut, decode_image, orient
from vljax.data.records import ExampleError, Record
from vljax.data.transforms import Decode, RandomCrop, RandomResizedCrop, Resize


def generator(seed=0):
    return np.random.default_rng(seed)


def undecoded(content):
    image = JpegImage.open(content)
    assert image is not None
    return image


def turned(upright, orientation):
    """The stored form of an upright image for an orientation: EXIF 2.32, tag 0x0112."""
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
    return encoded(np.ascontiguousarray(stored), "JPEG", quality=98, subsampling=0, exif=exif)


@pytest.mark.parametrize(
    ("size", "share"),
    [(15, 1 / 8), (16, 1 / 4), (30, 1 / 4), (31, 1 / 2), (61, 1 / 2), (63, 1), (200, 1)],
)
def test_the_scale_is_the_smallest_with_enough_pixels(size, share):
    """A rectangle of 125 x 123 pixels in an image of 253 x 381; sizes are rounded up."""
    image = undecoded(encoded(picture(253, 381), "JPEG"))
    part = image.part(Box(8, 16, 125, 123), size, size)
    assert part.pixels.shape == (np.ceil(253 * share), np.ceil(381 * share), 3)
    assert part.box == Box(8 * share, 16 * share, 125 * share, 123 * share)


@pytest.mark.parametrize("share", [1 / 8, 1 / 4, 1 / 2, 1])
@pytest.mark.parametrize("shape", [(8, 300), (300, 9), (15, 500), (299, 301), (304, 296)])
def test_odd_sizes_are_decoded_at_the_requested_scale(shape, share):
    image = undecoded(encoded(picture(*shape), "JPEG"))
    part = image.part(Box(0, 0, *shape), *(int(edge * share) for edge in shape))
    assert part.pixels.shape[:2] == tuple(int(np.ceil(edge * share)) for edge in shape)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "area"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_gives_the_same_cut_of_the_upright_image(orientation, interpolation):
    upright = picture(333, 413, seed=3)
    image = undecoded(turned(upright, orientation))
    assert image.shape == (333, 413, 3)
    assert image.orientation == orientation
    box = Box(21, 50, 201, 301)
    part = image.part(box, 50, 70)
    assert max(part.pixels.shape) == 104  # a quarter
    rows, columns = slice(21, 222), slice(50, 351)
    expected = Image.fromarray(upright[rows, columns]).resize((70, 50), Image.Resampling.BICUBIC)
    difference = np.abs(cut(image, box, 50, 70, interpolation) - np.asarray(expected, float))
    # A shift by one pixel of the full size makes a mean of more than 1.
    assert difference.mean() < 0.55
    assert difference.max() <= 3


@pytest.mark.parametrize("interpolation", ["bicubic", "area"])
def test_cuts_at_full_scale_are_those_of_the_decoded_image(interpolation):
    content = encoded(picture(100, 140), "JPEG")
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    box = Box(3, 5, 60, 71)
    from_file = cut(undecoded(content), box, 64, 64, interpolation)
    assert np.array_equal(from_file, cut(pixels, box, 64, 64, interpolation))


@pytest.mark.parametrize(
    "transform",
    [
        RandomResizedCrop(64, scale=(0.3, 1.0)),
        RandomCrop(64),
        Resize(64, mode="squash"),
        Resize(64, mode="shortest"),
        Resize(64, mode="pad"),
    ],
)
@pytest.mark.parametrize("interpolation", ["bicubic", "area"])
def test_a_scaled_decode_gives_the_same_draws_and_nearly_the_same_pixels(transform, interpolation):
    transform = type(transform)(**{**vars(transform), "interpolation": interpolation})
    record = Record(captions=(), image=encoded(picture(300, 401, seed=1), "JPEG", quality=95))
    for seed in range(5):
        results = []
        for scaled in (False, True):
            rng = generator(seed)
            example = Decode(scaled=scaled)({"record": record}, rng)
            assert isinstance(example["image"], JpegImage) is scaled
            results.append((transform(example, rng)["image"].astype(int), rng.random()))
        (exact, draw), (scaled_result, scaled_draw) = results
        assert draw == scaled_draw
        assert scaled_result.shape == (64, 64, 3)
        assert np.abs(exact - scaled_result).mean() < 0.5


@pytest.mark.parametrize("interpolation", ["bicubic", "area"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_edges_that_rounding_puts_beyond_the_image_are_cut_off(orientation, interpolation):
    image = undecoded(turned(picture(300, 270), orientation))
    beyond = 1e-9
    box = Box(-beyond, 20, 300 + 2 * beyond, 250 + beyond)
    exact = cut(image, Box(0, 20, 300, 250), 64, 64, interpolation).astype(int)
    assert np.abs(cut(image, box, 64, 64, interpolation) - exact).max() <= 1


def test_without_antialiasing_all_pixels_are_decoded():
    content = encoded(picture(300, 401), "JPEG")
    resize = Resize(32, interpolation="bilinear", antialias=False)
    record = Record(captions=(), image=content)
    exact, scaled = (
        resize(Decode(scaled=scaled)({"record": record}, generator()), generator())["image"]
        for scaled in (False, True)
    )
    assert np.array_equal(exact, scaled)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "CMYK", "small"])
def test_other_files_are_decoded_in_full(kind):
    image = Image.fromarray(picture(256, 256 if kind == "small" else 257))
    buffer = io.BytesIO()
    if kind == "CMYK":
        image.convert("CMYK").save(buffer, "JPEG")
    else:
        image.save(buffer, "JPEG" if kind == "small" else kind)
    record = Record(captions=(), image=buffer.getvalue())
    exact, scaled = (
        Decode(scaled=scaled)({"record": record}, generator())["image"] for scaled in (False, True)
    )
    assert np.array_equal(exact, scaled)


def test_grey_files_become_three_channels():
    content = encoded(picture(300, 300)[..., 0], "JPEG")
    for interpolation in ("bicubic", "area"):
        result = cut(undecoded(content), Box(0, 0, 300, 300), 40, 40, interpolation)
        assert result.shape == (40, 40, 3)
        assert (result == result[..., :1]).all()


def test_orientations_in_xmp_count_as_for_pillow():
    image = Image.fromarray(picture(20, 30))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", xmp=b'<x tiff:Orientation="6"/>')
    assert undecoded(buffer.getvalue()).orientation == 6
    assert undecoded(encoded(picture(20, 30), "JPEG")).orientation == 1


def test_unknown_orientations_are_ignored():
    exif = Image.Exif()
    exif[0x0112] = 9
    image = undecoded(encoded(picture(20, 30), "JPEG", exif=exif))
    assert image.orientation == 1
    assert image.shape == (20, 30, 3)


def test_damaged_files_are_rejected_when_they_are_cut():
    content = encoded(picture(300, 300), "JPEG")
    record = Record(captions=(), image=content[: len(content) // 2])
    example = Decode(scaled=True)({"record": record}, generator())
    with pytest.raises(ExampleError, match="image cannot be decoded"):
        RandomResizedCrop(32)(example, generator())


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"\xff\xd8\xff" + b"\x00" * 100])
def test_empty_and_truncated_jpegs_are_rejected(content):
    with pytest.raises(ExampleError, match="image"):
        Decode(scaled=True)({"record": Record(captions=(), image=content)}, generator())


def test_too_many_pixels_are_refused_by_the_header():
    record = Record(captions=(), image=encoded(picture(300, 301), "JPEG"))
    with pytest.raises(ExampleError, match="image has 301 x 300 pixels, more than 90,000"):
        Decode(scaled=True, max_pixels=90_000)({"record": record}, generator())


def test_orient_undoes_every_orientation():
    upright = picture(4, 6)
    for orientation in range(1, 9):
        stored = np.asarray(Image.open(io.BytesIO(turned(upright, orientation))))
        difference = np.abs(orient(stored, orientation).astype(int) - upright)
        assert difference.max() <= 6  # of the JPEG


def with_warnings():
    """JPEG files that libjpeg decodes in full with a warning, and the file without damage."""
    plain = encoded(picture(300, 400), "JPEG", quality=90)
    tables, scan = plain.find(b"\xff\xdb"), plain.find(b"\xff\xda")
    end = scan + 2 + int.from_bytes(plain[scan + 2 : scan + 4])
    restarts = bytearray(encoded(picture(300, 400), "JPEG", quality=90, restart_marker_blocks=4))
    restarts[restarts.find(b"\xff\xd1") + 1] = 0xD5
    return {
        "extraneous bytes": plain[:tables] + b"\0\0" + plain[tables:],
        "ff 00": plain[:tables] + b"\xff\0" + plain[tables:],
        "parameters of the scan": plain[: end - 3] + bytes(3) + plain[end:],
        "restart marker": bytes(restarts),
    }


@pytest.mark.parametrize("kind", with_warnings())
def test_files_about_which_libjpeg_warns_have_the_pixels_of_pillow(kind):
    content = with_warnings()[kind]
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(decode_image(content, (0, 0, 0), 10**6), expected)
    image = JpegImage.open(content)
    if image is not None:
        for colours in ("RGB", "RGBX"):
            part = image.part(Box(0, 0, 300, 400), 60, 80, colours)
            top, left, height, width = (round(edge) for edge in part.box)
            assert part.pixels.shape[:2] == (top + height, left + width)
        box = Box(20, 40, 200, 300)
        whole = JpegImage.open(encoded(picture(300, 400), "JPEG", quality=90))
        difference = cut(image, box, 50, 75).astype(int) - cut(whole, box, 50, 75)
        assert np.abs(difference).mean() < 2


def test_a_cut_file_is_still_truncated():
    content = encoded(picture(300, 400), "JPEG")
    image = JpegImage.open(content[: len(content) // 2])
    with pytest.raises(ExampleError, match="truncated") as caught:
        cut(image, Box(0, 0, 300, 400), 60, 80)
    assert caught.value.kind == "truncated"
