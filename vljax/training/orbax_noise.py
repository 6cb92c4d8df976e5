"""Keeps the tracebacks that Orbax prints by itself when a save fails off the screen.

The checkpointer raises the same error in one line, with Orbax's as its `__cause__`.
"""

from __future__ import annotations

import functools
import logging
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any


@functools.cache
def silence() -> None:
    """Installs the filters, once a process."""
    logging.getLogger("absl").addFilter(_is_news)
    logging.getLogger("asyncio").addFilter(_is_awaited)
    # Of a save that failed, Orbax leaves coroutines behind; vljax itself has none.
    never_awaited = "coroutine '.*' was never awaited"
    warnings.filterwarnings("ignore", message=never_awaited, category=RuntimeWarning)
    sys.unraisablehook = functools.partial(_without_closed_loops, sys.unraisablehook)


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and "orbax" in record.pathname)


def _is_awaited(record: logging.LogRecord) -> bool:
    # Orbax stops waiting at the first of several writes that fail; asyncio reports the others when
    # their tasks are collected.
    trace = record.exc_info[2] if record.exc_info else None
    files = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace))
    return not any("orbax" in file for file in files)


def _without_closed_loops(inner: Callable[[Any], object], unraisable: Any) -> None:
    # When several writes fail, TensorStore calls back for the later ones into the event loop that
    # Orbax closed after the first. Nobody waits for them any more.
    if str(unraisable.exc_value) != "Event loop is closed":
        inner(unraisable)
