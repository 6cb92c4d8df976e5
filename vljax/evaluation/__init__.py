"""Evaluators: a model and a data set in, named numbers out."""

from vljax.evaluation.probes import FewShot, LinearProbe, NearestNeighbours
from vljax.evaluation.questions import Questions
from vljax.evaluation.retrieval import Retrieval
from vljax.evaluation.zero_shot import ZeroShot

__all__ = [
    "FewShot",
    "LinearProbe",
    "NearestNeighbours",
    "Questions",
    "Retrieval",
    "ZeroShot",
]
