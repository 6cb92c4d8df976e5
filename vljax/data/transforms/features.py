"""Features of image regions, made beforehand by an object detector, in place of pixels."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from tokenize import TokenError

import numpy as np
from jaxtyping import Float

from vljax.data.records import ExampleError
from vljax.data.tokenizers.base import LoadedTokenizer
from vljax.data.transforms.base import Arrays, Context, Example, Transform


@dataclass(frozen=True, kw_only=True)
class DecodeFeatures(Transform, name="decode_features"):
    """Read the features and boxes of regions from the record's file, in place of `Decode`.

    The file is one of `numpy.savez` with `features`, float[n, dim], and `boxes`, float[n, 4]: left,
    top, right and bottom in 0..1 of the image. The source names it where it would name an image.
    The transform makes `ENTRY`, float32[most, dim], `ENTRY_boxes`, float32[most, 4], and
    `ENTRY_mask`, bool[most], False for padding. Further regions are left out.

    >>> from vljax.data.records import Record
    >>> file = io.BytesIO()
    >>> np.savez(file, features=np.ones((2, 8)), boxes=[[0, 0, 1, 1], [0, 0.5, 0.25, 1]])
    >>> record = Record(captions=(), image=file.getvalue())
    >>> read = DecodeFeatures(most=3, dim=8)({"record": record}, np.random.default_rng(0))
    >>> read["regions"].shape, read["regions_boxes"][1].tolist(), read["regions_mask"].tolist()
    ((3, 8), [0.0, 0.5, 0.25, 1.0], [True, True, False])
    """

    most: int = 36
    """Number of regions in the arrays."""
    dim: int = 2048
    """Size of the feature vector of a region."""
    entry: str = "regions"
    """Name of the array of features."""

    reads_file = True

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in ("most", "dim"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, got {getattr(self, name)}"

    def reads(self) -> tuple[str, ...]:
        return ("record",)

    def makes(self) -> tuple[str, ...]:
        return self.entry, f"{self.entry}_boxes", f"{self.entry}_mask"

    def arrays(self, context: Context) -> Arrays:
        float32 = np.dtype(np.float32)
        features, boxes, mask = self.makes()
        return {
            features: ((self.most, self.dim), float32),
            boxes: ((self.most, 4), float32),
            mask: ((self.most,), np.dtype(bool)),
        }

    def blank(
        self, arrays: Arrays, tokenizers: Mapping[str, LoadedTokenizer]
    ) -> dict[str, np.ndarray]:
        # One region is left: attention over no token at all would divide by zero.
        empty = np.zeros((1, self.dim), np.float32), np.zeros((1, 4), np.float32)
        return self._padded(*empty)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        features, boxes = _read(example["record"].image, self.dim)
        return {**example, **self._padded(features[: self.most], boxes[: self.most])}

    def _padded(
        self, features: Float[np.ndarray, "regions dim"], boxes: Float[np.ndarray, "regions 4"]
    ) -> dict[str, np.ndarray]:
        missing = ((0, self.most - len(features)), (0, 0))
        arrays = (np.pad(x, missing) for x in (features, boxes))
        mask = np.arange(self.most) < len(features)
        return dict(zip(self.makes(), (*arrays, mask), strict=True))


_DAMAGED = (
    # Of arrays: TokenError comes from a header, MemoryError from a shape.
    *(ValueError, OSError, EOFError, AttributeError, TypeError, TokenError, MemoryError),
    # Of zip files: compressed data, and versions, methods and passwords that Python does not read.
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
)
"""What NumPy raises for a damaged file."""


def _read(content: bytes, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and boxes of a file. Raises ExampleError unless they are whole and agree."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("features", "boxes")}
    except KeyError as error:
        raise ExampleError(f"region features: the file lacks {error}", kind="damaged") from None
    except _DAMAGED as error:
        why = f"region features: not a file of numpy.savez ({error})"
        raise ExampleError(why, kind="damaged") from error
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ExampleError("region features: a member is not an array", kind="damaged")
    features, boxes = arrays["features"], arrays["boxes"]
    if features.ndim != 2 or features.shape[1] != dim or not len(features):
        wanted = f"[1 or more, {dim}]"
        why = f"region features: features are {list(features.shape)}, not {wanted}"
        raise ExampleError(why, kind="damaged")
    if boxes.shape != (len(features), 4):
        why = f"region features: boxes are {list(boxes.shape)}, not [{len(features)}, 4]"
        raise ExampleError(why, kind="damaged")
    if not all(np.issubdtype(x.dtype, np.number) for x in (features, boxes)):
        raise ExampleError("region features: features are not numbers", kind="damaged")
    features, boxes = features.astype(np.float32), boxes.astype(np.float32)
    if not np.isfinite(features).all():
        raise ExampleError("region features: features are not all finite", kind="damaged")
    ordered = (boxes[:, :2] <= boxes[:, 2:]).all()
    if not (ordered and (boxes >= 0).all() and (boxes <= 1).all()):
        why = "region features: boxes are not left, top, right, bottom in 0..1 of the image"
        raise ExampleError(why, kind="damaged")
    return features, boxes
