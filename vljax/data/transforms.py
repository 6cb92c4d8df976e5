"""The transforms a recipe can name; `Transform` is the kind, the others its members."""

from vljax.data.transform_base import Transform
from vljax.data.transform_colour import ColourJitter, Greyscale
from vljax.data.transform_decode import Decode
from vljax.data.transform_flip import Flip
from vljax.data.transform_occlude import Blur, Noise, Occlude
from vljax.data.transform_patches import Patchify
from vljax.data.transform_randaugment import RandAugment
from vljax.data.transform_resize import CentreCrop, RandomCrop, RandomResizedCrop, Resize
from vljax.data.transform_text import ChooseText, Prompt

__all__ = [
    "Blur",
    "CentreCrop",
    "ChooseText",
    "ColourJitter",
    "Decode",
    "Flip",
    "Greyscale",
    "Noise",
    "Occlude",
    "Patchify",
    "Prompt",
    "RandAugment",
    "RandomCrop",
    "RandomResizedCrop",
    "Resize",
    "Transform",
]
