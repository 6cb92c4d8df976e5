"""Wall time of a program on CPU by kind of operation, from a trace of XLA's profiler."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from vljax.analysis.hlo import Instruction, Module

Event = tuple[int, int, str]
"""Begin and end in nanoseconds, name of the instruction."""


def seconds_by_kind(module: Module, run: Callable[[], None]) -> dict[str, float]:
    """Seconds of one run by kind of operation, from the first operation to the last.

    Operations that run at the same time share it equally. Time without a recorded operation counts
    for the last matrix product: Eigen's products go on after their record has ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (file,) = Path(folder).rglob("*.xplane.pb")
        kinds = {i.name: kind(module, i) for i in module.entry.instructions.values()}
        events = [event for event in _events(file) if event[2] in kinds]
    return _divided(events, kinds)


def kind(module: Module, instruction: Instruction) -> str:
    """The kind of an instruction of the step, from its opcode and its name in the model."""
    if _has_product(module, instruction):
        return "products in attention" if "->" in instruction.op_name else "products of linear maps"
    if "transpose" in instruction.name or "copy" in instruction.name:
        return "copies and transposes"
    if "/attention/" in instruction.op_name:
        return "softmax"
    for place, name in (("norm/", "layer norm"), ("/mlp/", "activation and biases of MLPs")):
        if place in instruction.op_name:
            return name
    in_model = "AssembledModule" in instruction.op_name
    return "rest of the model" if in_model else "optimizer and gradient norm"


def _has_product(module: Module, instruction: Instruction) -> bool:
    if instruction.opcode == "dot":
        return True
    inside = (
        i for name in instruction.called for i in module.computations[name].instructions.values()
    )
    return any(i.opcode == "dot" for i in inside)


def _events(file: Path) -> Iterator[Event]:
    data = jax.profiler.ProfileData.from_file(str(file))
    for plane in data.planes:
        if "CPU" in plane.name:
            for line in plane.lines:
                for e in line.events:
                    begin = int(e.start_ns)
                    yield begin, begin + int(e.duration_ns), e.name


def _divided(events: list[Event], kinds: dict[str, str]) -> dict[str, float]:
    """Seconds by kind; each moment is divided among the operations that are active then."""
    edges = sorted(
        [(begin, 1, i) for i, (begin, _, _) in enumerate(events)]
        + [(end, 0, i) for i, (_, end, _) in enumerate(events)]
    )
    seconds: dict[str, float] = defaultdict(float)
    active: set[int] = set()
    last, product = edges[0][0], "products of linear maps"
    for moment, begins, i in edges:
        elapsed = (moment - last) * 1e-9
        for j in active:
            seconds[kinds[events[j][2]]] += elapsed / len(active)
        if not active:
            seconds[product] += elapsed
        last = moment
        if begins:
            active.add(i)
            if kinds[events[i][2]].startswith("products"):
                product = kinds[events[i][2]]
        else:
            active.discard(i)
    return dict(seconds)
