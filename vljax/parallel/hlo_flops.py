"""FLOPs of matrix products and convolutions in a compiled program.

A multiply-add counts as two. Other operations (element-wise, reductions) are not counted: they run
on other units. `Compiled.cost_analysis()` counts the body of a loop once and is None on GPU.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from vljax.parallel.hlo import Computation, Instruction, Kernel, Module, Shape
from vljax.parallel.hlo_loops import Executions

_WINDOW = ("size", "stride", "pad", "lhs_dilate", "rhs_dilate")


def program_flops(module: Module, runs: Executions) -> int:
    """FLOPs of one execution of the program on one device, loops by their trip counts."""
    return sum(
        times * instruction_flops(module, module.computations[name], instruction)
        for name, times in runs.times.items()
        for instruction in module.computations[name].instructions.values()
    )


def computation_flops(module: Module, name: str) -> int:
    """FLOPs of one run of a computation, with those that it fuses or calls."""
    computation = module.computations[name]
    total = 0
    for instruction in computation.instructions.values():
        total += instruction_flops(module, computation, instruction)
        if instruction.opcode in ("fusion", "call"):
            total += sum(computation_flops(module, inner) for inner in instruction.called)
    return total


def instruction_flops(module: Module, computation: Computation, instruction: Instruction) -> int:
    """FLOPs of a dot, a convolution, a kernel or a product of a library; 0 for anything else."""
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
    """The kernel that an instruction calls; the compiler numbers the calls."""
    name = re.sub(r"(\.\d+|\.clone)+$", "", instruction.name)
    return name, tuple(shape.dims for shape in instruction.shapes)


def unknown_kernels(module: Module) -> list[str]:
    """Names of the kernels whose FLOPs are not known."""
    calls = (i for _, i in module.instructions() if i.target == PALLAS)
    kernels = dict.fromkeys(kernel_of(call) for call in calls)
    return list(dict.fromkeys(name for name, size in kernels if (name, size) not in module.kernels))


def _fused_attention(
    computation: Computation, instruction: Instruction, config: dict[str, Any]
) -> int:
    """Two products; five in the backward pass, which computes the logits again."""
    logits = config["intermediate_tensor_shape"]["dimensions"]
    head_dim = _operand(computation, instruction, 0).dims[-1]
    products = 5 if instruction.target.endswith("Backward") else 2
    return products * 2 * math.prod(int(size) for size in logits) * head_dim


def _convolution(computation: Computation, instruction: Instruction, out: Shape) -> int:
    """Multiply-adds whose input is neither padding nor a hole of dilation.

    It matters: on TPU, batched matrix products become convolutions over dilated batch dimensions.
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
    """`{size=1x12 pad=0_0x11_11}` as a list of numbers for each spatial dimension."""
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
    """Pairs of output and kernel position along one dimension that meet an input."""
    at = np.arange(outputs)[:, None] * stride[0] - pad[0]
    at = at + np.arange(kernel)[None] * rhs_dilate[0]
    inside = (at >= 0) & (at <= (inputs - 1) * lhs_dilate[0]) & (at % lhs_dilate[0] == 0)
    return int(inside.sum())
