"""How a checkpoint's model wants its images and texts, as JSON and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vljax.config import UserError, decode, encode
from vljax.data.pipeline.pipeline import Data
from vljax.data.records import Record
from vljax.data.transforms.base import Transform, image_transform

VERSION = 1


def preprocessing(data: Data) -> dict[str, Any]:
    """The content of `preprocess.json`: what evaluation does to images, and to texts first."""
    return {
        "version": VERSION,
        "image_size": image_transform(data.eval_transforms).output_size,
        "transforms": encode(data.eval_transforms),
        "text_cleaning": data.tokenizer.cleaning,
        "context_length": data.tokenizer.context_length,
    }


@dataclass(frozen=True)
class ImagePreprocessor:
    """Image files to the pixels that a model was evaluated with."""

    size: int | None
    """Height and width that come out, pixels; None where patches do."""
    transforms: tuple[Transform, ...]
    """Those of evaluation up to the last that touches images."""

    @classmethod
    def load(cls, content: dict[str, Any]) -> ImagePreprocessor:
        """From the content of `preprocess.json`. Raises UserError if it is not one we can read."""
        if content.get("version") != VERSION:
            found = content.get("version")
            raise UserError(f"preprocess.json: version {found!r}, this is made for {VERSION}")
        transforms = decode(tuple[Transform, ...], content["transforms"], "transforms")
        return cls(content["image_size"], tuple(t for t in transforms if t.provides != "text"))

    def __call__(self, image: bytes) -> dict[str, np.ndarray]:
        """What a batch holds of an image file: `image`, uint8[size, size, 3]; or patches and more.

        Raises:
          ExampleError: if it cannot be decoded.
        """
        example: dict[str, Any] = {"record": Record(captions=(), image=image)}
        rng = np.random.default_rng(0)
        for transform in self.transforms:
            example = transform(example, rng)
        return {name: example[name] for name in image_transform(self.transforms).blank()}
