"""If one process ends with an error, the others end within seconds and print the error.

The others may be waiting in a collective, where no exception can reach them. So a thread in each
process polls the key-value store of JAX's coordination service for failures. A process that had no
time to report, because it was killed, is found by JAX's heartbeat, after 100 seconds.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import multiprocessing
import os
import sys
import threading
import time
from typing import Any

from vljax.config import UserError

_FOLDER = "vljax/failed"
_POLL_SECONDS = 1.0

_connection: tuple[Any, int] | None = None
"""JAX's client and the index of this process, once there are several."""


def watch(client: Any, process_index: int) -> None:
    """Starts the thread that ends this process if another one reports a failure."""
    global _connection
    _connection = client, process_index
    ended = threading.Event()
    # JAX's own exit handler closes the connection. This one is registered later, so it runs first.
    atexit.register(ended.set)
    thread = threading.Thread(
        target=_watch, args=(client, process_index, ended), name="failures", daemon=True
    )
    thread.start()


def report_failure(error: BaseException) -> None:
    """Tells the other processes that this one ends with an error, which ends them too.

    The caller must end this process now. It then skips JAX's shutdown, which would wait for
    processes that have gone. Does nothing in a process that runs alone.
    """
    if _connection is None:
        return
    client, process_index = _connection
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UserError):
        status = 2
    else:
        status = 130 if isinstance(error, KeyboardInterrupt) else 1
        text = f"{type(error).__name__}: {text}"
    atexit.register(_leave, status, process_index)
    with contextlib.suppress(Exception):  # if process 0 has gone, the error itself still counts
        message = json.dumps({"status": status, "text": text})
        client.key_value_set(f"{_FOLDER}/{process_index}", message)


def _watch(client: Any, process_index: int, ended: threading.Event) -> None:
    while not ended.wait(_POLL_SECONDS):
        try:
            failures = client.key_value_dir_get(_FOLDER)
        except Exception:  # the connection is lost, which JAX deals with
            return
        if any(key == f"{_FOLDER}/{process_index}" for key, _ in failures):
            return  # this process is ending by itself
        for key, value in failures:
            failed = json.loads(value)
            who = f"process {key.rpartition('/')[2]}"
            line = f"error: [process {process_index}] ended with {who}: {failed['text']}"
            print(line, file=sys.stderr)
            _leave(failed["status"], process_index)


def _leave(status: int, process_index: int) -> None:
    if process_index == 0:
        # Process 0 hosts the key-value store: it stays until the others have read it.
        time.sleep(3 * _POLL_SECONDS)
    for child in multiprocessing.active_children():
        child.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
