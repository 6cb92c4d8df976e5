"""The processes of a run meet before JAX connects them, to see who is there and what they run.

JAX ends a process without an exception when another does not come, and does not say which. So
process 0 first listens at the coordinator's port itself: the others send a line of JSON each, and
are sent back one that says what is wrong, if anything.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

from vljax.config import UserError
from vljax.parallel.processes.cluster import Place

Facts = Mapping[str, str]

_RETRY_SECONDS = 0.2
_LINE_SECONDS = 5.0
_LIMIT = 2**24


def call(place: Place, facts: Facts, seconds: float) -> None:
    """Returns once all processes have come with the same facts.

    Args:
      place: this process's.
      facts: name -> value of what must be the same in all processes.
      seconds: how long to wait for the others.

    Raises:
      UserError: in every process that is there, the same: if some do not come, two have one
        number, or their facts differ.
    """
    host = socket.gethostname()
    card = {"process": place.process, "processes": place.processes, "host": host, "facts": facts}
    if place.process == 0:
        problem = _preside(place, card, seconds)
    else:
        problem = _attend(place, card, seconds)
    if problem:
        raise UserError(problem)


def _preside(place: Place, card: dict[str, Any], seconds: float) -> str:
    """Process 0: collects the others, and tells all of them what is wrong, or ""."""
    deadline = time.monotonic() + seconds
    cards = [card]
    with ExitStack() as stack:
        server = stack.enter_context(_listen(place.coordinator))
        connections = []
        while len(cards) < place.processes and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            with suppress(OSError, ValueError):  # also of a stranger who knocks at the port
                connection = stack.enter_context(server.accept()[0])
                cards.append(_checked(_receive(connection, _LINE_SECONDS)))
                connections.append(connection)
        problem = _problem(place, cards, seconds)
        for connection in connections:
            with suppress(OSError):
                _send(connection, {"problem": problem})
                # Who closes first keeps the port for a while; it should not be this side.
                connection.recv(1)
    return problem


def _attend(place: Place, card: dict[str, Any], seconds: float) -> str:
    """Another process: reports to process 0 and returns its answer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection = socket.create_connection(_address(place.coordinator), _LINE_SECONDS)
        except OSError as error:
            if time.monotonic() < deadline:
                time.sleep(_RETRY_SECONDS)
                continue
            return (
                f"distributed.coordinator: no answer from {place.coordinator} within {seconds:g} s"
                f" ({error.strerror or error}); is process 0 running there?"
            )
        break
    with connection:
        try:
            _send(connection, card)
            # Process 0 may have come later than this one, and waits as long.
            return str(_receive(connection, seconds + _LINE_SECONDS)["problem"])
        except (OSError, ValueError):
            return f"process 0 at {place.coordinator} ended at the start; its output says why"


def _problem(place: Place, cards: list[dict[str, Any]], seconds: float) -> str:
    """What is wrong with the processes that have come, or ""."""
    first, *others = cards
    seen = {0: first["host"]}
    for card in others:
        number, host = card["process"], card["host"]
        who = f"process {number} ({host})"
        if card["processes"] != place.processes:
            return (
                f"distributed.processes: {card['processes']} in {who},"
                f" {place.processes} in process 0; start all with the same number"
            )
        if number in seen or not 0 < number < place.processes:
            return f"distributed.process: {number} on both {seen.get(number)} and {host}"
        seen[number] = host
        mine, theirs = first["facts"], card["facts"]
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                values = f"{theirs.get(name)} in {who}, {mine.get(name)} in process 0"
                return f"{name}: {values}; start all processes with the same recipe and versions"
    missing = [str(i) for i in range(place.processes) if i not in seen]
    if not missing:
        return ""
    named = f"process{'es' * (len(missing) > 1)} {', '.join(missing)} of {place.processes}"
    return f"{named} did not come to {place.coordinator} within {seconds:g} s; is it running?"


def _listen(coordinator: str) -> socket.socket:
    port = _address(coordinator)[1]
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=1024)
    except OSError as error:
        raise UserError(
            f"distributed.coordinator: cannot listen at port {port} ({error.strerror}); choose"
            " another port"
        ) from error


def _address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    return host.strip("[]"), int(port)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket, seconds: float) -> Any:
    """A line of JSON. Raises OSError or ValueError."""
    connection.settimeout(seconds)
    with connection.makefile("rb") as lines:
        return json.loads(lines.readline(_LIMIT))


def _checked(card: Any) -> dict[str, Any]:
    """A card as `call` makes it. Raises ValueError for anything else."""
    wanted = {"process": int, "processes": int, "host": str, "facts": dict}
    if not isinstance(card, dict) or not all(isinstance(card.get(k), t) for k, t in wanted.items()):
        raise ValueError("no card of a process")
    return dict(card)
