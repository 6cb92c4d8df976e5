"""Embeds image files and texts with the programs of this folder, and prints their cosines.

python embed.py --images cat.jpg dog.png --texts "a cat" "a dog" [--output embeddings.npz]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vljax.interop.programs.standalone.images import Images
from vljax.interop.programs.standalone.inputs import batches, images_of, padded, texts_of
from vljax.interop.programs.standalone.stablehlo_programs import Programs
from vljax.interop.programs.standalone.texts import Texts


class Model:
    """The programs, preprocessing and tokenizer of a folder.

    Raises:
      ValueError: if a file is missing or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        described = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        for name, stated in described["files"].items():
            _check(folder / name, stated["bytes"], stated["sha256"])
        self._programs = Programs(folder, described["programs"], described["weights"])
        self._reads = {
            name: [spec["name"] for spec in program["inputs"]]
            for name, program in described["programs"].items()
        }
        self._outputs = {name: program["output"] for name, program in described["programs"].items()}
        if "image" in self._reads:
            preprocessing = (folder / described["preprocessing"]).read_text(encoding="utf-8")
            self.images = Images(json.loads(preprocessing))
        if "text" in self._reads:
            self.texts = Texts(folder / described["tokenizer"])

    def encode_image(self, images: Any) -> np.ndarray:
        """Embeddings of images: float32[images, dim].

        Args:
          images: paths, contents of image files (bytes), PIL images or arrays uint8[height, width,
            3], in any iterable, or one of them.

        Raises:
          TypeError: for anything else.
          ValueError: if a file is not an image, or the model has no encoder of images.
        """
        self._require("image")
        parts = []
        for batch, rows in batches(images_of(images, _read)):
            pixels = np.stack([self._pixels(name, file) for name, file in batch])
            parts.append(self._encode("image", rows, {"image": pixels}))
        return self._joined("image", parts)

    def encode_text(self, texts: Any) -> np.ndarray:
        """Embeddings of texts: float32[texts, dim].

        Args:
          texts: any iterable of strings, or one string, which is one text.

        Raises:
          TypeError: for anything else.
          ValueError: if the model has no encoder of texts.
        """
        self._require("text")
        parts = []
        for batch, rows in batches(texts_of(texts)):
            ids, mask = self.texts(batch)
            parts.append(self._encode("text", rows, {"text": ids, "text_mask": mask}))
        return self._joined("text", parts)

    def _require(self, modality: str) -> None:
        if modality not in self._reads:
            raise ValueError(f"the model has no encoder of {modality}s")

    def _pixels(self, name: str, file: bytes) -> np.ndarray:
        try:
            return self.images(file)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def _encode(self, program: str, rows: int, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        given = {name: padded(inputs[name], rows) for name in self._reads[program]}
        return self._programs(program, given)[: len(next(iter(inputs.values())))]

    def _joined(self, program: str, parts: list[np.ndarray]) -> np.ndarray:
        if parts:
            return np.concatenate(parts)
        output = self._outputs[program]
        return np.zeros((0, *output["shape"][1:]), output["dtype"])


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error


def _check(file: Path, size: int, digest: str) -> None:
    if not file.exists():
        raise ValueError(f"{file} is missing")
    if file.stat().st_size != size:
        raise ValueError(f"{file} has {file.stat().st_size} bytes, and should have {size}")
    with file.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != digest:
            raise ValueError(f"{file} is damaged: its SHA-256 is not that of export.json")


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description="Embeddings of images and texts.")
    parser.add_argument("--images", nargs="*", default=[], metavar="FILE")
    parser.add_argument("--texts", nargs="*", default=[], metavar="TEXT")
    parser.add_argument("--output", metavar="FILE", help="write the embeddings to this .npz, too")
    asked = parser.parse_args()
    try:
        model = Model(Path(__file__).parent)
        made: dict[str, Any] = {}
        if asked.images:
            made["image"] = model.encode_image(asked.images)
        if asked.texts:
            made["text"] = model.encode_text(asked.texts)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if asked.output:
        np.savez(asked.output, **made)
    if len(made) == 2:
        unit = {n: a / np.linalg.norm(a, axis=-1, keepdims=True) for n, a in made.items()}
        for file, row in zip(asked.images, unit["image"] @ unit["text"].T, strict=True):
            for text, cosine in zip(asked.texts, row, strict=True):
                print(f"{cosine:7.4f}  {file}  {text}")


if __name__ == "__main__":
    main()
