"""Fusions let streams of several modalities attend to each other; one file a family."""

from vljax.models.fusion.cross_attention import CrossAttention

__all__ = ["CrossAttention"]
