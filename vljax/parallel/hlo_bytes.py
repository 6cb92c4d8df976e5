"""Bytes of main memory that an instruction of a compiled program reads and writes."""

from __future__ import annotations

from vljax.parallel.hlo import Computation, Instruction, Module, Shape

_NOTHING = frozenset(
    (
        *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"),
        *("while", "call", "conditional", "opt-barrier", "optimization-barrier", "domain"),
        *("partition-id", "replica-id", "iota", "add-dependency"),
    )
)
_NO_CODE = frozenset(
    (
        *("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound"),
        *("AsyncCollectiveStart", "AsyncCollectiveDone", "Sharding", "SPMDFullToShardShape"),
        *("SPMDShardToFullShape", "GapiStartEndMarker", "MoveToHost", "MoveToDevice"),
    )
)
"""Custom calls that tell the compiler something and do nothing."""

_SLICES = ("dynamic-slice", "slice", "gather")


def is_free(instruction: Instruction) -> bool:
    """Whether an instruction takes no time: bookkeeping, or the end of what runs beside others."""
    if instruction.opcode in _NOTHING or instruction.opcode.endswith(("-done", "-update")):
        return True
    return instruction.opcode == "custom-call" and instruction.target in _NO_CODE


def memory_bytes(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Bytes read from and written to main memory by one run of an instruction.

    Arrays in on-chip memory count nothing. Where only a slice of an operand is read, or of the
    result written, only that counts.
    """
    if is_free(instruction):
        return 0
    if instruction.opcode in ("copy-start", "slice-start"):
        return _copied(computation, instruction)
    if instruction.opcode.endswith("-start"):  # a collective: results are listed in many forms
        operands = (computation.instructions[name] for name in instruction.operands)
        return 2 * sum(_in_memory(operand.shapes) for operand in operands)
    inner = _fused(module, instruction)
    read = written = 0
    for number, name in enumerate(instruction.operands):
        operand = computation.instructions.get(name)
        if operand is None:
            continue
        whole = _in_memory(operand.shapes)
        part = _read(inner, number) if inner else _directly_read(instruction, number)
        read += whole if part is None else min(whole, part)
    whole = _in_memory(instruction.shapes)
    part = _written(inner) if inner else _directly_written(computation, instruction)
    written = whole if part is None else min(whole, part)
    return read + written


def _in_memory(shapes: tuple[Shape, ...]) -> int:
    return sum(shape.bytes for shape in shapes if shape.space == 0)


def _copied(computation: Computation, instruction: Instruction) -> int:
    """An asynchronous copy (its result is the destination, the source, a flag) or slice."""
    operands = [computation.instructions[name] for name in instruction.operands]
    sources = tuple(shape for operand in operands for shape in operand.shapes)
    target = instruction.shapes[0 if instruction.opcode == "copy-start" else len(sources)]
    moved = target.bytes
    return moved * sum(end.space == 0 for end in (sources[0], target))


def _fused(module: Module, instruction: Instruction) -> Computation | None:
    if instruction.opcode != "fusion" or not instruction.called:
        return None
    return module.computations[instruction.called[0]]


def _read(inner: Computation, number: int) -> int | None:
    """Bytes that a fusion reads of an operand, where all that it takes are slices."""
    parameter = inner.parameters.get(number)
    if parameter is None:
        return None
    users = [i for i in inner.instructions.values() if parameter.name in i.operands]
    total = 0
    for user in users:
        if user.opcode in _SLICES and user.operands[0] == parameter.name:
            total += user.shapes[0].bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name:
            continue  # updated in place
        else:
            return None
    return total


def _written(inner: Computation) -> int | None:
    """Bytes that a fusion writes, where it updates a slice in place."""
    root = inner.root
    roots = [inner.instructions[n] for n in root.operands] if root.opcode == "tuple" else [root]
    if not any(i.opcode == "dynamic-update-slice" for i in roots):
        return None
    return sum(
        inner.instructions[i.operands[1]].shapes[0].bytes
        if i.opcode == "dynamic-update-slice"
        else sum(shape.bytes for shape in i.shapes)
        for i in roots
    )


def _directly_read(instruction: Instruction, number: int) -> int | None:
    if instruction.opcode in _SLICES and number == 0:
        return instruction.shapes[0].bytes
    if instruction.opcode == "dynamic-update-slice" and number == 0:
        return 0
    return None


def _directly_written(computation: Computation, instruction: Instruction) -> int | None:
    if instruction.opcode != "dynamic-update-slice":
        return None
    return computation.instructions[instruction.operands[1]].shapes[0].bytes
