"""`vljax data`: what is done with data sets outside of training."""

from vljax.commands.data.command import main

__all__ = ["main"]
