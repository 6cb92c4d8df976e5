"""Outputs and a batch to a loss: one file a family."""
