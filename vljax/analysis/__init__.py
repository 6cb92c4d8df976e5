"""The training step compiled ahead of time for hardware you do not have: fit, cost, proposals."""
