"""Runs `train.py` up to its first step and prints the seconds of each phase as JSON.

    python benchmarks/startup_phases.py STARTED [RECIPE] [overrides]

STARTED is the start time of this process, as `time.time()` gives it. `startup.py` prints a table of
several runs.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
STARTED = float(sys.argv.pop(1))
phases: dict[str, float] = {}


def timed(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function; the seconds of its calls are added to a phase."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            phases[phase] = phases.get(phase, 0.0) + time.perf_counter() - begin

    return call


def wrap(owner: Any, name: str, phase: str) -> None:
    """Replaces a function of a module by one that is timed."""
    setattr(owner, name, timed(phase, getattr(owner, name)))


class Traced:
    """A traced step whose compile is timed."""

    def __init__(self, traced: Any) -> None:
        self.traced = traced

    def lower(self) -> Traced:
        self.traced = timed("step: trace", self.traced.lower)()
        return self

    def compile(self) -> Any:
        return timed("step: compile", self.traced.compile)()


def stop(*_: Any) -> float:
    """Replaces `Loop._log`: after the first step, prints the phases and exits."""
    import jax

    phases["first step, and waiting for its compile"] = time.perf_counter() - begun[0]
    phases["in all"] = time.time() - STARTED
    print(json.dumps(phases), flush=True)
    jax.effects_barrier()
    os._exit(0)


begun: list[float] = []


def main() -> None:
    """Runs the real command with timed functions."""
    from vljax import launch, programs
    from vljax.commands import main as cli
    from vljax.commands import train
    from vljax.training import loop

    phases["imports"] = time.time() - STARTED
    wrap(train, "load_run", "recipe, overrides")
    wrap(launch, "prepare", "checks (shapes, patterns, shardings)")
    wrap(launch, "checkpoint_files", "opening data and tokenizer")
    wrap(launch, "_open_evaluation_data", "opening data and tokenizer")
    trace = timed("step: trace", programs.trace_step)
    programs.trace_step = lambda *inputs: Traced(trace(*inputs))
    wrap(launch, "initial_state", "initial state: compile and run")
    batches = launch.device_batches

    def first(*arguments: Any) -> Iterator[Any]:
        rest = batches(*arguments)
        batch = timed("first batch", next)(rest)
        begun.append(time.perf_counter())
        yield batch
        yield from rest

    launch.device_batches = first
    loop.Loop._log = stop
    sys.exit(cli.train_main("configs/quickstart.py"))


if __name__ == "__main__":
    main()
