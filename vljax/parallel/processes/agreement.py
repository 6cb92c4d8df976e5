"""Agreement between the processes of a run: barrier, broadcast, gather, all-reduce maximum.

Barrier, broadcast and gather use the key-value store of JAX's coordination service, not the
collectives of `jax.experimental.multihost_utils`, because of what they are used for:

- `sync_global_devices` has no time limit and does not name the process that is missing.
- `broadcast_one_to_all` needs an array of known shape in every process. The texts here have any
  length, and process 0 may also answer with an error for all.
- In both, processes wait in a collective on the devices. Process 0 may read files for minutes
  before it answers, and collectives give up earlier (XLA on CPU after 40 seconds).
- `process_allgather` makes every process wait for every other one. Here, only process 0 waits.

`AllReduceMaximum` does run on the devices; it says why `multihost_utils` does not replace it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int32

from vljax.config import UserError
from vljax.parallel.processes.start import HOUR, WORLD, host_key

_uses: Counter[str] = Counter()
"""How often each name was used: a key of the store can be used only once."""


def barrier(name: str, seconds: float | None = None) -> None:
    """Returns once all processes have called it.

    Args:
      name: what they are about to do; may be used again.
      seconds: time limit; None for `timeout_seconds` of `DistributedConfig`.

    Raises:
      UserError: after that time; names the missing processes.
    """
    if WORLD.client is None:
        return
    seconds = WORLD.timeout_seconds if seconds is None else seconds
    key = _unique("barrier", name)
    own = f"{key}/{WORLD.process_index}"
    WORLD.client.key_value_set(own, "")
    try:
        WORLD.client.wait_at_barrier(key, int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        here = {int(k.rpartition("/")[2]) for k, _ in WORLD.client.key_value_dir_get(key)}
        missing = [_named(i) for i in range(WORLD.process_count) if i not in here]
        who = ", ".join(missing) or "a process"
        raise UserError(
            f"{who} of {WORLD.process_count} did not get to {name!r} within {seconds:g} s; the"
            " output there says why"
        ) from error
    WORLD.client.key_value_delete(own)


def broadcast(name: str, answer: Callable[[], str], seconds: float = HOUR) -> str:
    """The result of `answer` in process 0, returned in all processes.

    Args:
      name: what is asked; may be used again.
      answer: called in process 0 only.
      seconds: how long the others wait.

    Raises:
      UserError: in all processes, if `answer` does; in the others also after `seconds`.
    """
    if WORLD.client is None:
        return answer()
    key = _unique("broadcast", name)
    if WORLD.process_index == 0:
        try:
            text = answer()
        except UserError as error:
            WORLD.client.key_value_set(key, f"!{error}")
            raise
        WORLD.client.key_value_set(key, f"={text}")
        return text
    try:
        reply: str = WORLD.client.blocking_key_value_get(key, int(seconds * 1000))
    except jax.errors.JaxRuntimeError as error:
        problem = f"process 0 did not answer {name!r} within {seconds:g} s"
        raise UserError(f"{problem}; the output there says why") from error
    if reply.startswith("!"):
        raise UserError(reply[1:])
    return reply[1:]


def gather(name: str, text: str, seconds: float = HOUR) -> list[str]:
    """The texts of all processes, in process 0; the others get an empty list and do not wait.

    Args:
      name: what is gathered; may be used again.
      text: the text of this process.
      seconds: how long process 0 waits.

    Raises:
      UserError: in process 0, after `seconds`; names the missing processes.
    """
    if WORLD.client is None:
        return [text]
    key = _unique("gather", name)
    if WORLD.process_index:
        WORLD.client.key_value_set(f"{key}/{WORLD.process_index}", text)
        return []
    deadline, pause = time.monotonic() + seconds, 0.001
    while len(others := WORLD.client.key_value_dir_get(key)) < WORLD.process_count - 1:
        if time.monotonic() > deadline:
            here = {int(k.rpartition("/")[2]) for k, _ in others}
            missing = [_named(i) for i in range(1, WORLD.process_count) if i not in here]
            raise UserError(f"{', '.join(missing)} did not send {name!r} within {seconds:g} s")
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    WORLD.client.key_value_delete(key)
    texts = {int(k.rpartition("/")[2]): value for k, value in others}
    return [text, *(texts[i] for i in sorted(texts))]


def _unique(kind: str, name: str) -> str:
    key = f"vljax/{kind}/{name}"
    _uses[key] += 1
    return f"{key}/{_uses[key]}"


def _named(index: int) -> str:
    try:
        return f"process {index} ({WORLD.client.key_value_try_get(host_key(index))})"
    except jax.errors.JaxRuntimeError:
        return f"process {index}"


class AllReduceMaximum:
    """The largest of one small integer per process, computed on the devices without waiting.

    The result is an array on the devices, behind the steps started before: the caller reads it once
    those steps are done anyway, so no step waits. It costs the start of a program of a few bytes.
    The training loop agrees on signals with it (`training.interrupt`), beside each step.

    `multihost_utils.reached_preemption_sync_point` does not do that job. It installs its own
    handler for SIGTERM, so that a second signal no longer ends the process; it ignores Ctrl-C; and
    it does not say which signal came, which decides the exit status. `process_allgather` waits for
    its result, and so for the steps.

    >>> int(AllReduceMaximum()(15))
    15
    """

    def __init__(self) -> None:
        mesh = Mesh(np.array(jax.devices()), ("all",), axis_types=(AxisType.Auto,))
        self._split = NamedSharding(mesh, PartitionSpec("all"))
        self._maximum = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._inputs: dict[int, Array] = {}

    def __call__(self, value: int) -> Int32[Array, ""]:
        """The largest value of all processes, which must all call it, in the same order."""
        if value not in self._inputs:  # nearly always the same number
            self._inputs[value] = self._on_all_devices(value)
        largest: Array = self._maximum(self._inputs[value])
        return largest

    def _on_all_devices(self, value: int) -> Array:
        count = len(self._split.device_set)
        return jax.make_array_from_callback(
            (count,), self._split, lambda _: np.full(1, value, np.int32)
        )


def all_reduce_maximum() -> AllReduceMaximum | None:
    """An `AllReduceMaximum`; None if this process runs alone."""
    return AllReduceMaximum() if jax.process_count() > 1 else None
