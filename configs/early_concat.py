"""Fusion of features: one vector of the image and one of the question, side by side in an MLP.

Variants:
  - "": ViT-B/16 and a text transformer of 6 blocks.
  - "tiny": some minutes on two CPU cores. "tiny_sum" and "tiny_product": the sum and the product
    of the vectors instead.
"""

from typing import Any

from vqa_cross_attention import full, tiny

from vljax.recipes import Concatenation, Product, Run, Sum, choose

FIELDS: dict[str, Any] = {"streams": ("image", "question"), "activation": "gelu_tanh"}


def recipe(variant: str = "") -> Run:
    """Visual question answering by features side by side."""
    small = {
        "": None,
        "tiny": Concatenation(width=256, hidden=320, **FIELDS),
        "tiny_sum": Sum(width=384, hidden=384, **FIELDS),
        "tiny_product": Product(width=384, hidden=384, **FIELDS),
    }
    fusion = choose(variant, small)
    if fusion is not None:
        return tiny({"fusion": fusion})
    return full({"fusion": Concatenation(width=1024, hidden=1024, **FIELDS)})
