"""Heads turn features into outputs that objectives and evaluators read."""

from vljax.models.heads.classifier import Classifier
from vljax.models.heads.embedding import Embedding
from vljax.models.heads.embedding_classifier import EmbeddingClassifier

__all__ = ["Classifier", "Embedding", "EmbeddingClassifier"]
