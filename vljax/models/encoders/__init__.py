"""Encoders of images and texts; each is a registered component."""

from vljax.models.encoders.cnn import EfficientNetLite
from vljax.models.encoders.conv_grid import ConvGrid
from vljax.models.encoders.grounded_text import GroundedText
from vljax.models.encoders.naflex import NaFlexViT
from vljax.models.encoders.recurrent import GRU, LSTM
from vljax.models.encoders.regions import RegionEncoder, RegionFeatures
from vljax.models.encoders.resnet import ResNet
from vljax.models.encoders.text import TextTransformer
from vljax.models.encoders.vit import ViT
from vljax.models.encoders.word_average import WordAverage

__all__ = [
    "GRU",
    "LSTM",
    "ConvGrid",
    "EfficientNetLite",
    "GroundedText",
    "NaFlexViT",
    "RegionEncoder",
    "RegionFeatures",
    "ResNet",
    "TextTransformer",
    "ViT",
    "WordAverage",
]
