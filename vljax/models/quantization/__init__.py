"""Weights stored as whole numbers with scales, and linear maps with them."""
