"""Worker processes that ignore interrupts and exit when their parent does."""

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

# Not fork: JAX has threads, and a forked child may deadlock on a lock that a thread held.
SPAWN = multiprocessing.get_context("spawn")


def usable_cores() -> int:
    """The number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def worker_pool(
    workers: int, work: str, initializer: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """A pool of worker processes; pending calls are cancelled at the end of the context.

    Args:
      workers: number of processes.
      work: what they do, for the error message: "indexed shards".
      initializer: called once in each process before any work.
      *arguments: arguments of `initializer`.

    Raises:
      UserError: if a process is killed.
    """
    pool = ProcessPoolExecutor(workers, SPAWN, _start, (initializer, arguments))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UserError(
            f"a process that {work} was killed, which is what happens when memory runs out; go on "
            f"with fewer than {workers} --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(initializer: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    # Ctrl-C reaches all processes of the terminal. Only the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*arguments)


def _exit_with_parent() -> None:
    """Exits when the parent is gone: a killed parent cannot stop workers that wait for work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
