"""Ctrl-C, SIGTERM and SIGHUP between two steps."""

import os
import pty
import signal
import subprocess
import sys

import jax.numpy as jnp
import pytest

from vljax.parallel.processes.agreement import AllReduceMaximum
from vljax.training.interrupt import StopRequest

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_held_and_the_second_acts_as_usual(number):
    caught, said = [], []
    before = {n: signal.getsignal(n) for n in SIGNALS}
    outer = signal.signal(number, lambda n, _: caught.append(n))
    try:
        with StopRequest(said.append) as stop:
            assert stop.signum is None
            os.kill(os.getpid(), number)
            assert (stop.signum, caught) == (number, [])
            assert said == ["stopping once this step is saved; again to stop at once"]
            os.kill(os.getpid(), number)
            assert caught == [number]
    finally:
        signal.signal(number, outer)
    assert {n: signal.getsignal(n) for n in before} == before


def test_handlers_are_restored():
    before = {n: signal.getsignal(n) for n in SIGNALS}
    with StopRequest(print):
        assert {n: signal.getsignal(n) for n in before} != before
    assert {n: signal.getsignal(n) for n in before} == before


def test_a_run_under_nohup_goes_on():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest(str) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signum is None
    finally:
        signal.signal(signal.SIGHUP, before)


_IN_TERMINAL = """
import fcntl, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from vljax.training.interrupt import StopRequest
with StopRequest(lambda line: print(line, flush=True)) as stop:
    print("ready", flush=True)
    while stop.signum is None:
        pass
    print("more", flush=True)
    open(sys.argv[1], "w").write(str(stop.signum))
"""


def test_a_closed_terminal_does_not_end_the_run_before_it_has_saved(tmp_path):
    ours, theirs = pty.openpty()
    file = tmp_path / "saved"
    command = [sys.executable, "-c", _IN_TERMINAL, str(file)]
    # The terminal of a new session sends SIGHUP to it when it is closed.
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        shown = b""
        while not shown.endswith(b"ready\r\n"):  # the end of the line is written on its own
            shown += os.read(ours, 1000)
        os.close(ours)
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert file.read_text() == str(int(signal.SIGHUP))


def test_among_several_processes_a_signal_counts_once_all_know_of_it():
    """The devices' sharing is the real one; the numbers of other processes are made up."""
    sent = []

    class Shared(AllReduceMaximum):
        def __call__(self, value):
            sent.append(value)
            return super().__call__(max(sent))

    with StopRequest(str, Shared()) as stop:
        before = stop.poll()
        os.kill(os.getpid(), signal.SIGTERM)
        after = stop.poll()
        assert stop.signum is None
        stop.receive(before)
        assert stop.signum is None
        stop.receive(after)
        assert stop.signum == signal.SIGTERM
    assert sent == [0, signal.SIGTERM]


def test_the_signal_of_another_process_stops_this_one():
    class Other(AllReduceMaximum):
        def __call__(self, value):
            return jnp.int32(signal.SIGINT)

    with StopRequest(str, Other()) as stop:
        assert stop.agreed() == signal.SIGINT


def test_a_single_process_asks_nobody():
    with StopRequest(str) as stop:
        assert stop.poll() is None
        stop.receive(None)
        assert stop.agreed() is None
