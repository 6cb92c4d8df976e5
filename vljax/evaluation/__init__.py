"""Evaluators: a model and a data set in, named numbers out."""

from vljax.evaluation.compositional import CaptionChoice, WinogroundAccuracy
from vljax.evaluation.contributions import Contributions
from vljax.evaluation.multi_label import MultiLabel
from vljax.evaluation.probes import FewShot, LinearProbe, NearestNeighbours
from vljax.evaluation.questions import Questions
from vljax.evaluation.retrieval import MultilingualRetrieval, Retrieval
from vljax.evaluation.zero_shot import ZeroShot

__all__ = [
    "CaptionChoice",
    "Contributions",
    "FewShot",
    "LinearProbe",
    "MultiLabel",
    "MultilingualRetrieval",
    "NearestNeighbours",
    "Questions",
    "Retrieval",
    "WinogroundAccuracy",
    "ZeroShot",
]
