"""Small data sets on disk for the tests of the data package."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vljax.data.pipeline.pipeline import Data
from vljax.data.sources import JsonLines
from vljax.data.tokenizers import Clip
from vljax.data.transforms import (
    ChooseText,
    ColourJitter,
    Decode,
    Flip,
    Label,
    RandomResizedCrop,
    Resize,
    Tokenize,
)


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """A smooth random image, uint8[height, width, channels]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, channels), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """An image file with the given pixels."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def write_jsonl(folder: Path, rows: list[dict[str, Any]]) -> str:
    """Writes a JSON-lines file; a row without `image` gets a new picture."""
    lines = []
    for number, row in enumerate(rows):
        if "image" not in row:
            row = {"image": f"{number}.png", **row}
            (folder / row["image"]).write_bytes(encoded(picture(20, 24, seed=number)))
        lines.append(json.dumps(row) + "\n")
    path = folder / "pets.jsonl"
    path.write_text("".join(lines))
    return str(path)


def captioned(count: int) -> list[dict[str, Any]]:
    """Rows with a caption, tags and one of two classes."""
    return [
        {
            "caption": f"photo number {i}",
            "tags": ["small", "square", f"tag{i}"],
            "class": "odd" if i % 2 else "even",
        }
        for i in range(count)
    ]


def sample_data(path: str, **changes: Any) -> Data:
    """Data with every kind of randomness, at 16 pixels."""
    fields: dict[str, Any] = {
        "source": JsonLines(path),
        "tokenizers": {"text": Clip(context_length=12)},
        "train_transforms": (
            Decode(random_background=True),
            RandomResizedCrop(16, scale=(0.4, 1.0)),
            Flip(),
            ColourJitter(0.4, 0.4, 0.4, 0.1),
            ChooseText("random", tags=0.3, caption_and_tags=0.3),
            Tokenize(),
        ),
        "eval_transforms": (Decode(), Resize(16), Label(), ChooseText(), Tokenize()),
    }
    return Data(**{**fields, **changes})
