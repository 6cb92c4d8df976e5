"""Processes that share work, end with the process that started them, and leave interrupts to it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from vljax.config import UserError

# JAX has threads, with which a process must not fork.
SPAWN = multiprocessing.get_context("spawn")


def usable_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def worker_pool(
    workers: int, work: str, begin: Callable[..., None] | None = None, *given: Any
) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes; what waits for it is cancelled at the end of the context.

    Args:
      workers: their number.
      work: what they do, for messages.
      begin: is called first in each of them.
      given: its arguments.

    Raises:
      UserError: if one of them is killed.
    """
    pool = ProcessPoolExecutor(workers, SPAWN, _start, (begin, given))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UserError(
            f"a process that {work} was killed, which is what happens when memory runs out; go on "
            f"with fewer than {workers} --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(begin: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    # The terminal sends an interrupt to all; the parent tells the workers what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*given)


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers, which would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
