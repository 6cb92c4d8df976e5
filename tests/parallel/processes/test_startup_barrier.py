"""The startup barrier of several processes, which are threads here."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from vljax.config import UserError
from vljax.parallel.processes.start import ClusterInfo, startup_barrier

HOST = socket.gethostname()


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def meet(port, processes, seconds=2.0):
    """The error of each of several (index, count, facts); "" if there is none."""

    def attend(index, count, facts):
        try:
            startup_barrier(ClusterInfo(f"localhost:{port}", count, index), facts, seconds)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(lambda process: attend(*process), processes))


def test_all_processes_come(port):
    for _ in range(2):  # the port is free again at once
        assert meet(port, [(i, 3, {"seed": "0"}) for i in range(3)]) == ["", "", ""]


def test_process_0_may_come_last(port):
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(meet, port, [(1, 2, {})])
        time.sleep(0.5)
        assert meet(port, [(0, 2, {})]) == [""]
        assert other.result() == [""]


def test_missing_processes_are_named(port):
    where = f"localhost:{port} within 0.5 s; is it running?"
    assert meet(port, [(0, 2, {})], 0.5) == [f"process 1 of 2 did not come to {where}"]
    errors = meet(port, [(0, 4, {}), (2, 4, {})], 0.5)
    assert errors == [f"processes 1, 3 of 4 did not come to {where}"] * 2


def test_a_missing_process_0_is_named(port):
    (message,) = meet(port, [(1, 2, {})], 0.3)
    assert message.startswith(
        f"distributed.coordinator: no answer from localhost:{port} within 0.3 s"
    )
    assert message.endswith("is process 0 running there?")


def test_different_facts_are_named(port):
    errors = meet(port, [(0, 2, {"a": "1", "seed": "0"}), (1, 2, {"a": "1", "seed": "7"})])
    line = (
        f"seed: 7 in process 1 ({HOST}), 0 in process 0; start all processes with the same recipe"
        " and versions"
    )
    assert errors == [line, line]


def test_different_process_counts(port):
    errors = meet(port, [(0, 2, {}), (1, 3, {})])
    line = (
        f"distributed.processes: 3 in process 1 ({HOST}), 2 in process 0; start all with the same"
        " number"
    )
    assert errors == [line, line]


def test_two_processes_with_one_index(port):
    errors = meet(port, [(0, 3, {}), (1, 3, {}), (1, 3, {})])
    assert set(errors) == {f"distributed.process: 1 on both {HOST} and {HOST}"}


@pytest.mark.parametrize("knock", [b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"process": "1"}\n', b""])
def test_other_connections_are_ignored(port, knock):
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


def test_the_end_of_process_0_is_reported(port):
    with socket.create_server(("localhost", port)) as server, ThreadPoolExecutor(1) as pool:
        other = pool.submit(meet, port, [(1, 2, {})])
        connection = server.accept()[0]
        with connection:
            assert json.loads(connection.makefile().readline())["process"] == 1
        assert other.result() == [
            f"process 0 at localhost:{port} ended at the start; its output says why"
        ]


def test_a_taken_port_is_an_error(port):
    with socket.create_server(("", port)):
        (message,) = meet(port, [(0, 2, {})])
    assert message.startswith(f"distributed.coordinator: cannot listen at port {port} (")
    assert message.endswith("choose another port")
