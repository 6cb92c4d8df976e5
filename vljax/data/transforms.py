"""The transforms a recipe can name; `Transform` is the kind, the others its members."""

from vljax.data.transform_base import Transform
from vljax.data.transform_colour import ColourJitter, Flip
from vljax.data.transform_decode import Decode
from vljax.data.transform_patches import Patchify
from vljax.data.transform_resize import RandomCrop, RandomResizedCrop, Resize
from vljax.data.transform_text import ChooseText

__all__ = [
    "ChooseText",
    "ColourJitter",
    "Decode",
    "Flip",
    "Patchify",
    "RandomCrop",
    "RandomResizedCrop",
    "Resize",
    "Transform",
]
