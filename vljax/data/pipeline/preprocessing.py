"""The image and text preprocessing of a checkpoint, stored as JSON and loaded for inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vljax.config import UserError, decode, encode
from vljax.data.pipeline.pipeline import Data
from vljax.data.records import Record
from vljax.data.transforms.base import Transform, batch_arrays, image_lengths, image_transforms

VERSION = 1


def preprocessing(data: Data) -> dict[str, Any]:
    """The content of `preprocess.json`: the transforms of evaluation and the text cleaning."""
    text = data.tokenizers.get(data.tokenizer_name() or "")
    return {
        "version": VERSION,
        "image_size": _image_size(data.eval_transforms),
        "transforms": encode(data.eval_transforms),
        "text_cleaning": None if text is None else text.cleaning,
        "context_length": None if text is None else text.context_length,
    }


def _image_size(transforms: tuple[Transform, ...]) -> int | None:
    """Height and width of the images; None if they are patches, or there are none."""
    images = image_transforms(transforms)
    if not images or image_lengths(images):
        return None
    return batch_arrays(images, {})["image"][0][0]


@dataclass(frozen=True)
class ImagePreprocessor:
    """Preprocesses image files as in the evaluation of a model.

    >>> from io import BytesIO
    >>> from PIL import Image
    >>> from vljax.data.transforms import Decode, Resize
    >>> file = BytesIO()
    >>> Image.new("RGB", (40, 30)).save(file, "PNG")
    >>> preprocess = ImagePreprocessor(16, (Decode(), Resize(16)))
    >>> preprocess(file.getvalue())["image"].shape
    (16, 16, 3)
    """

    size: int | None
    """Height and width of the output images, pixels; None if the output is patches."""
    transforms: tuple[Transform, ...]
    """The transforms of evaluation, without those of text."""

    @classmethod
    def load(cls, content: dict[str, Any]) -> ImagePreprocessor:
        """From the content of `preprocess.json`. Raises UserError for an unknown version."""
        if content.get("version") != VERSION:
            found = content.get("version")
            raise UserError(f"preprocess.json: version {found!r}, this is made for {VERSION}")
        transforms = decode(tuple[Transform, ...], content["transforms"], "transforms")
        images = image_transforms(transforms)
        of_file = tuple(t for t in transforms if t in images or t.reads_file)
        return cls(content["image_size"], of_file)

    def __call__(self, image: bytes) -> dict[str, np.ndarray]:
        """The arrays of one image: `image`, uint8[size, size, 3]; or those of `Patchify`, or of
        `DecodeFeatures` for a file of region features.

        Raises:
          ExampleError: if it cannot be decoded.
        """
        example: dict[str, Any] = {"record": Record(captions=(), image=image)}
        rng = np.random.default_rng(0)
        for transform in self.transforms:
            example = transform(example, rng)
        return {name: example[name] for name in batch_arrays(self.transforms, {})}
