"""Learning-rate schedules, as factors of the peak."""

from vljax.training.schedule_base import Schedule
from vljax.training.schedule_decay import (
    WarmupConstant,
    WarmupCosine,
    WarmupLinear,
    WarmupRsqrt,
)
from vljax.training.schedule_phases import WarmupStableDecay, WarmupSteps

__all__ = [
    "Schedule",
    "WarmupConstant",
    "WarmupCosine",
    "WarmupLinear",
    "WarmupRsqrt",
    "WarmupStableDecay",
    "WarmupSteps",
]
