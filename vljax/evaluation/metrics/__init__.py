"""Metrics: pure functions of arrays and texts, each equal to its official scorer.

docs/evaluation.md tabulates source, variant and quirks. Values per example come first, so that
`uncertainty` can put an interval beside their mean. Bad input is a `UserError`.
"""
