"""`vljax data`: what is done with data sets outside of training."""

from vljax.data_commands.command import main

__all__ = ["main"]
