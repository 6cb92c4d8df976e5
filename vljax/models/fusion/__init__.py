"""Fusions combine streams of several modalities; one file a family."""

from vljax.models.fusion.cross_attention import CrossAttention
from vljax.models.fusion.fusion import Fusion

__all__ = ["CrossAttention", "Fusion"]
