"""Parser of compiled programs in HLO text, the output of `jax.stages.Compiled.as_text()`.

`parse` makes a `Module` of computations and instructions; it parses the parts that the counts need,
and keeps the rest of each line as text. `executions` says how often each computation runs, and
`groups` which devices take part in a collective. `vljax.analysis.hlo_costs` counts on top of these.
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
    """An array in the result of an instruction."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0
    """Memory space of its layout: 0 is main memory; on TPU, 1 is on-chip memory."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes without the padding of the layout; 0 for tokens and opaque values."""
        if self.dtype == "pred":
            return self.size
        bits = _BITS.search(self.dtype)
        return math.ceil(self.size * int(bits[0]) / 8) if bits else 0


@dataclass(frozen=True)
class Instruction:
    """An instruction of a computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    """The arrays of the result, or of the tuple that is the result."""
    operands: tuple[str, ...]
    """Names of instructions; the literal of a constant; the number of a parameter."""
    attributes: str
    """The text after the operands."""
    is_root: bool

    def attribute(self, name: str) -> str | None:
        """The value of `name=...`, without braces; None if there is none."""
        # Metadata and backend_config may contain `name=` too, so search in front of them.
        head = self.attributes.partition(", metadata=")[0].partition(", backend_config=")[0]
        match = re.search(rf"(?:^|, ){name}=(?:\{{([^}}]*)\}}|([^,\s]+))", head)
        return None if match is None else match[1] if match[1] is not None else match[2]

    @property
    def op_name(self) -> str:
        """JAX's name of the operation, with its place in the Python program."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""

    @property
    def target(self) -> str:
        """The target of a custom call; "" for other instructions."""
        match = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return match[1] if match else ""

    @property
    def backend_config(self) -> dict[str, Any]:
        """The `backend_config` of the platform's compiler; empty if it is not JSON."""
        _, found, text = self.attributes.partition("backend_config=")
        if not found or text[:1] not in '{"':
            return {}
        try:
            value, _ = json.JSONDecoder().raw_decode(text)
            # Some backends print JSON, others a string that contains JSON.
            value = json.loads(value) if isinstance(value, str) else value
        except json.JSONDecodeError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it calls."""
        names = []
        for group, single in _CALLED.findall(self.attributes):
            names += re.findall(r"[\w.\-]+", group) if group else [single]
        return tuple(names)


@dataclass(frozen=True)
class Computation:
    """A sequence of instructions, in the order of the schedule if the program has one."""

    name: str
    instructions: Mapping[str, Instruction]

    @functools.cached_property
    def root(self) -> Instruction:
        """The instruction with its result."""
        return next(i for i in self.instructions.values() if i.is_root)

    @functools.cached_property
    def parameters(self) -> Mapping[int, Instruction]:
        """Number -> parameter."""
        found = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return {int(i.operands[0]): i for i in found}


Kernel = tuple[str, tuple[tuple[int, ...], ...]]
"""Name of a Pallas kernel, shapes of its results."""


@dataclass(frozen=True)
class Module:
    """A compiled program."""

    computations: Mapping[str, Computation]
    entry: Computation
    kernels: Mapping[Kernel, int] = field(default_factory=dict)
    """Pallas kernel -> FLOPs, from `jaxpr_flops.kernel_flops`; HLO text does not have them."""

    def instructions(self) -> Iterator[tuple[Computation, Instruction]]:
        """All instructions with their computations."""
        for computation in self.computations.values():
            for instruction in computation.instructions.values():
                yield computation, instruction


def parse(text: str) -> Module:
    """The module of an HLO text.

    Raises:
      ValueError: if the text has no entry computation.

    >>> import jax
    >>> text = jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((8, 8), "float32"))
    >>> module = parse(text.compile().as_text())
    >>> module.entry.parameters[0].shapes
    (Shape(dtype='f32', dims=(8, 8), space=0),)
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
    """One line for each instruction: the metadata of Pallas kernels contain line breaks."""
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
    """The position after the bracket that closes the one at `start`."""
    # Jump from bracket to bracket: texts of large models have many megabytes.
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
    """Names of operands; their shapes come before them in some versions of the text."""
    if "%" in text:
        return tuple(re.findall(r"%([\w.\-]+)", text))
    text = re.sub(r"/\*.*?\*/|\{[^{}]*\}", "", text)
    return tuple(part.split()[-1] for part in text.split(", ") if part.strip())


