"""Evaluators (data and a model in, named numbers out) and the pictures made of their numbers."""
