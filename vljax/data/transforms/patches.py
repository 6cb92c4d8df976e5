"""Images of any aspect ratio as padded sequences of patches (NaFlex)."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from vljax.data.images import Interpolation, resample
from vljax.data.randomness import Step
from vljax.data.tokenizers.base import LoadedTokenizer
from vljax.data.transforms.base import Arrays, Context, Example, Transform

_LARGEST_SCALE = 100.0
_SCALE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Patchify(Transform, name="patchify"):
    """Resize images to as many patches as fit into a sequence, nearly keeping the aspect ratio.

    NaFlex (Tschannen et al. 2025, arXiv 2502.14786, section 2.4.2); or, with `shortest`, resize the
    shortest side to that many pixels, as ViLT (Kim et al. 2021, section 4.1). In training, the
    sequence length of a batch is drawn from `lengths`; the draw depends only on the seed and the
    step. Evaluation uses the longest. Sequences are padded with zeros. All other transforms of
    images come before this one. It makes:

    - `image`: uint8[length, patch_size * patch_size * 3], patches row by row, each by row, column
      and channel;
    - `image_mask`: bool[length], False for padding;
    - `image_positions`: int32[length, 2], row and column of each patch, 0 for padding;
    - `image_grid`: int32[2], the rows and columns of the image.

    >>> image = np.zeros((32, 64, 3), np.uint8)
    >>> patches = Patchify(16, lengths=(16,))({"image": image}, np.random.default_rng(0))
    >>> patches["image"].shape, patches["image_grid"].tolist(), int(patches["image_mask"].sum())
    ((16, 768), [3, 5], 15)
    """

    patch_size: int
    """Height and width of a patch, pixels."""
    lengths: tuple[int, ...] = (256,)
    """Sequence lengths, the shortest first; the step is compiled once for each."""
    weights: tuple[float, ...] = ()
    """Relative frequency of each length; equal if empty."""
    interpolation: Interpolation = "bilinear"
    """The filter, always antialiased."""
    shortest: int | None = None
    """Pixels of the shortest side. The longest side is at most 1333/800 of it, and both are rounded
    down to whole patches; `lengths` is then the largest number of patches. None: the length of the
    sequence decides."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.patch_size < 1:
            yield "patch_size", f"must be at least 1 pixel, got {self.patch_size}"
        if not self.lengths or self.lengths[0] < 1:
            yield "lengths", f"need one of at least 1 patch, got {self.lengths}"
        if list(self.lengths) != sorted(set(self.lengths)):
            yield "lengths", f"must be different and in order, the shortest first: {self.lengths}"
        if self.weights and len(self.weights) != len(self.lengths):
            counts = f"{len(self.weights)} for {len(self.lengths)} lengths"
            yield "weights", f"there are {counts}; give one for each, or none"
        if not all(0 < weight < math.inf for weight in self.weights):
            yield "weights", f"must be positive, got {self.weights}; leave out what is never drawn"
        if self.shortest is not None and self.patch_size >= 1:
            if self.shortest < self.patch_size:
                yield "shortest", f"must be at least a patch ({self.patch_size} pixels)"
            elif self.lengths[:1] < (most := most_patches(self.shortest, self.patch_size),):
                yield (
                    "lengths",
                    f"shortest {self.shortest} gives up to {most} patches; use ({most},)",
                )

    def notes(self) -> Iterator[tuple[str, str]]:
        if len(self.lengths) > 1:
            shares = self.image_lengths.items()
            listed = ", ".join(f"{length} ({share:.0%})" for length, share in shares)
            yield "lengths", f"images of {listed} patches: the step is compiled for each"

    @property
    def image_lengths(self) -> dict[int, float]:
        weights = self.weights or (1.0,) * len(self.lengths)
        shares = (weight / sum(weights) for weight in weights)
        return dict(zip(self.lengths, shares, strict=True))

    def length_at(self, step: Step | None) -> int:
        if step is None or len(self.lengths) == 1:
            return self.lengths[-1]
        probabilities = list(self.image_lengths.values())
        return int(step.generator().choice(self.lengths, p=probabilities))

    def makes(self) -> tuple[str, ...]:
        return tuple(patch_arrays(1, 1))

    def arrays(self, context: Context) -> Arrays:
        return patch_arrays(context.length or self.lengths[-1], self.patch_size)

    def blank(
        self, arrays: Arrays, tokenizers: Mapping[str, LoadedTokenizer]
    ) -> dict[str, np.ndarray]:
        blank = super().blank(arrays, tokenizers)
        # Attention over a sequence without any token would divide by zero.
        blank["image_mask"][0] = True
        blank["image_grid"][:] = 1
        return blank

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        image, size = example["image"], self.patch_size
        length = self.length_at(example.get("step"))
        if self.shortest is None:
            rows, columns = grid_within(image.shape[0], image.shape[1], size, length)
        else:
            rows, columns = grid_of_shortest(image.shape[0], image.shape[1], size, self.shortest)
        image = resample(image, rows * size, columns * size, self.interpolation)
        return {**example, **sequence(image, size, length)}


