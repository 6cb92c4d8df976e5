"""Fusions combine streams of several modalities; one file a family."""

from vljax.models.fusion.cross_attention import CrossAttention
from vljax.models.fusion.fusion import Fusion
from vljax.models.fusion.gated_cross_attention import GatedCrossAttention
from vljax.models.fusion.resampler import QFormer, Resampler

__all__ = ["CrossAttention", "Fusion", "GatedCrossAttention", "QFormer", "Resampler"]
