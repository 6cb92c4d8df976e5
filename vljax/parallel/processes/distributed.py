"""Several processes, usually one a host, as one run: start, agreement, and failure of one of them.

Everything here goes through JAX's coordination service, never through the devices, and does nothing
where a process is alone.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from vljax.config import UserError
from vljax.parallel.processes import failure, startup_barrier
from vljax.parallel.processes.cluster import DistributedConfig, locate

__all__ = [
    "DistributedConfig",
    "barrier",
    "decided",
    "fail",
    "gathered",
    "is_first",
    "process",
    "start",
]

_HOUR = 3600.0


@dataclass
class _World:
    """What `start` found; alone until then."""

    process: int = 0
    processes: int = 1
    client: Any = None
    seconds: float = _HOUR
    uses: Counter[str] = field(default_factory=Counter)
    """How often each name was used: a key serves once."""


_world = _World()


def start(config: DistributedConfig, facts: Callable[[], Mapping[str, str]]) -> None:
    """Joins the processes of a run; once, before anything asks JAX for its devices.

    Args:
      config: how they find each other.
      facts: returns name -> value of what must be the same in all of them, such as fields of the
        recipe; not called where this process is alone.

    Raises:
      UserError: in all of them, if some do not come in time or the facts differ.
    """
    if _world.client is not None or (place := locate(config)) is None:
        return
    startup_barrier.call(place, facts(), config.timeout_seconds)
    # JAX's own service would take SIGTERM for itself; `training.interrupt` honours it.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        place.coordinator,
        place.processes,
        place.process,
        None if place.local_devices is None else list(place.local_devices),
        cluster_detection_method="deactivate",
        initialization_timeout=config.timeout_seconds,
    )
    from jax._src.distributed import global_state

    _world.process, _world.processes = place.process, place.processes
    _world.client, _world.seconds = global_state.client, float(config.timeout_seconds)
    _world.client.key_value_set(_host_key(place.process), socket.gethostname())
    failure.watch(_world.client, place.process)


def process() -> int:
    """The number of this process; asks no device."""
    return _world.process


def is_first() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return _world.process == 0


def barrier(name: str, seconds: float | None = None) -> None:
    """Returns once all processes have called it.

    Args:
      name: what they are about to do; may be used again.
      seconds: the time limit; the one of the start where it is None.

    Raises:
      UserError: after that time, naming the processes that are missing.
    """
    if _world.client is None:
        return
    seconds = _world.seconds if seconds is None else seconds
    key = _unique("barrier", name)
    own = f"{key}/{_world.process}"
    _world.client.key_value_set(own, "")
    try:
        _world.client.wait_at_barrier(key, int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        here = {int(k.rpartition("/")[2]) for k, _ in _world.client.key_value_dir_get(key)}
        missing = [_named(i) for i in range(_world.processes) if i not in here]
        who = ", ".join(missing) or "a process"
        raise UserError(
            f"{who} of {_world.processes} did not get to {name!r} within {seconds:g} s; the output"
            " there says why"
        ) from error
    _world.client.key_value_delete(own)


def decided(name: str, answer: Callable[[], str], seconds: float = _HOUR) -> str:
    """What process 0 answers, in all processes; the others are not asked.

    Args:
      name: of the question; may be used again.
      answer: called in process 0 only.
      seconds: how long the others wait.

    Raises:
      UserError: in all processes, if `answer` does; in the others also when they waited in vain.
    """
    if _world.client is None:
        return answer()
    key = _unique("decided", name)
    if _world.process == 0:
        try:
            text = answer()
        except UserError as error:
            _world.client.key_value_set(key, f"!{error}")
            raise
        _world.client.key_value_set(key, f"={text}")
        return text
    try:
        reply: str = _world.client.blocking_key_value_get(key, int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        said = f"process 0 did not decide on {name!r} within {seconds:g} s"
        raise UserError(f"{said}; the output there says why") from error
    if reply.startswith("!"):
        raise UserError(reply[1:])
    return reply[1:]


def gathered(name: str, text: str, seconds: float = _HOUR) -> list[str]:
    """What all processes say, in process 0; the others get an empty list, and do not wait.

    Args:
      name: of what is told; may be used again.
      text: of this process.
      seconds: how long process 0 waits.

    Raises:
      UserError: in process 0, if it waited in vain.
    """
    if _world.client is None:
        return [text]
    key = _unique("gathered", name)
    if _world.process:
        _world.client.key_value_set(f"{key}/{_world.process}", text)
        return []
    deadline, pause = time.monotonic() + seconds, 0.001
    while len(others := _world.client.key_value_dir_get(key)) < _world.processes - 1:
        if time.monotonic() > deadline:
            here = {int(k.rpartition("/")[2]) for k, _ in others}
            missing = [_named(i) for i in range(1, _world.processes) if i not in here]
            raise UserError(f"{', '.join(missing)} did not tell {name!r} within {seconds:g} s")
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    _world.client.key_value_delete(key)
    texts = {int(k.rpartition("/")[2]): said for k, said in others}
    return [text, *(texts[i] for i in sorted(texts))]


def fail(error: BaseException) -> None:
    """Tells the other processes that this one ends because of an error, which ends them too.

    Without it they would wait in a collective until JAX misses this one's heartbeat.
    """
    if _world.client is not None:
        failure.tell(_world.client, _world.process, error)


def _unique(kind: str, name: str) -> str:
    key = f"vljax/{kind}/{name}"
    _world.uses[key] += 1
    return f"{key}/{_world.uses[key]}"


def _host_key(number: int) -> str:
    return f"vljax/host/{number}"


def _named(number: int) -> str:
    try:
        return f"process {number} ({_world.client.key_value_try_get(_host_key(number))})"
    except jax.errors.JaxRuntimeError:
        return f"process {number}"
