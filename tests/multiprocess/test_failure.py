"""Failures of one of several processes: all end within seconds, with a one-line error."""

import socket
import time

import pytest

from tests.multiprocess.joined import joined

HOST = socket.gethostname()
COMMAND = ("train.py", "tests/multiprocess/recipe.py")


def said(text):
    return [line for line in text.splitlines() if line.startswith("error: ")]


def test_missing_processes_are_named(start, tmp_path):
    args = (*COMMAND, "--workdir", tmp_path / "w", "--distributed.timeout_seconds", "5")
    begun = time.monotonic()
    group = start(4, args, members=[0, 2])
    statuses, _, err = group.wait()
    assert time.monotonic() - begun < 60
    where = f"processes 1, 3 of 4 did not come to {group.coordinator} within 5 s; is it running?"
    assert err == [f"error: {where}\n", f"error: {where}\n"]
    assert statuses == [2, 2]
    assert not (tmp_path / "w").exists()


def test_processes_of_different_recipes_are_refused(start, tmp_path):
    def args(i):
        return (*COMMAND, "--workdir", tmp_path / "w", "--seed", str(i))

    statuses, _, err = start(2, args).wait()
    assert statuses == [2, 2]
    line = (
        f"error: seed: 1 in process 1 ({HOST}), 0 in process 0; start all processes with the same"
        " recipe and versions\n"
    )
    assert err == [line, line]
    assert not (tmp_path / "w").exists()


def test_a_barrier_names_the_missing_process(start):
    mode = (
        "barrier('both', 20)\nif process_index() == 1: time.sleep(60)\nbarrier('the first step', 1)"
    )
    statuses, _, err = start(2, joined(mode)).wait(30)
    assert statuses == [2, 2]
    line = (
        f"process 1 ({HOST}) of 2 did not get to 'the first step' within 1 s; the output there"
        " says why"
    )
    assert said(err[0]) == [f"error: {line}"]
    # The sleeping process is ended by the failure of the other.
    assert said(err[1]) == [f"error: [process 1] ended with process 0: {line}"]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_fails_ends_those_that_wait_for_it(start, failing):
    mode = (
        "barrier('both', 20)\n"
        f"if process_index() == {failing}: raise ZeroDivisionError('by zero')\n"
        "from jax.experimental import multihost_utils\n"
        "time.sleep(60)"
    )
    begun = time.monotonic()
    statuses, _, err = start(2, joined(mode)).wait(40)
    assert time.monotonic() - begun < 40
    assert statuses == [1, 1]
    assert err[failing].splitlines()[-1] == "ZeroDivisionError: by zero"
    other = 1 - failing
    line = f"[process {other}] ended with process {failing}: ZeroDivisionError: by zero"
    assert said(err[other]) == [f"error: {line}"]


def test_broadcast_from_process_0(start):
    mode = (
        "for k in range(3):\n"
        "    answer = lambda: str(10 * k) if is_first() else 1 / 0\n"
        "    print(broadcast('number', answer))\n"
        "def refuse(): raise UserError('field: no')\n"
        "broadcast('number', refuse)"
    )
    statuses, out, err = start(2, joined(mode)).wait(30)
    assert statuses == [2, 2]
    assert out == ["0\n10\n20\n"] * 2
    assert said(err[0]) == ["error: field: no"]
    (line,) = said(err[1])
    assert line.endswith("field: no")


def test_gather_in_process_0(run):
    """Texts of five megabytes, above the default limit of gRPC; and one name used twice."""
    mode = (
        "for letter in 'ab':\n"
        "    own = letter * 5_000_000 + str(process_index())\n"
        "    texts = gather('news', own)\n"
        "    print(process_index(), len(texts), [text[-2:] for text in texts])"
    )
    out, _ = run(3, joined(mode))
    assert out[0].splitlines()[-2:] == ["0 3 ['a0', 'a1', 'a2']", "0 3 ['b0', 'b1', 'b2']"]
    assert [text.splitlines()[-2:] for text in out[1:]] == [[f"{i} 0 []"] * 2 for i in (1, 2)]
