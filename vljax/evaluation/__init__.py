"""Evaluators: a model and a data set in, named numbers out."""

from vljax.evaluation.questions import Questions
from vljax.evaluation.retrieval import Retrieval
from vljax.evaluation.zero_shot import ZeroShot

__all__ = ["Questions", "Retrieval", "ZeroShot"]