# --- Executions: how often each computation runs ---

_SCHEDULED = ("call", "conditional")
_FUSED = ("fusion", "custom-call", "async-start")
_TRANSPARENT = ("copy", "convert", "bitcast", "reshape", "opt-barrier", "optimization-barrier")
_LIMIT = 1_000_000
"""Trips up to which a loop's counter is evaluated."""

Argument = Callable[[int, int | None], int | None]
"""(number of a parameter, index in its tuple) -> its integer value."""


@dataclass(frozen=True)
class Executions:
    """How often computations run in one execution of the program."""

    times: Mapping[str, int]
    """Computation -> runs. Computations that are applied to elements (`to_apply`) are absent."""
    scheduled: frozenset[str]
    """Computations with instructions that run one by one, unlike those inside a fusion."""
    unknown: tuple[str, ...]
    """Loops with an unknown trip count; they count as one trip."""


def executions(module: Module) -> Executions:
    """How often every computation runs that the entry computation reaches.

    Every branch of a conditional counts as taken, which is an upper bound.
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
                # The last run of the condition ends the loop.
                visit(_named(module, instruction, "condition"), runs * (trips + 1), fused)
            elif instruction.opcode in (*_SCHEDULED, *_FUSED):
                for name in instruction.called:
                    # A fusion is one kernel: its instructions have no time of their own.
                    inner = fused or instruction.opcode in _FUSED
                    visit(module.computations[name], runs, inner)

    visit(module.entry, 1)
    return Executions(times, frozenset(scheduled), tuple(dict.fromkeys(unknown)))


def trip_count(module: Module, parent: Computation, loop: Instruction) -> int | None:
    """The trip count of a `while` loop; None if its counter depends on data.

    It is noted by the compiler, or else found by evaluating the counter.
    """
    known = loop.backend_config.get("known_trip_count")
    if isinstance(known, dict) and "n" in known:
        return int(known["n"])
    condition, body = _named(module, loop, "condition"), _named(module, loop, "body")
    start = _initial(module, parent, loop)
    places = _state_indices(module, condition)
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
    """The integers in the initial state of a loop."""

    def argument(_: int, place: int | None) -> int | None:
        source = parent.instructions.get(loop.operands[0])
        if source is None or source.opcode != "tuple" or place is None:
            return None
        value = parent.instructions.get(source.operands[place])
        return None if value is None else _evaluate(module, parent, value, lambda *_: None)

    return argument


def _state_indices(module: Module, condition: Computation) -> tuple[int, ...]:
    """Indices of the entries of a loop's state that its condition reads."""
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
    """The value of an integer scalar; None unless constants and arguments determine it."""

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


# --- Groups: the devices of a collective, in every form that XLA prints ---

Groups = tuple[tuple[int, ...], ...]
"""For each group, the row-major indices of its devices in the mesh."""

_LISTED = re.compile(r"replica_groups=(\{\{.*?\}\}|\{\})")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=(\{\{.*?\}\}|\{\})")
_REFERENCE = re.compile(r"'?([\w.\-]+)'?(?::\((\d+)\)(\d+))?")


def groups(instruction: Instruction, devices: int) -> Groups:
    """The groups of devices of a collective; for a permutation, its (source, target) pairs.

    Raises:
      ValueError: for an unknown form.
    """
    return _groups(instruction.attributes.partition(", metadata=")[0], devices)


# A program has many collectives and few different groups.
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
    """`[4,2]T(1,0)`: `arange(8)` in that shape, transposed."""
    ids = np.arange(math.prod(_ints(dims))).reshape(_ints(dims))
    return ids.transpose(_ints(permutation)) if permutation else ids


def _mesh(axes: str, device_ids: str | None, crossed: str) -> Groups:
    """`mesh['a'=4,'b'=2] {'b'}`: devices that differ only in b; `'a':(2)2` is a factor of a."""
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
