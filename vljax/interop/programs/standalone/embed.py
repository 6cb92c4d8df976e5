"""Embeds image files and texts with the programs of this folder, and prints their cosines.

python embed.py --images cat.jpg dog.png --texts "a cat" "a dog" [--output embeddings.npz]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vljax.interop.programs.standalone.images import Images
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
        if "image" in self._reads:
            preprocessing = (folder / described["preprocessing"]).read_text(encoding="utf-8")
            self.images = Images(json.loads(preprocessing))
        if "text" in self._reads:
            self.texts = Texts(folder / described["tokenizer"])

    def encode_image(self, files: Sequence[bytes]) -> np.ndarray:
        """Embeddings of image files, given their contents: float32[files, dim].

        Raises:
          ValueError: if a file is not an image, or the model has no encoder of images.
        """
        self._require("image")
        return self._encode("image", image=np.stack([self.images(file) for file in files]))

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of texts: float32[texts, dim].

        Raises:
          ValueError: if the model has no encoder of texts.
        """
        self._require("text")
        ids, mask = self.texts(texts)
        return self._encode("text", text=ids, text_mask=mask)

    def _require(self, modality: str) -> None:
        if modality not in self._reads:
            raise ValueError(f"the model has no encoder of {modality}s")

    def _encode(self, program: str, **inputs: np.ndarray) -> np.ndarray:
        return self._programs(program, {name: inputs[name] for name in self._reads[program]})


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
        images = [Path(file).read_bytes() for file in asked.images]
        made: dict[str, Any] = {}
        if images:
            made["image"] = model.encode_image(images)
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
