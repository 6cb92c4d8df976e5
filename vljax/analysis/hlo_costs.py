"""Costs of a compiled program by its HLO: FLOPs, bytes of main memory, collectives.

JAX's own `Compiled.cost_analysis()` counts the body of a loop once, does not know Pallas kernels,
and is None on GPU; so the counts are made here, from the parsed text (`vljax.analysis.hlo`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh

from vljax.analysis.hlo import (
    Computation,
    Executions,
    Groups,
    Instruction,
    Kernel,
    Module,
    Shape,
    crossed_axes,
    groups,
)

# --- FLOPs of matrix products and convolutions ---
#
# A multiply-add counts as two. Element-wise operations and reductions do not count: they run on
# other units.

_WINDOW = ("size", "stride", "pad", "lhs_dilate", "rhs_dilate")


def program_flops(module: Module, runs: Executions) -> int:
    """FLOPs of one execution of the program on one device; loops count by their trips."""
    return sum(
        times * instruction_flops(module, module.computations[name], instruction)
        for name, times in runs.times.items()
        for instruction in module.computations[name].instructions.values()
    )


def computation_flops(module: Module, name: str) -> int:
    """FLOPs of one run of a computation, including the computations that it calls."""
    computation = module.computations[name]
    total = 0
    for instruction in computation.instructions.values():
        total += instruction_flops(module, computation, instruction)
        if instruction.opcode in ("fusion", "call"):
            total += sum(computation_flops(module, inner) for inner in instruction.called)
    return total


def instruction_flops(module: Module, computation: Computation, instruction: Instruction) -> int:
    """FLOPs of a dot, a convolution, a Pallas kernel or a cuBLAS or cuDNN call; else 0."""
    if instruction.opcode not in ("dot", "convolution", "custom-call"):
        return 0
    if instruction.opcode == "dot":
        return _dot(_operand(computation, instruction, 0), instruction)
    if instruction.opcode == "convolution":
        return _convolution(computation, instruction, instruction.shapes[0])
    return _custom_call(module, computation, instruction)


def _operand(computation: Computation, instruction: Instruction, i: int) -> Shape:
    return computation.instructions[instruction.operands[i]].shapes[0]


def _numbers(text: str | None) -> list[int]:
    return [int(number) for number in re.findall(r"-?\d+", text or "")]


def _dot(left: Shape, instruction: Instruction) -> int:
    contracted = _numbers(instruction.attribute("lhs_contracting_dims"))
    return 2 * instruction.shapes[0].size * math.prod(left.dims[i] for i in contracted)


def _custom_call(module: Module, computation: Computation, instruction: Instruction) -> int:
    config = instruction.backend_config
    gemm = config.get("gemm_backend_config", config)
    if "dot_dimension_numbers" in gemm:  # cuBLAS
        left = _operand(computation, instruction, 0)
        contracted = gemm["dot_dimension_numbers"].get("lhs_contracting_dimensions", [])
        reduced = math.prod(left.dims[int(i)] for i in contracted)
        return 2 * instruction.shapes[0].size * reduced
    if "cudnn_fmha_backend_config" in config:
        return _fused_attention(computation, instruction, config["cudnn_fmha_backend_config"])
    if "conv" in instruction.target and instruction.attribute("dim_labels"):  # cuDNN
        return _convolution(computation, instruction, instruction.shapes[0])
    if instruction.target == PALLAS:
        return module.kernels.get(kernel_of(instruction), 0)
    return 0


PALLAS = "tpu_custom_call"


def kernel_of(instruction: Instruction) -> Kernel:
    """The kernel that an instruction calls, without the number that the compiler appends."""
    name = re.sub(r"(\.\d+|\.clone)+$", "", instruction.name)
    return name, tuple(shape.dims for shape in instruction.shapes)


def unknown_kernels(module: Module) -> list[str]:
    """Names of the Pallas kernels without known FLOPs."""
    calls = (i for _, i in module.instructions() if i.target == PALLAS)
    kernels = dict.fromkeys(kernel_of(call) for call in calls)
    return list(dict.fromkeys(name for name, size in kernels if (name, size) not in module.kernels))


def _fused_attention(
    computation: Computation, instruction: Instruction, config: dict[str, Any]
) -> int:
    """Two products forward; five backward, which computes the logits again."""
    logits = config["intermediate_tensor_shape"]["dimensions"]
    head_dim = _operand(computation, instruction, 0).dims[-1]
    products = 5 if instruction.target.endswith("Backward") else 2
    return products * 2 * math.prod(int(size) for size in logits) * head_dim


def _convolution(computation: Computation, instruction: Instruction, out: Shape) -> int:
    """FLOPs of a convolution without those on padding and on the zeros of dilation.

    On TPU, batched matrix products become convolutions over dilated batch dimensions, so counting
    those zeros would be far off.
    """
    left, right = (_operand(computation, instruction, i) for i in range(2))
    labels = instruction.attribute("dim_labels") or ""
    left_labels, right_labels, out_labels = re.split("_|->", labels)
    window = _window(instruction)
    spatial = sorted(set(out_labels) - {"b", "f"}, key=int)
    positions = [
        _valid_positions(
            left.dims[left_labels.index(label)],
            right.dims[right_labels.index(label)],
            out.dims[out_labels.index(label)],
            *(window[name][i] if name in window else default for name, default in _DEFAULTS),
        )
        for i, label in enumerate(spatial)
    ]
    features = left.dims[left_labels.index("f")] // _count(instruction, "feature_group_count")
    batch = left.dims[left_labels.index("b")] // _count(instruction, "batch_group_count")
    return 2 * features * out.dims[out_labels.index("f")] * batch * math.prod(positions)


_DEFAULTS = (("stride", (1,)), ("pad", (0, 0)), ("lhs_dilate", (1,)), ("rhs_dilate", (1,)))


def _count(instruction: Instruction, name: str) -> int:
    return int(instruction.attribute(name) or 1)


def _window(instruction: Instruction) -> dict[str, list[tuple[int, ...]]]:
    """`{size=1x12 pad=0_0x11_11}` as name -> a tuple of numbers per spatial dimension."""
    entries = (part.partition("=") for part in (instruction.attribute("window") or "").split())
    return {
        name: [tuple(_numbers(item.replace("_", " "))) for item in value.split("x")]
        for name, _, value in entries
        if name in _WINDOW
    }


def _valid_positions(
    inputs: int,
    kernel: int,
    outputs: int,
    stride: tuple[int, ...],
    pad: tuple[int, ...],
    lhs_dilate: tuple[int, ...],
    rhs_dilate: tuple[int, ...],
) -> int:
    """The number of (output, kernel) positions along one dimension that read an input."""
    at = np.arange(outputs)[:, None] * stride[0] - pad[0]
    at = at + np.arange(kernel)[None] * rhs_dilate[0]
    inside = (at >= 0) & (at <= (inputs - 1) * lhs_dilate[0]) & (at % lhs_dilate[0] == 0)
    return int(inside.sum())


# --- Bytes of main memory read and written ---

_BOOKKEEPING = frozenset(
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
"""Custom calls that are notes to the compiler and run no code."""

_SLICES = ("dynamic-slice", "slice", "gather")


def is_free(instruction: Instruction) -> bool:
    """Whether an instruction takes no time: bookkeeping, or the end of an asynchronous one."""
    if instruction.opcode in _BOOKKEEPING or instruction.opcode.endswith(("-done", "-update")):
        return True
    return instruction.opcode == "custom-call" and instruction.target in _NO_CODE


def memory_bytes(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Bytes that one run of an instruction reads from and writes to main memory.

    Arrays in on-chip memory do not count. If an instruction reads only a slice of an operand, or
    writes only a slice of the result, the slice counts.
    """
    if is_free(instruction):
        return 0
    if instruction.opcode in ("copy-start", "slice-start"):
        return _copied(computation, instruction)
    if instruction.opcode.endswith("-start"):  # a collective; the forms of its results differ
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
    """Bytes of an asynchronous copy or slice; a copy's result is (target, source, flag)."""
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
    """Bytes that a fusion reads of an operand if it takes slices of it only, else None."""
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
    """Bytes that a fusion writes if it updates a slice in place, else None."""
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


