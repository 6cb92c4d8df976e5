"""Compiled programs as XLA prints them: computations, instructions, shapes, how often each runs.

Reads `jax.stages.Compiled.as_text()` of any platform. Only what the counts need is parsed; the rest
of a line stays text.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.sharding import Mesh

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_ASSIGNMENT = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ?([a-z][a-z0-9\-]*)\(")
_LEAF = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_CALLED = re.compile(
    r"\b(?:calls|body|condition|to_apply|called_computations|branch_computations"
    r"|true_computation|false_computation)=(?:\{([^}]*)\}|%?([\w.\-]+))"
)
_BITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Shape:
    """An array that an instruction makes."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0
    """Memory space of its layout: 0 is the device's main memory, on TPU 1 is on-chip memory."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes without the padding of the layout; tokens and opaque values have none."""
        if self.dtype == "pred":
            return self.size
        bits = _BITS.search(self.dtype)
        return math.ceil(self.size * int(bits[0]) / 8) if bits else 0


@dataclass(frozen=True)
class Instruction:
    """A line of a computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    """The arrays of the result, those of a tuple one after the other."""
    operands: tuple[str, ...]
    """Names of other instructions; the literal of a constant, the number of a parameter."""
    attributes: str
    """The text behind the operands."""
    is_root: bool

    def attribute(self, name: str) -> str | None:
        """The value of `name=...`, without its braces; None where the instruction has none."""
        head = self.attributes.partition(", metadata=")[0].partition(", backend_config=")[0]
        match = re.search(rf"(?:^|, ){name}=(?:\{{([^}}]*)\}}|([^,\s]+))", head)
        return None if match is None else match[1] if match[1] is not None else match[2]

    @property
    def op_name(self) -> str:
        """Where in the Python program it comes from, as JAX names it."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""

    @property
    def target(self) -> str:
        """What a custom call calls."""
        match = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return match[1] if match else ""

    @property
    def backend_config(self) -> dict[str, Any]:
        """What the compiler of the platform says about it; empty if that is no JSON."""
        _, found, text = self.attributes.partition("backend_config=")
        if not found or text[:1] not in '{"':
            return {}
        try:
            value, _ = json.JSONDecoder().raw_decode(text)
            value = json.loads(value) if isinstance(value, str) else value
        except json.JSONDecodeError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that it names."""
        names = []
        for group, single in _CALLED.findall(self.attributes):
            names += re.findall(r"[\w.\-]+", group) if group else [single]
        return tuple(names)


@dataclass(frozen=True)
class Computation:
    """A sequence of instructions, in the order of the schedule where there is one."""

    name: str
    instructions: Mapping[str, Instruction]

    @functools.cached_property
    def root(self) -> Instruction:
        """What it returns."""
        return next(i for i in self.instructions.values() if i.is_root)

    @functools.cached_property
    def parameters(self) -> Mapping[int, Instruction]:
        """Its arguments by number."""
        found = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return {int(i.operands[0]): i for i in found}


Kernel = tuple[str, tuple[tuple[int, ...], ...]]
"""A kernel by its name and the sizes of its results."""


@dataclass(frozen=True)
class Module:
    """A compiled program."""

    computations: Mapping[str, Computation]
    entry: Computation
    kernels: Mapping[Kernel, int] = field(default_factory=dict)
    """FLOPs of Pallas kernels, of which the text says nothing (`vljax.analysis.jaxpr_flops`)."""

    def instructions(self) -> Iterator[tuple[Computation, Instruction]]:
        """All instructions with their computations."""
        for computation in self.computations.values():
            for instruction in computation.instructions.values():
                yield computation, instruction


def parse(text: str) -> Module:
    """The module that a text describes.

    Raises:
      ValueError: if the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry: Computation | None = None
    current: dict[str, Instruction] | None = None
    for line in _statements(text):
        if current is None:
            if header := _HEADER.match(line):
                current = {}
                computation = Computation(header[2], current)
                computations[header[2]] = computation
                entry = computation if header[1] else entry
        elif line == "}":
            current = None
        elif (instruction := _instruction(line)) is not None:
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("the text has no ENTRY computation")
    return Module(computations, entry)


def _statements(text: str) -> Iterator[str]:
    """Lines, those of one instruction joined: the metadata of Pallas kernels hold line breaks."""
    pending = ""
    for line in text.splitlines():
        if line == "}" or _ASSIGNMENT.match(line) or _HEADER.match(line):
            yield pending
            pending = line
        else:
            pending += line
    yield pending


def _instruction(line: str) -> Instruction | None:
    start = _ASSIGNMENT.match(line)
    if start is None:
        return None
    shape_end = _closing(line, start.end()) if line[start.end()] == "(" else start.end()
    opcode = _OPCODE.search(line, shape_end)
    if opcode is None:
        return None
    end = _closing(line, opcode.end() - 1)
    shapes = tuple(_shape(*leaf) for leaf in _LEAF.findall(line, start.end(), opcode.start()))
    operands = _operands(line[opcode.end() : end - 1])
    rest = line[end:].removeprefix(", ")
    return Instruction(start[2], opcode[1], shapes, operands, rest, start[1] is not None)


