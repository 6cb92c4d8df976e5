"""What commands print for people, and the same as data for programs.

`converted` is imported by itself, since what it prints takes half a second to import.
"""

from vljax.report.check import print_summary, summarise
from vljax.report.compiled import print_compiled
from vljax.report.finished import print_finished
from vljax.report.placement import print_placement

__all__ = [
    "print_compiled",
    "print_finished",
    "print_placement",
    "print_summary",
    "summarise",
]
