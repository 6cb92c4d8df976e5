"""What a person sees of a run, on a terminal and elsewhere."""

import io

import pytest
from rich.console import Console

from vljax.training import progress
from vljax.training.progress import ProgressDisplay, duration


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests turn by hand."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_off_a_terminal(clock):
    out = io.StringIO()
    with ProgressDisplay(0, 40, 8, Console(file=out, width=200)) as display:
        clock[0] += 2
        display.advance(10)
        assert display.metrics(10, {"loss": 1.25}) == 40
        display.activity("evaluating retrieval")
        clock[0] += 1000
        display.activity("")
        clock[0] += 4
        assert display.metrics(20, {"loss": 1.0}) == 20
    assert out.getvalue().splitlines() == [
        "step 10/40  loss 1.2500  40 examples/s  0:06 left",
        "evaluating retrieval ...",
        "step 20/40  loss 1.0000  20 examples/s  0:08 left",
    ]


def test_a_bar_on_a_terminal(clock):
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True)
    with ProgressDisplay(30, 40, 8, console) as display:
        clock[0] += 1
        display.advance(35)
        display.metrics(35, {"loss": 0.5})
        display.activity("evaluating retrieval")
        display.say("a [line] above")
    text = out.getvalue()
    assert "35/40" in text
    assert "loss 0.5000  40 examples/s" in text
    assert "evaluating retrieval" in text
    assert "a [line] above" in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3723, "1:02:03")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
