"""Weights of other software; one file a foreign format."""
