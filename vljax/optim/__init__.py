"""Optimizers: a direction from optax; learning rate and weight decay are applied here.

Peak learning rate and weight decay are traced inputs of the step (`Hyper`), so that runs that
differ only in them share a compiled program.
"""

from vljax.optim.adafactor import Adafactor
from vljax.optim.adamw import AdamW
from vljax.optim.momentum import SGD, Lion
from vljax.optim.muon import Muon
from vljax.optim.optimizer import Hyper, Optimizer, apply_direction, place, rate_factors

__all__ = [
    "SGD",
    "Adafactor",
    "AdamW",
    "Hyper",
    "Lion",
    "Muon",
    "Optimizer",
    "apply_direction",
    "place",
    "rate_factors",
]