def _shape(dtype: str, dims: str, layout: str) -> Shape:
    space = _SPACE.search(layout)
    sizes = tuple(int(size.removeprefix("<=")) for size in dims.split(",") if size)
    return Shape(dtype, sizes, int(space[1]) if space else 0)


def _closing(text: str, start: int) -> int:
    """The position behind the bracket that closes the one at `start`."""
    depth, position = 0, start
    while True:
        opened, closed = text.find("(", position), text.find(")", position)
        if closed < 0:
            return len(text)
        if 0 <= opened < closed:
            depth, position = depth + 1, opened + 1
        else:
            depth, position = depth - 1, closed + 1
            if depth == 0:
                return position


def _operands(text: str) -> tuple[str, ...]:
    """Names of operands, whether their shapes stand before them or not."""
    if "%" in text:
        return tuple(re.findall(r"%([\w.\-]+)", text))
    text = re.sub(r"/\*.*?\*/|\{[^{}]*\}", "", text)
    return tuple(part.split()[-1] for part in text.split(", ") if part.strip())


# --- How often each computation of a compiled program runs ----------------------------------------

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


# --- Which devices a collective joins, in every form that XLA prints ------------------------------

Groups = tuple[tuple[int, ...], ...]
"""Positions of devices in the mesh (row-major), group by group."""

_LISTED = re.compile(r"replica_groups=(\{\{.*?\}\}|\{\})")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=(\{\{.*?\}\}|\{\})")
_REFERENCE = re.compile(r"'?([\w.\-]+)'?(?::\((\d+)\)(\d+))?")


def groups(instruction: Instruction, devices: int) -> Groups:
    """The groups of a collective; the pairs of a permutation.

    Raises:
      ValueError: for a form that is not known.
    """
    return _groups(instruction.attributes.partition(", metadata=")[0], devices)


@functools.cache
def _groups(text: str, devices: int) -> Groups:
    if match := _PAIRS.search(text) or _LISTED.search(text):
        listed = tuple(
            tuple(int(i) for i in group.split(","))
            for group in re.findall(r"\{([\d,]+)\}", match[1])
        )
        return listed or (tuple(range(devices)),)
    if match := _IOTA.search(text):
        return _rows(_iota(match[2], match[3]).reshape(_ints(match[1])))
    if match := _MESH.search(text):
        return _mesh(*match.groups())
    raise ValueError(f"no known form of replica groups: {text[:200]}")


def _ints(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _rows(array: np.ndarray) -> Groups:
    return tuple(tuple(int(i) for i in row) for row in array)


def _iota(dims: str, permutation: str | None) -> np.ndarray:
    """`[4,2]T(1,0)`: counting numbers in that shape, transposed."""
    ids = np.arange(math.prod(_ints(dims))).reshape(_ints(dims))
    return ids.transpose(_ints(permutation)) if permutation else ids


def _mesh(axes: str, device_ids: str | None, crossed: str) -> Groups:
    """`mesh['a'=4,'b'=2] {'b'}`: devices that differ in axis b only; `'a':(2)2` is a part of a."""
    sizes = {name.strip(" '"): int(size) for name, size in (a.split("=") for a in axes.split(","))}
    ids = _device_ids(device_ids, math.prod(sizes.values())).reshape(tuple(sizes.values()))
    parts: list[tuple[str, int]] = list(sizes.items())
    wanted: list[str] = []
    for name, before, size in _REFERENCE.findall(crossed):
        if not size:
            wanted.append(name)
            continue
        place = [part for part, _ in parts].index(name)
        rest = parts[place][1] // (int(before) * int(size))
        split = [(f"{name}<", int(before)), (f"{name}=", int(size)), (name, rest)]
        parts[place : place + 1] = split
        wanted.append(f"{name}=")
    ids = ids.reshape([size for _, size in parts])
    chosen = [[part for part, _ in parts].index(name) for name in wanted]
    others = [i for i in range(len(parts)) if i not in chosen]
    members = math.prod(parts[i][1] for i in chosen)
    return _rows(ids.transpose(others + chosen).reshape(-1, members))


def _device_ids(text: str | None, count: int) -> np.ndarray:
    if text is None:
        return np.arange(count)
    if match := re.fullmatch(r"(?:\[[\d,]+\])?(?:<=)?\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        return _iota(match[1], match[2]).reshape(-1)
    return np.array([int(number) for number in re.findall(r"\d+", text)])


def crossed_axes(members: Groups, mesh: Mesh) -> tuple[str, ...]:
    """The mesh axes along which devices of one group differ."""
    shape = tuple(mesh.shape.values())
    differs = np.zeros(len(shape), bool)
    for group in members:
        coordinates = np.stack(np.unravel_index(np.array(group), shape))
        differs |= (coordinates != coordinates[:, :1]).any(axis=1)
    return tuple(name for name, crossed in zip(mesh.shape, differs, strict=True) if crossed)
