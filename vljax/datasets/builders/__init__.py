"""Data sets that `vljax data build` makes from what the user downloads."""
