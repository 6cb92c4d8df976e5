"""A tiny classification set and a tiny retrieval set, made the same on both sides."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ["cat", "two dogs", "running grass", "long text", "photo", "words"]
PROMPTS = ["a photo of a {c}", "{c} running on grass", "one long {c}"]
MODELS = ["transformers_clip_a", "open_clip_siglip_a"]
_WORDS = ["cat", "dogs", "grass", "photo", "running", "long", "text", "words", "snake", "naïve"]
_WORDS += ["two", "one", "brackets"]


def images() -> list[bytes]:
    """PNG files of smooth noise about a colour of their own, in three sizes."""
    rng = np.random.default_rng(1)
    files = []
    for i in range(18):
        height, width = [(40, 52), (64, 48), (33, 33)][i % 3]
        coarse = rng.integers(-90, 90, (5, 5, 3)) + rng.integers(0, 256, 3)
        image = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
        buffer = io.BytesIO()
        image.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


def texts() -> list[str]:
    """Captions, about four for each image."""
    rng = np.random.default_rng(2)
    return [" ".join(rng.choice(_WORDS, rng.integers(2, 7))) for _ in range(4 * len(images()))]


def write_folder(folder: Path, labels: list[int]) -> None:
    """Images by class, with the names of the classes and the prompts beside them."""
    for i, (image, label) in enumerate(zip(images(), labels, strict=True)):
        file = folder / f"n{label:08}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image)
    (folder / "classnames.txt").write_text("\n".join(CLASSES) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(PROMPTS) + "\n")


def write_split(folder: Path, captions: list[list[int]]) -> None:
    """A split file of Karpathy's form for COCO, whose other splits have images that are not there.

    Args:
      folder: where to.
      captions: of each image, which of `texts` are its own.
    """
    (folder / "val2014").mkdir(parents=True)
    known, rows = texts(), [_row("val", "missing.png", ["not asked"])]
    for i, (image, own) in enumerate(zip(images(), captions, strict=True)):
        (folder / "val2014" / f"{i}.png").write_bytes(image)
        rows.append(_row("test", f"{i}.png", [known[text] for text in own]))
    content = {"dataset": "coco", "images": rows}
    (folder / "dataset_coco.json").write_text(json.dumps(content))


def _row(split: str, name: str, captions: list[str]) -> dict[str, object]:
    sentences = [{"raw": caption, "tokens": caption.split()} for caption in captions]
    return {"filepath": "val2014", "filename": name, "split": split, "sentences": sentences}
