"""Padding fraction of patch sequences by length, for two sets of images.

python benchmarks/naflex_padding.py [--lengths 64,144,256] [--patch 16]

The sets are 10,000 random sizes of about 1000 pixels, whose aspect ratios are log-uniform between
1/2 and 2, and the images of the built-in training set. Nothing runs on a device.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from vljax.data.transforms.patches import grid_within
from vljax.datasets import Builtin

Sizes = list[tuple[int, int]]
DRAWS = 10_000


def drawn(widest: float = 2.0) -> Sizes:
    """Heights and widths with an aspect ratio between 1 / widest and widest."""
    logarithm = math.log(widest)
    ratios = np.exp(np.random.default_rng(0).uniform(-logarithm, logarithm, DRAWS))
    return [(round(1000 / ratio**0.5), round(1000 * ratio**0.5)) for ratio in ratios.tolist()]


def builtin() -> Sizes:
    """Heights and widths of the images of the built-in training set."""
    from PIL import Image

    records = Builtin("train").open()
    sizes = [Image.open(io.BytesIO(records.image(i))).size for i in range(len(records))]
    return [(height, width) for width, height in sizes]


def padding(sizes: Sizes, patch: int, length: int) -> float:
    """The padding fraction of sequences of a length."""
    filled = [math.prod(grid_within(*size, patch, length)) for size in sizes]
    return 1 - sum(filled) / (len(sizes) * length)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a row for each length."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--lengths", default="16,36,64,144,256,576,1024", help="patches, with commas"
    )
    parser.add_argument("--patch", type=int, default=16, help="height and width of a patch, pixels")
    options = parser.parse_args(argv)
    sets = {"1/2 to 2": drawn(), "built-in set": builtin()}
    print("patches  " + "  ".join(f"{name:>12}" for name in sets))
    for length in map(int, options.lengths.split(",")):
        shares = [padding(sizes, options.patch, length) for sizes in sets.values()]
        print(f"{length:7}  " + "  ".join(f"{share:12.1%}" for share in shares))
    return 0


if __name__ == "__main__":
    sys.exit(main())
