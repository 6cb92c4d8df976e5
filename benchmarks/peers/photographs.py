"""Photographs of 640 x 480 pixels as JPEG files, from packages that contain some."""

from __future__ import annotations

import importlib.util
import io
import sys
from dataclasses import dataclass
from pathlib import Path

HEIGHT, WIDTH = 480, 640

# Public domain or Creative Commons: see the README beside each.
PHOTOGRAPHS = {
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
    "skimage": tuple(
        f"data/{name}"
        for name in (
            "astronaut.png",
            "chelsea.png",
            "coffee.png",
            "motorcycle_left.png",
            "rocket.jpg",
        )
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}


@dataclass(frozen=True)
class ImageSpec:
    """The task of the peers: a training example of `size` pixels from every file in a folder."""

    folder: str
    size: int = 224
    scale: tuple[float, float] = (0.9, 1.0)
    """Range of the area of the random resized crop; open_clip's default."""

    @property
    def files(self) -> list[Path]:
        """All files of the folder, sorted by name."""
        return sorted(Path(self.folder).iterdir())


def paths() -> list[Path]:
    """The paths of the photographs; ends the program if a package is not installed."""
    found = []
    for package, names in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            sys.exit(f"{package} is not installed, which has photographs: pip install '.[bench]'")
        found += [Path(spec.origin).parent / name for name in names]
    return found


def write(sources: list[Path], folder: Path, quality: int) -> None:
    """Writes the top left part of each picture as a JPEG file of 640 x 480 pixels.

    A smaller picture is continued by its mirror image. Nothing is resized, so that pictures stay
    sharp. Colours have half the resolution (4:2:0).
    """
    import numpy as np
    from PIL import Image

    for source in sources:
        with Image.open(source) as image:
            pixels = np.asarray(image.convert("RGB"))[:HEIGHT, :WIDTH]
        missing = ((0, HEIGHT - pixels.shape[0]), (0, WIDTH - pixels.shape[1]), (0, 0))
        buffer = io.BytesIO()
        Image.fromarray(np.pad(pixels, missing, "symmetric")).save(
            buffer, "JPEG", quality=quality, subsampling="4:2:0"
        )
        (folder / f"{source.stem}.jpg").write_bytes(buffer.getvalue())