# --- Collectives: kind, bytes, mesh axes, runs ---

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
    "ragged-all-to-all",
    "collective-broadcast",
)


@dataclass(frozen=True)
class Collective:
    """A collective instruction."""

    kind: str
    name: str
    computation: str
    axes: tuple[str, ...]
    """The mesh axes that it crosses."""
    groups: Groups
    bytes: int
    """Bytes of the operands on each device; for an all-gather, of the result."""
    times: int
    """How often it runs in one execution of the program."""
    overlapped: bool
    """Whether it runs asynchronously."""

    @property
    def group_size(self) -> int:
        """The number of devices in the largest group."""
        return max(len(group) for group in self.groups)

    @property
    def sent_bytes(self) -> float:
        """The bytes that each device has to send at least, as ring algorithms do.

        An all-reduce is a reduce-scatter and an all-gather (Patarasuk & Yuan 2009).
        """
        if self.kind in ("collective-permute", "collective-broadcast"):
            return float(self.bytes)
        passes = 2 if self.kind == "all-reduce" else 1
        return passes * self.bytes * (self.group_size - 1) / self.group_size


def collectives(module: Module, runs: Executions, mesh: Mesh) -> list[Collective]:
    """All collectives between more than one device that run.

    On TPU, a collective that is spread over several fusions appears in each of them with the same
    channel; it counts once.
    """
    found = []
    channels: set[str] = set()
    overlapping = _overlapping(module)
    for name, times in runs.times.items():
        computation = module.computations[name]
        for instruction in computation.instructions.values():
            kind = _kind(computation, instruction)
            if kind is None:
                continue
            # See the docstring: one collective in several fusions.
            spread = bool(instruction.backend_config.get("async_collective_fusion_config"))
            channel = f"{kind} {instruction.attribute('channel_id')}"
            if spread and channel in channels:
                continue
            if spread:
                channels.add(channel)
            members = groups(instruction, mesh.size)
            axes = crossed_axes(members, mesh)
            overlapped = spread or name in overlapping or instruction.opcode.endswith("-start")
            if axes:
                size = _bytes(computation, instruction, kind, max(map(len, members)))
                item = (kind, instruction.name, name, axes, members, size, times, overlapped)
                found.append(Collective(*item))
    return found