def patch_arrays(length: int, patch_size: int) -> Arrays:
    """Name -> shape and dtype of the arrays of one image."""
    return {
        "image": ((length, 3 * patch_size**2), np.dtype(np.uint8)),
        "image_mask": ((length,), np.dtype(bool)),
        "image_positions": ((length, 2), np.dtype(np.int32)),
        "image_grid": ((2,), np.dtype(np.int32)),
    }


def sequence(
    image: UInt8[np.ndarray, "height width 3"], patch_size: int, length: int
) -> dict[str, np.ndarray]:
    """Cut an image into patches and pad the sequence, see `Patchify`.

    Raises:
      ValueError: if a side is not a multiple of `patch_size`, or there are more than `length`
        patches.
    """
    rows, columns = image.shape[0] // patch_size, image.shape[1] // patch_size
    whole = image.shape[:2] == (rows * patch_size, columns * patch_size)
    count = rows * columns
    if not whole or not 0 < count <= length:
        pixels = f"{image.shape[0]} x {image.shape[1]} pixels"
        raise ValueError(f"{pixels} are not 1 to {length} whole patches of {patch_size}")
    arrays = {
        name: np.zeros(shape, dtype)
        for name, (shape, dtype) in patch_arrays(length, patch_size).items()
    }
    cut = image.reshape(rows, patch_size, columns, patch_size, 3).swapaxes(1, 2)
    arrays["image"][:count] = cut.reshape(count, -1)
    arrays["image_mask"][:count] = True
    arrays["image_positions"][:count] = np.indices((rows, columns)).reshape(2, -1).T
    arrays["image_grid"][:] = rows, columns
    return arrays


@functools.lru_cache(maxsize=2**14)
def grid_within(height: int, width: int, patch_size: int, budget: int) -> tuple[int, int]:
    """Rows and columns of patches for an image: at least one each, at most `budget` patches.

    Both sides are scaled by the largest factor that the budget allows, and rounded up to whole
    patches. The factor is found by bisection up to 100 and within 1e-5, as the image processor of
    Siglip2 in transformers does: a closed form would choose another grid for some images.

    >>> grid_within(height=333, width=500, patch_size=16, budget=256)
    (13, 19)

    Args:
      height: of the image, pixels.
      width: of the image, pixels.
      patch_size: height and width of a patch, pixels.
      budget: most patches, at least 1.
    """

    def grid(scale: float) -> tuple[int, int]:
        rows, columns = (math.ceil(side * scale / patch_size) for side in (height, width))
        return max(1, rows), max(1, columns)

    low, high = _SCALE_TOLERANCE / 10, _LARGEST_SCALE
    while high - low >= _SCALE_TOLERANCE:
        middle = (low + high) / 2
        if math.prod(grid(middle)) <= budget:
            low = middle
        else:
            high = middle
    return grid(low)


def _longest(shortest: int) -> int:
    """The largest length of the other side, in pixels, for a length of the shortest side."""
    return int(1333 / 800 * shortest)


def most_patches(shortest: int, patch_size: int) -> int:
    """The largest number of patches that `grid_of_shortest` gives for any image.

    >>> most_patches(384, 32)
    228
    """
    return (shortest // patch_size) * (_longest(shortest) // patch_size)


def grid_of_shortest(height: int, width: int, patch_size: int, shortest: int) -> tuple[int, int]:
    """Rows and columns of patches for an image whose shortest side is resized, at least one each.

    As the image processor of ViLT in transformers resizes.

    >>> grid_of_shortest(height=480, width=640, patch_size=32, shortest=384)
    (12, 16)

    Args:
      height: of the image, pixels.
      width: of the image, pixels.
      patch_size: height and width of a patch, pixels.
      shortest: pixels of the shortest side; it becomes shorter if the other one would be longer
        than 1333/800 of it.
    """
    scale = shortest / min(height, width)
    new_height, new_width = scale * height, scale * width
    if height < width:
        new_height = float(shortest)  # exactly, as there: a product may round below it
    else:
        new_width = float(shortest)
    longest = max(new_height, new_width)
    if longest > _longest(shortest):
        scale = _longest(shortest) / longest
        new_height, new_width = scale * new_height, scale * new_width
    rows, columns = (max(1, int(side + 0.5) // patch_size) for side in (new_height, new_width))
    return rows, columns
