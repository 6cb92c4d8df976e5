"""Ctrl-C and SIGTERM between two steps."""

import os
import signal

import pytest

from vljax.training.interrupt import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_acts_as_always(number):
    caught, said = [], []
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
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


def test_handlers_come_back():
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    with StopRequest(print):
        assert {n: signal.getsignal(n) for n in before} != before
    assert {n: signal.getsignal(n) for n in before} == before
