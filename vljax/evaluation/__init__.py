"""Evaluators: a model and a data set in, named numbers out."""

from vljax.evaluation.compositional import CaptionChoice, WinogroundAccuracy
from vljax.evaluation.questions import Questions
from vljax.evaluation.retrieval import MultilingualRetrieval, Retrieval
from vljax.evaluation.zero_shot import ZeroShot

__all__ = [
    "CaptionChoice",
    "MultilingualRetrieval",
    "Questions",
    "Retrieval",
    "WinogroundAccuracy",
    "ZeroShot",
]
