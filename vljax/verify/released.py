"""Released models and their published numbers. Importing this file is cheap.

open_clip (MIT licence) measured all of them with one program on the published weights:
docs/openclip_results.csv for ImageNet, docs/openclip_retrieval_results.csv for the others, at
`REVISION`. They are in percent, with as many digits as published.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

REVISION = "89fb801f1e6087880e951fc8354b8a2077b79c6d"
_TABLES = {
    "imagenet": "openclip_results.csv, 'ImageNet 1k'",
    "coco": "openclip_retrieval_results.csv, 'MSCOCO {} retr. R@1'",
    "flickr30k": "openclip_retrieval_results.csv, 'Flickr {} retr. R@1'",
}
_SEARCHED = {"image_to_text": "text", "text_to_image": "image"}


class Task(NamedTuple):
    """A data set and what was measured on it."""

    examples: int
    classes: int | None
    """The number of classes for zero-shot classification; None for retrieval."""
    title: str


TASKS = {
    "imagenet": Task(50_000, 1000, "ImageNet, validation: zero-shot top-1 accuracy"),
    "coco": Task(5_000, None, "COCO, Karpathy's test split: recall@1"),
    "flickr30k": Task(1_000, None, "Flickr30k, Karpathy's test split: recall@1"),
}


class Figure(NamedTuple):
    """A published number."""

    task: str
    metric: str
    """accuracy@1, image_to_text/recall@1 or text_to_image/recall@1."""
    percent: float

    @property
    def source(self) -> str:
        """The table that it was published in."""
        table = _TABLES[self.task].format(_SEARCHED.get(self.metric.partition("/")[0], ""))
        return f"open_clip {REVISION[:8]}, docs/{table}"


class Released(NamedTuple):
    """A released model: what identifies its image tower, and its published numbers."""

    tower: dict[str, object]
    """Fields of our ViT that the weights must have."""
    figures: tuple[Figure, ...]


_SIZES = {
    "B": (768, 12),
    "L": (1024, 24),
    "SO400M": (1152, 27),
    "H": (1280, 32),
    "g": (1408, 40),
    "bigG": (1664, 48),
}
"""Width and depth. The presets of `vljax.models` are not used, since they import JAX."""


def _released(table: str) -> Iterator[tuple[str, Released]]:
    tasks = ["imagenet", "coco", "coco", "flickr30k", "flickr30k"]
    metrics = ["accuracy@1", *[f"{direction}/recall@1" for direction in _SEARCHED] * 2]
    for line in table.strip().split("\n"):
        name, *percent = line.split()
        figures = zip(tasks, metrics, map(float, percent), strict=True)
        yield name, Released(_tower(name), tuple(Figure(*figure) for figure in figures))


def _tower(name: str) -> dict[str, object]:
    parts = re.fullmatch(r"ViT-(\w+)-(\d+)(-SigLIP)?(?:-(\d+))?/(\w+)", name)
    assert parts is not None
    size, patch, siglip, image, weights = parts.groups()
    width, depth = _SIZES[size]
    tower: dict[str, object] = {"width": width, "depth": depth, "patch_size": int(patch)}
    tower["image_size"] = int(image or 224)
    if siglip:  # published files differ in the GELU that they use
        return {**tower, "pooling": "map"}
    activation = "quick_gelu" if weights == "openai" else "gelu"
    return {**tower, "pooling": "cls", "activation": activation}


# ImageNet, COCO image to text, COCO text to image, Flickr30k image to text, Flickr30k text to image
_TABLE = """
ViT-B-32/openai                63.32 50.12 30.44 78.90 58.78
ViT-B-16/openai                68.34 52.42 33.09 82.20 62.16
ViT-L-14/openai                75.54 56.34 36.51 85.20 64.96
ViT-L-14-336/openai            76.56 57.94 37.09 87.70 66.90
ViT-B-32/laion2b_s34b_b79k     66.56 56.32 39.34 84.10 66.78
ViT-B-16/laion2b_s34b_b88k     70.23 59.44 42.31 86.30 69.84
ViT-L-14/laion2b_s32b_b82k     75.25 63.36 46.51 89.50 75.52
ViT-H-14/laion2b_s32b_b79k     77.96 65.92 49.48 90.70 77.64
ViT-g-14/laion2b_s34b_b88k     78.47 66.38 48.78 91.40 77.72
ViT-bigG-14/laion2b_s39b_b160k 80.09 67.38 51.37 92.90 79.56
ViT-B-32/datacomp_xl_s13b_b90k 69.17 53.54 37.14 79.00 61.08
ViT-B-16/datacomp_xl_s13b_b90k 73.49 57.44 40.16 85.10 67.56
ViT-L-14/datacomp_xl_s13b_b90k 79.21 63.30 45.73 89.00 73.38
ViT-B-16-SigLIP/webli          76.04 65.74 47.78 89.10 74.68
ViT-B-16-SigLIP-256/webli      76.53 66.14 48.34 90.40 75.04
ViT-B-16-SigLIP-384/webli      78.49 67.74 49.90 92.70 78.48
ViT-B-16-SigLIP-512/webli      79.14 68.72 50.55 92.50 79.06
ViT-L-16-SigLIP-256/webli      80.45 70.80 52.28 91.80 79.04
ViT-L-16-SigLIP-384/webli      82.07 71.90 53.91 93.70 81.42
ViT-SO400M-14-SigLIP/webli     82.03 69.66 51.76 91.00 75.26
ViT-SO400M-14-SigLIP-384/webli 83.08 72.42 54.21 94.30 82.96
"""
RELEASED = dict(_released(_TABLE))
"""By open_clip's name: architecture/weights."""
