"""Fusions combine streams of several modalities; one file a family."""

from vljax.models.fusion.co_attention import CoAttention
from vljax.models.fusion.cross_attention import CrossAttention
from vljax.models.fusion.fusion import Fusion

__all__ = ["CoAttention", "CrossAttention", "Fusion"]
