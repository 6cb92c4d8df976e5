"""SigLIP So400m/14 at 384 pixels (Zhai et al. 2023, arXiv 2303.15343; the released model).

Both towers have the shape-optimized size of Alabdulmohsin et al. 2023. 384 is not a multiple of 14:
6 pixels at two edges are ignored, as in the released model.

Differences from the paper, in addition to those of `siglip_vit_b16.py`:
  - The released model was trained at 224 pixels, then at 384. This recipe is one run at 384. The
    45 billion examples are from open_clip's model table (its README), ViT-SO400M-14-SigLIP-384.
  - Learning rate, batch, warm-up and weight decay are those of the recipe for B/16, not values
    published for this model.
"""

from siglip_vit_b16 import siglip

from vljax.recipes import Run, choose

EXAMPLES = 45_000_000_000


def recipe(variant: str = "") -> Run:
    """The published size; there are no variants."""
    choose(variant, {"": None})
    return siglip("So400m/14", "So400m", 384, width=1152, examples=EXAMPLES)
