"""Objectives compute a loss from the outputs of the model and a batch; one file a family."""

from vljax.objectives.attention_target import AttentionTarget
from vljax.objectives.balance import BalancedClassification
from vljax.objectives.classification import Classification
from vljax.objectives.contrastive import SigmoidContrastive, SoftmaxContrastive

__all__ = [
    "AttentionTarget",
    "BalancedClassification",
    "Classification",
    "SigmoidContrastive",
    "SoftmaxContrastive",
]
