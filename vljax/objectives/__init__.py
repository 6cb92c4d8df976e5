"""Objectives: the outputs of a model and a batch to a loss, one file a family."""

from vljax.objectives.contrastive import SigmoidContrastive, SoftmaxContrastive

__all__ = ["SigmoidContrastive", "SoftmaxContrastive"]
