"""Compiled programs as XLA prints them: computations, instructions, shapes, how often each runs.

Reads `jax.stages.Compiled.as_text()` of any platform. Only what the counts need is parsed; the rest
of a line stays text.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

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
    """FLOPs of Pallas kernels, of which the text says nothing (`vljax.parallel.pallas_flops`)."""

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
