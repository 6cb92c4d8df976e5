"""Embeds image files and texts with the programs of this folder, and prints their cosines.

python embed.py --images cat.jpg dog.png --texts "a cat" "a dog" [--output embeddings.npz]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from vljax.interop.programs.standalone.model import Model


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
