"""Optimizers: optax gives a direction; learning rate and weight decay are applied here.

They are applied here because both are traced inputs of the step (`Hyper`). So runs that differ only
in them share a compiled program.
"""

from vljax.optim.adafactor import Adafactor
from vljax.optim.adamw import AdamW
from vljax.optim.momentum import SGD, Lion
from vljax.optim.muon import Muon
from vljax.optim.optimizer import (
    Group,
    Hyper,
    Optimizer,
    apply_direction,
    learning_rate_factors,
    state_shardings,
)

__all__ = [
    "SGD",
    "Adafactor",
    "AdamW",
    "Group",
    "Hyper",
    "Lion",
    "Muon",
    "Optimizer",
    "apply_direction",
    "learning_rate_factors",
    "state_shardings",
]
