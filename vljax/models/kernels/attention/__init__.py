"""Scaled dot-product attention: the reference, and a faster way for each platform."""
