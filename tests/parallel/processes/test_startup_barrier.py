"""The processes of a run meet; threads stand for them here."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from vljax.config import UserError
from vljax.parallel.processes import startup_barrier
from vljax.parallel.processes.cluster import Place

HOST = socket.gethostname()


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def meet(port, places, seconds=2.0):
    """What each of (process, processes, facts) is told; "" where all is well."""

    def attend(process, processes, facts):
        try:
            startup_barrier.call(Place(f"localhost:{port}", processes, process), facts, seconds)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(lambda place: attend(*place), places))


def test_all_come(port):
    for _ in range(2):  # the port is free again at once
        assert meet(port, [(i, 3, {"seed": "0"}) for i in range(3)]) == ["", "", ""]


def test_the_first_may_come_last(port):
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(meet, port, [(1, 2, {})])
        time.sleep(0.5)
        assert meet(port, [(0, 2, {})]) == [""]
        assert other.result() == [""]


def test_who_is_missing(port):
    where = f"localhost:{port} within 0.5 s; is it running?"
    assert meet(port, [(0, 2, {})], 0.5) == [f"process 1 of 2 did not come to {where}"]
    said = meet(port, [(0, 4, {}), (2, 4, {})], 0.5)
    assert said == [f"processes 1, 3 of 4 did not come to {where}"] * 2


def test_no_first_process(port):
    (said,) = meet(port, [(1, 2, {})], 0.3)
    assert said.startswith(f"distributed.coordinator: no answer from localhost:{port} within 0.3 s")
    assert said.endswith("is process 0 running there?")


def test_different_facts(port):
    said = meet(port, [(0, 2, {"a": "1", "seed": "0"}), (1, 2, {"a": "1", "seed": "7"})])
    line = (
        f"seed: 7 in process 1 ({HOST}), 0 in process 0; start all processes with the same recipe"
        " and versions"
    )
    assert said == [line, line]


def test_different_numbers_of_processes(port):
    said = meet(port, [(0, 2, {}), (1, 3, {})])
    line = (
        f"distributed.processes: 3 in process 1 ({HOST}), 2 in process 0; start all with the same"
        " number"
    )
    assert said == [line, line]


def test_two_of_one_number(port):
    said = meet(port, [(0, 3, {}), (1, 3, {}), (1, 3, {})])
    assert set(said) == {f"distributed.process: 1 on both {HOST} and {HOST}"}


@pytest.mark.parametrize("knock", [b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"process": "1"}\n', b""])
def test_strangers_are_passed_over(port, knock):
    def stranger():
        for _ in range(100):
            try:
                with socket.create_connection(("localhost", port), 1) as connection:
                    connection.sendall(knock)
                return
            except OSError:
                time.sleep(0.01)

    thread = threading.Thread(target=stranger)
    thread.start()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(meet, port, [(0, 2, {})], 5.0)
        thread.join()
        assert meet(port, [(1, 2, {})], 5.0) == [""]
        assert first.result() == [""]


def test_a_first_process_that_ends(port):
    with socket.create_server(("localhost", port)) as server, ThreadPoolExecutor(1) as pool:
        other = pool.submit(meet, port, [(1, 2, {})])
        connection = server.accept()[0]
        with connection:
            assert json.loads(connection.makefile().readline())["process"] == 1
        assert other.result() == [
            f"process 0 at localhost:{port} ended at the start; its output says why"
        ]


def test_a_port_that_is_taken(port):
    with socket.create_server(("", port)):
        (said,) = meet(port, [(0, 2, {})])
    assert said.startswith(f"distributed.coordinator: cannot listen at port {port} (")
    assert said.endswith("choose another port")
