"""How often each computation of a compiled program runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vljax.parallel.hlo import Computation, Instruction, Module

_SCHEDULED = ("call", "conditional")
_FUSED = ("fusion", "custom-call", "async-start")
_TRANSPARENT = ("copy", "convert", "bitcast", "reshape", "opt-barrier", "optimization-barrier")
_LIMIT = 1_000_000
"""Iterations after which counting a loop by running its counter is given up."""

Argument = Callable[[int, int | None], int | None]
"""The integer in a parameter, by its number and its place in a tuple."""


@dataclass(frozen=True)
class Executions:
    """What runs how often, per execution of the program."""

    times: Mapping[str, int]
    """By computation; absent where it is only applied to elements (`to_apply`)."""
    scheduled: frozenset[str]
    """Computations whose instructions run one by one: not those inside a fusion."""
    unknown: tuple[str, ...]
    """Loops whose trip count the text does not tell; they are counted as one trip."""


def executions(module: Module) -> Executions:
    """Runs of every computation that the entry reaches.

    Every branch of a conditional counts as taken: an upper bound.
    """
    times: dict[str, int] = {}
    scheduled: set[str] = set()
    unknown: list[str] = []

    def visit(computation: Computation, runs: int, fused: bool = False) -> None:
        times[computation.name] = times.get(computation.name, 0) + runs
        if not fused:
            scheduled.add(computation.name)
        for instruction in computation.instructions.values():
            if instruction.opcode == "while":
                trips = trip_count(module, computation, instruction)
                if trips is None:
                    unknown.append(instruction.name)
                trips = 1 if trips is None else trips
                visit(_named(module, instruction, "body"), runs * trips, fused)
                visit(_named(module, instruction, "condition"), runs * (trips + 1), fused)
            elif instruction.opcode in (*_SCHEDULED, *_FUSED):
                for name in instruction.called:
                    inner = fused or instruction.opcode in _FUSED
                    visit(module.computations[name], runs, inner)

    visit(module.entry, 1)
    return Executions(times, frozenset(scheduled), tuple(dict.fromkeys(unknown)))


def trip_count(module: Module, parent: Computation, loop: Instruction) -> int | None:
    """Trips of a `while` loop: what the compiler noted, else by running its counter.

    The counter is followed through condition and body; None where it depends on data.
    """
    known = loop.backend_config.get("known_trip_count")
    if isinstance(known, dict) and "n" in known:
        return int(known["n"])
    condition, body = _named(module, loop, "condition"), _named(module, loop, "body")
    start = _initial(module, parent, loop)
    places = _places(module, condition)
    state = {place: start(0, place) for place in places}
    if not state or any(value is None for value in state.values()):
        return None
    for trips in range(_LIMIT):

        def argument(number: int, place: int | None) -> int | None:
            return None if place is None else state.get(place)  # noqa: B023

        going = _evaluate(module, condition, condition.root, argument)
        if going is None:
            return None
        if not going:
            return trips
        state = {place: _returned(module, body, place, argument) for place in places}
        if any(value is None for value in state.values()):
            return None
    return None


def _named(module: Module, instruction: Instruction, role: str) -> Computation:
    name = instruction.attribute(role)
    assert name is not None, f"{instruction.name} names no {role}"
    return module.computations[name.removeprefix("%")]


def _initial(module: Module, parent: Computation, loop: Instruction) -> Argument:
    """The integers that a loop starts with."""

    def argument(_: int, place: int | None) -> int | None:
        source = parent.instructions.get(loop.operands[0])
        if source is None or source.opcode != "tuple" or place is None:
            return None
        value = parent.instructions.get(source.operands[place])
        return None if value is None else _evaluate(module, parent, value, lambda *_: None)

    return argument


def _places(module: Module, condition: Computation) -> tuple[int, ...]:
    """The entries of a loop's state that its condition looks at."""
    found = []
    for instruction in condition.instructions.values():
        if instruction.opcode == "get-tuple-element":
            index = instruction.attribute("index")
            found += [int(index)] if index is not None else []
    return tuple(dict.fromkeys(found))


def _returned(module: Module, body: Computation, place: int, argument: Argument) -> int | None:
    root = body.root
    if root.opcode != "tuple":
        return None
    return _evaluate(module, body, body.instructions[root.operands[place]], argument)


def _evaluate(
    module: Module, computation: Computation, instruction: Instruction, argument: Argument
) -> int | None:
    """The value of an integer scalar, if it follows from constants and arguments."""

    def operand(i: int) -> int | None:
        found = computation.instructions.get(instruction.operands[i])
        return None if found is None else _evaluate(module, computation, found, argument)

    opcode = instruction.opcode
    if opcode == "constant":
        text = instruction.operands[0] if instruction.operands else ""
        return int(text) if text.lstrip("-").isdigit() else None
    if opcode == "parameter":
        return argument(int(instruction.operands[0]), None)
    if opcode == "get-tuple-element":
        source = computation.instructions.get(instruction.operands[0])
        index = instruction.attribute("index")
        if source is None or index is None or source.opcode != "parameter":
            return None
        return argument(int(source.operands[0]), int(index))
    if opcode in _TRANSPARENT:
        return operand(0)
    if opcode in ("fusion", "call"):
        inner = module.computations[instruction.called[0]]
        return _evaluate(module, inner, inner.root, lambda number, _: operand(number))
    if opcode in ("add", "subtract", "compare", "and"):
        left, right = operand(0), operand(1)
        if left is None or right is None:
            return None
        return _combined(opcode, instruction.attribute("direction"), left, right)
    return None


def _combined(opcode: str, direction: str | None, left: int, right: int) -> int | None:
    if opcode == "add":
        return left + right
    if opcode == "subtract":
        return left - right
    if opcode == "and":
        return int(bool(left) and bool(right))
    comparisons = {
        "LT": left < right,
        "LE": left <= right,
        "GT": left > right,
        "GE": left >= right,
        "EQ": left == right,
        "NE": left != right,
    }
    return int(comparisons[direction]) if direction in comparisons else None
