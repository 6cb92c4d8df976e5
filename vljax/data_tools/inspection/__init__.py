"""Inspection of a data set: measures each example, then summarizes the measurements."""
