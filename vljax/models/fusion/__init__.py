"""Fusions combine streams of several modalities; one file a family."""

from vljax.models.fusion.attention_weighted import AttentionWeighted, GuidedAttention
from vljax.models.fusion.bilinear import Mfb, Mutan
from vljax.models.fusion.co_attention import CoAttention
from vljax.models.fusion.cross_attention import CrossAttention
from vljax.models.fusion.decision import Decision
from vljax.models.fusion.fusion import Fusion
from vljax.models.fusion.gated_cross_attention import GatedCrossAttention
from vljax.models.fusion.graph import GraphFusion
from vljax.models.fusion.resampler import QFormer, Resampler
from vljax.models.fusion.single_stream import SingleStream
from vljax.models.fusion.vectors import Concatenation, Product, Sum

__all__ = [
    "AttentionWeighted",
    "CoAttention",
    "Concatenation",
    "CrossAttention",
    "Decision",
    "Fusion",
    "GatedCrossAttention",
    "GraphFusion",
    "GuidedAttention",
    "Mfb",
    "Mutan",
    "Product",
    "QFormer",
    "Resampler",
    "SingleStream",
    "Sum",
]
