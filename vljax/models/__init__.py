"""Pixels and tokens to features. Flax Linen stays inside this package."""
