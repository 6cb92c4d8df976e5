"""Worker processes that are killed, interrupted or orphaned."""

import os
import signal
import subprocess
import sys
import time

import pytest

from vljax.config import UserError
from vljax.data.worker_pool import worker_pool


def test_a_killed_process_is_a_one_line_error():
    def work():
        with worker_pool(1, "worked") as pool:
            first = pool.submit(os._exit, 1)
            while not first.done():
                time.sleep(0.01)
            pool.submit(os.getpid)  # which raises at once

    message = "a process that worked was killed, which is what happens when memory runs out; go on"
    with pytest.raises(UserError, match=f"{message} with fewer than 1 --workers"):
        work()


def test_workers_are_initialized_ignore_interrupts_and_exit_with_their_parent():
    program = (
        "import os, signal, time; from vljax.data.worker_pool import worker_pool\n"
        "if __name__ == '__main__':\n"
        "    with worker_pool(1, 'worked', os.chdir, '/tmp') as pool:\n"
        "        print(pool.submit(os.getpid).result(), flush=True)\n"
        "        print(pool.submit(os.getcwd).result(), flush=True)\n"
        "        pool.submit(time.sleep, 60)\n"
        "        time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        worker = int(parent.stdout.readline())
        assert parent.stdout.readline() == b"/tmp\n"
        os.kill(worker, signal.SIGINT)
        time.sleep(0.2)
        os.kill(worker, 0)  # is still there
        parent.kill()
    deadline = time.monotonic() + 10
    while _runs(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
