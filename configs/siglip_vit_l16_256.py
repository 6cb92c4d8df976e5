"""SigLIP ViT-L/16 at 256 pixels (Zhai et al. 2023, arXiv 2303.15343; the released model's size).

Differences from the paper, in addition to those of `siglip_vit_b16.py`: learning rate, batch,
warm-up, weight decay and number of examples are those of the recipe for B/16, not values published
for this model.
"""

from siglip_vit_b16 import EXAMPLES, siglip

from vljax.recipes import Run, choose


def recipe(variant: str = "") -> Run:
    """The published size; there are no variants."""
    choose(variant, {"": None})
    return siglip("L/16", "L", 256, width=1024, examples=EXAMPLES)
