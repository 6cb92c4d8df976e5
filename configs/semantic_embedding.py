"""Semantic embedding: image with question, and answers, are points in one space.

The product of image and question is projected into the space of the answers, and the answer is the
nearest by cosine: a two-tower model whose second tower is a table of answers.

Variants:
  - "": ViT-B/16 and a text transformer of 6 blocks, a space of 512 dimensions.
  - "tiny": some minutes on two CPU cores.
"""

from typing import Any

from vqa_cross_attention import Answer, full, tiny

from vljax.recipes import EmbeddingClassifier, Product, Run, choose

FIELDS: dict[str, Any] = {"streams": ("image", "question"), "activation": "gelu_tanh"}


def recipe(variant: str = "") -> Run:
    """Visual question answering by the nearest answer."""
    if choose(variant, {"": False, "tiny": True}):
        fusion = Product(width=320, hidden=320, **FIELDS)
        return tiny({"fusion": fusion}, answer=nearest(192))
    return full({"fusion": Product(width=1024, hidden=1024, **FIELDS)}, answer=nearest(512))


def nearest(dim: int) -> Answer:
    """The answers as points of a space."""
    return lambda classes: EmbeddingClassifier(stream="fusion", classes=classes, dim=dim)
