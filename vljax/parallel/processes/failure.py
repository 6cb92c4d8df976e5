"""One process ends with an error: the others end as well, within seconds, and say why.

They may be waiting in a collective, where no exception can reach them. A thread in each process
looks for bad news; JAX's heartbeat remains for a process that had no time to tell.
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
_LOOK_SECONDS = 1.0


def watch(client: Any, process: int) -> None:
    """Starts to look whether another process has failed; if so, ends this one."""
    over = threading.Event()
    # Before JAX's own handler, which closes the connection.
    atexit.register(over.set)
    thread = threading.Thread(
        target=_watch, args=(client, process, over), name="failures", daemon=True
    )
    thread.start()


def tell(client: Any, process: int, error: BaseException) -> None:
    """Reports the failure of this process; it must end now.

    It then leaves without JAX's farewell, which would wait for processes that are gone.
    """
    status = 2 if isinstance(error, UserError) else 130 if _is_stop(error) else 1
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, UserError):
        text = f"{type(error).__name__}: {text}"
    news = json.dumps({"status": status, "text": text})
    # The news are kept by process 0, which has to stay until they are read.
    atexit.register(_leave, status, 3 * _LOOK_SECONDS if process == 0 else 0.0)
    with contextlib.suppress(Exception):  # process 0 is gone, and the error itself is what counts
        client.key_value_set(f"{_FOLDER}/{process}", news)


def _is_stop(error: BaseException) -> bool:
    return isinstance(error, KeyboardInterrupt)


def _watch(client: Any, process: int, over: threading.Event) -> None:
    while not over.wait(_LOOK_SECONDS):
        try:
            news = client.key_value_dir_get(_FOLDER)
        except Exception:  # the connection is gone, and JAX deals with that
            return
        if any(key == f"{_FOLDER}/{process}" for key, _ in news):
            return  # this process is on its way out by itself
        for key, value in news:
            failed = json.loads(value)
            who = f"process {key.rpartition('/')[2]}"
            print(f"error: [process {process}] ended with {who}: {failed['text']}", file=sys.stderr)
            _leave(failed["status"], 3 * _LOOK_SECONDS if process == 0 else 0.0)


def _leave(status: int, linger: float) -> None:
    time.sleep(linger)
    for child in multiprocessing.active_children():
        child.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
