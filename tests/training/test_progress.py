"""What a person sees of a run, on a terminal and elsewhere."""

import io
import math

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


def off_a_terminal(start, steps):
    out = io.StringIO()
    return ProgressDisplay(start, steps, 8, Console(file=out, width=200)), out


def take(display, clock, seconds, *steps):
    """Goes through steps that take some seconds each."""
    for step in steps:
        clock[0] += seconds
        display.advance(step)


def test_plain_lines_off_a_terminal(clock):
    display, out = off_a_terminal(0, 40)
    with display:
        take(display, clock, 7.6, 1)
        assert all(map(math.isnan, display.metrics(1, {"loss": 5.5})))
        take(display, clock, 0.2, *range(2, 12))
        assert display.metrics(11, {"loss": 1.25}) == pytest.approx((40, 0))
        display.activity("evaluating retrieval")
        clock[0] += 1000
        display.activity("")
        take(display, clock, 0.4, *range(12, 21))
        assert display.metrics(20, {"loss": 1.0}) == pytest.approx((20, 0))
    assert out.getvalue().splitlines() == [
        "step 1/40  loss 5.5000  (compiled in 8 s)",
        "step 11/40  loss 1.2500  40 examples/s  0:06 left",
        "evaluating retrieval ...",
        "step 20/40  loss 1.0000  20 examples/s  0:08 left",
    ]


def test_the_wait_for_input_is_its_share_of_the_time(clock):
    """Neither that before the first step counts, nor one beside a step, nor other activities."""
    display, out = off_a_terminal(0, 40)

    def wait(seconds, *, idle=True):
        with display.waiting_for_input(lambda: idle):
            clock[0] += seconds

    wait(5)
    take(display, clock, 9, 1)
    display.metrics(1, {"loss": 1.0})
    for step in range(2, 12):
        wait(0.05)
        wait(0.1, idle=False)
        take(display, clock, 0.05, step)
    display.activity("evaluating retrieval")
    clock[0] += 1000
    display.activity("")
    assert display.metrics(11, {"loss": 1.0}) == pytest.approx((40, 0.25))
    assert "  40 examples/s  input wait 25%  " in out.getvalue()
    take(display, clock, 0.2, *range(12, 21))
    assert display.metrics(20, {"loss": 1.0}).input_wait == 0


def test_an_activity_between_two_rows_does_not_count(clock):
    display, _ = off_a_terminal(0, 40)
    take(display, clock, 9, 1)
    display.metrics(1, {"loss": 1.0})
    take(display, clock, 0.2, *range(2, 5))
    for name in ("retrieval", "zero_shot"):
        display.activity(f"evaluating {name}")
        clock[0] += 1000
        display.activity("")
    take(display, clock, 0.2, *range(5, 12))
    assert display.metrics(11, {"loss": 1.0}).examples_per_second == pytest.approx(40)


def test_compiling_does_not_count_where_the_first_row_comes_later(clock):
    """As in a resumed run."""
    display, out = off_a_terminal(30, 60)
    take(display, clock, 50, 31)
    take(display, clock, 0.2, *range(32, 41))
    assert display.metrics(40, {"loss": 1.0}).examples_per_second == pytest.approx(40)
    said = "step 40/60  loss 1.0000  40 examples/s  0:04 left\n"
    assert out.getvalue() == said


def test_a_bar_on_a_terminal(clock):
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    with ProgressDisplay(30, 40, 8, console) as display:
        take(display, clock, 0.2, *range(31, 36))
        display.metrics(35, {"loss": 0.5})
        display.activity("evaluating zero_shot")
        display.say("a [line] above")
    text = out.getvalue()
    assert "35/40" in text
    assert "loss 0.5000  40 examples/s  0:01 left" in text
    assert "evaluating zero_shot" in text
    assert "a [line] above" in text


def test_a_quiet_console_shows_nothing(clock):
    """As of all processes but the first, on a terminal too."""
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, quiet=True)
    with ProgressDisplay(0, 4, 8, console) as display:
        take(display, clock, 1, 1, 2)
        assert display.metrics(2, {"loss": 0.5}).examples_per_second == pytest.approx(8)
        display.activity("evaluating retrieval")
        display.say("a line")
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3723, "1:02:03")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_an_evaluation_is_a_line_with_the_change_since_the_last():
    out = io.StringIO()
    display = ProgressDisplay(0, 10, 1, Console(file=out, width=200))
    names = ("text_to_image/recall@1", "text_to_image/recall@5", "image_to_text/recall@1", "count")
    first = {f"retrieval/pets/test/{name}": i / 8 for i, name in enumerate(names)}
    shown = ["retrieval/pets/test/image_to_text/recall@1", "retrieval/pets/test/text_to_image/no"]
    display.evaluated(4, "retrieval", first, {})
    display.evaluated(8, "retrieval", first, dict.fromkeys(first, 0.5), shown)
    display.evaluated(9, "one", {"one/pets/test/value": 2.0}, {"one/pets/test/value": math.nan})
    assert out.getvalue().splitlines() == [
        "step 4  retrieval: text_to_image/recall@1 0.0000  text_to_image/recall@5 0.1250"
        "  image_to_text/recall@1 0.2500",
        "step 8  retrieval: image_to_text/recall@1 0.2500 (-0.2500)",
        "step 9  one: value 2.0000",
    ]


def test_names_between_colons_are_not_emoji():
    display, out = off_a_terminal(0, 4)
    display.say("warning: expand:question:jsonl:asked.jsonl: left out 2")
    assert "expand:question:jsonl" in out.getvalue()
