"""Heads: from features to what objectives and evaluators read."""

from vljax.models.heads.embedding import Embedding

__all__ = ["Embedding"]
