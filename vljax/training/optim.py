"""Optimizers: a direction from optax; learning rate and weight decay are applied here.

Peak learning rate and weight decay are traced inputs of the step (`Hyper`), so that runs that
differ only in them share a compiled program.
"""

from vljax.training.optim_adafactor import Adafactor
from vljax.training.optim_adamw import AdamW
from vljax.training.optim_base import Hyper, Optimizer
from vljax.training.optim_factors import apply_direction, rate_factors
from vljax.training.optim_momentum import SGD, Lion
from vljax.training.optim_muon import Muon
from vljax.training.optim_placement import place

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
