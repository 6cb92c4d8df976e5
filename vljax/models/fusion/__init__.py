"""Fusions combine streams of several modalities; one file a family."""

from vljax.models.fusion.co_attention import CoAttention
from vljax.models.fusion.cross_attention import CrossAttention
from vljax.models.fusion.fusion import Fusion
from vljax.models.fusion.single_stream import SingleStream

__all__ = ["CoAttention", "CrossAttention", "Fusion", "SingleStream"]
