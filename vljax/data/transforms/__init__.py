"""The transforms that a recipe can name; `Transform` is their base class."""

from vljax.data.transforms.base import Transform
from vljax.data.transforms.colour import ColourJitter, Greyscale
from vljax.data.transforms.corruptions import Blur, Noise, Occlude
from vljax.data.transforms.decode import Decode
from vljax.data.transforms.features import DecodeFeatures
from vljax.data.transforms.flip import Flip
from vljax.data.transforms.hide import Hide
from vljax.data.transforms.labels import (
    AnswerCells,
    EncodeTags,
    GridLabels,
    Label,
    PadRegions,
    Regions,
)
from vljax.data.transforms.other_image import OtherImage
from vljax.data.transforms.patches import Patchify
from vljax.data.transforms.questions import ChooseQuestions, EncodeAnswers
from vljax.data.transforms.randaugment import RandAugment
from vljax.data.transforms.resize import CentreCrop, RandomCrop, RandomResizedCrop, Resize
from vljax.data.transforms.text import ChooseText, Prompt, Tokenize

__all__ = [
    "AnswerCells",
    "Blur",
    "CentreCrop",
    "ChooseQuestions",
    "ChooseText",
    "ColourJitter",
    "Decode",
    "DecodeFeatures",
    "EncodeAnswers",
    "EncodeTags",
    "Flip",
    "Greyscale",
    "GridLabels",
    "Hide",
    "Label",
    "Noise",
    "Occlude",
    "OtherImage",
    "PadRegions",
    "Patchify",
    "Prompt",
    "RandAugment",
    "RandomCrop",
    "RandomResizedCrop",
    "Regions",
    "Resize",
    "Tokenize",
    "Transform",
]
