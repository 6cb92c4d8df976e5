"""Features of regions, from files of numpy.savez to the arrays of a batch."""

import io
import zlib

import numpy as np
import pytest

from vljax.config import UserError, validate
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.pipeline.pipeline import Data
from vljax.data.records import ExampleError, Record
from vljax.data.sources import JsonLines
from vljax.data.transforms import DecodeFeatures
from vljax.data.transforms.base import batch_arrays

READ = DecodeFeatures(most=3, dim=5)
RNG = np.random.default_rng(0)


def record(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return {"record": Record(captions=(), image=file.getvalue())}


def regions(count):
    boxes = np.sort(RNG.random((count, 2, 2)), axis=1).reshape(count, 4)
    return RNG.standard_normal((count, 5)), boxes


@pytest.mark.parametrize("count", [1, 3, 4])
def test_regions_are_padded_and_further_ones_left_out(count):
    features, boxes = regions(count)
    read = READ(record(features=features, boxes=boxes), RNG)
    kept = min(count, 3)
    np.testing.assert_array_equal(read["regions"][:kept], features[:3].astype(np.float32))
    np.testing.assert_array_equal(read["regions_boxes"][:kept], boxes[:3].astype(np.float32))
    assert not read["regions"][kept:].any()
    assert read["regions_mask"].tolist() == [i < kept for i in range(3)]
    arrays = batch_arrays((READ,), {})
    assert {n: (a.shape, a.dtype) for n, a in read.items() if n != "record"} == arrays
    blank = READ.blank(arrays, {})
    assert {n: (a.shape, a.dtype) for n, a in blank.items()} == arrays
    assert blank["regions_mask"].tolist() == [True, False, False]


def damaged():
    features, boxes = regions(2)
    yield {"features": features}, "the file lacks 'boxes"
    yield (
        {"features": features[:, :4], "boxes": boxes},
        r"features are \[2, 4\], not \[1 or more, 5\]",
    )
    yield {"features": features[:0], "boxes": boxes[:0]}, r"features are \[0, 5\]"
    yield {"features": features, "boxes": boxes[:1]}, r"boxes are \[1, 4\], not \[2, 4\]"
    yield {"features": features * np.nan, "boxes": boxes}, "features are not all finite"
    yield {"features": features, "boxes": boxes * 300}, r"boxes are not left, .* in 0\.\.1"
    yield {"features": features, "boxes": boxes[:, ::-1]}, "boxes are not left, top, right"
    yield {"features": np.array([["a"] * 5] * 2), "boxes": boxes}, "features are not numbers"
    yield {"features": np.array([[None] * 5] * 2), "boxes": boxes}, "not a file of numpy"


@pytest.mark.parametrize(("arrays", "message"), list(damaged()))
def test_files_that_do_not_fit_are_rejected(arrays, message):
    with pytest.raises(ExampleError, match=message) as error:
        READ(record(**arrays), RNG)
    assert error.value.kind == "damaged"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x93NUMPY", b"\x89PNG\r\n"])
def test_files_of_another_kind_are_rejected(content):
    with pytest.raises(ExampleError, match=r"not a file of numpy\.savez"):
        READ({"record": Record(captions=(), image=content)}, RNG)


def test_damage_inside_a_compressed_file_is_rejected():
    features, boxes = regions(200)
    file = io.BytesIO()
    np.savez_compressed(file, features=features.round(1), boxes=boxes)
    content = file.getvalue()
    kinds = set()
    for i in range(200, 1500, 29):  # in the values of the features
        changed = content[:i] + bytes([content[i] ^ 0xFF]) + content[i + 1 :]
        with pytest.raises(ExampleError, match="region features: ") as error:
            READ({"record": Record(captions=(), image=changed)}, RNG)
        kinds.add(type(error.value.__cause__))
    assert zlib.error in kinds


def test_an_example_with_a_damaged_file_is_left_out_of_evaluation(tmp_path):
    features, boxes = regions(2)
    np.savez(tmp_path / "0.npz", features=features, boxes=boxes)
    (tmp_path / "1.npz").write_bytes(b"PK")
    lines = '{"image": "0.npz", "caption": "x"}\n{"image": "1.npz", "caption": "y"}\n'
    (tmp_path / "all.jsonl").write_text(lines)
    source = JsonLines(str(tmp_path / "all.jsonl"))
    batch = next(EvaluationSet(Data(source, {}, (READ,), (READ,), workers=0), source).batches(2))
    assert batch["valid"].tolist() == [True, False]


def test_sizes_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="most: must be at least 1, got 0"):
        validate(DecodeFeatures(most=0))
