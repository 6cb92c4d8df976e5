"""Compiled programs of machines that are not there: cost, fit, proposals."""
