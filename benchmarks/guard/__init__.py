"""Counts of compiled training steps, compared with stored counts."""