def _kind(computation: Computation, instruction: Instruction) -> str | None:
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    # On TPU: a fusion of an all-reduce and a slice, which is a reduce-scatter.
    if kind == "all-reduce" and "all-reduce-scatter" in computation.name:
        return "reduce-scatter"
    return kind


def _overlapping(module: Module) -> set[str]:
    """Names of the computations that an `async-start` runs."""
    starts = (i for _, i in module.instructions() if i.opcode == "async-start")
    return {name for start in starts for name in start.called}


def _bytes(computation: Computation, instruction: Instruction, kind: str, members: int) -> int:
    total = 0
    for operand in instruction.operands:
        total += sum(shape.bytes for shape in computation.instructions[operand].shapes)
    return total * members if kind == "all-gather" else total


def summarise(found: list[Collective]) -> list[dict[str, Any]]:
    """One row for each kind and set of mesh axes: runs and bytes per step and device."""
    rows = []
    for kind, axes in sorted({(c.kind, c.axes) for c in found}):
        members = [c for c in found if (c.kind, c.axes) == (kind, axes)]
        row = {
            "kind": kind,
            "axes": list(axes),
            "count": sum(c.times for c in members),
            "bytes": sum(c.times * c.bytes for c in members),
            "sent_bytes": round(sum(c.times * c.sent_bytes for c in members)),
            "overlapped_bytes": sum(c.times * c.bytes for c in members if c.overlapped),
        }
        rows.append(row)
    return rows
