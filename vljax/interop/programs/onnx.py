"""Folders of ONNX graphs: see `functions.py`; the weights are in a shared safetensors file.

jax2onnx exports a function whose weights are arguments, so that no weight has to be in memory. The
arguments are then turned into external data that points into the safetensors file.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vljax.config import UserError
from vljax.interop import plain
from vljax.interop.export_plan import ExportIssues, ExportPlan, TrainedModel
from vljax.interop.exported import WEIGHTS
from vljax.interop.files.safetensors import SHARD_BYTES, Progress, write_folder
from vljax.interop.files.tensors import FLOATS, Lazy
from vljax.interop.formats import Format
from vljax.interop.programs import folder
from vljax.interop.programs.functions import ProgramFunction, program_functions
from vljax.models.compute import Compute
from vljax.models.kernels.attention.reference import cpu_attention
from vljax.models.kernels.choose import Kernels

OPSET = 21

Location = tuple[str, int, int]
"""File, offset in bytes, length in bytes."""


def _write(trained: TrainedModel, issues: ExportIssues) -> ExportPlan:
    with issues.part("data"):
        folder.check(trained, issues)
    compute = Compute(jnp.float32, kernels=Kernels(attention=cpu_attention))
    functions = program_functions(trained, issues, compute, FLOATS[trained.dtype])

    def write(out: Path, tensors: Mapping[str, Lazy], progress: Progress) -> list[Path]:
        graphs = {f"{each.name}.onnx": _graph(each) for each in functions}
        described = {
            each.name: {**folder.described(each, f"{each.name}.onnx"), "opset": OPSET}
            for each in functions
        }
        files = write_folder(out, WEIGHTS, tensors, progress, SHARD_BYTES)
        locations = {name: at for file in files for name, at in _locations(file).items()}
        for name, graph in graphs.items():
            _point_to(graph, locations)
            (out / name).write_bytes(graph.SerializeToString())
        folder.finish(out, trained, "onnx", described, files)
        return files

    rules = plain.rules([*trained.parameters, *trained.statistics])
    return ExportPlan(rules, {}, write)


def _graph(function: ProgramFunction) -> Any:
    """The graph of a program. Its arguments are the inputs, then the weights."""
    try:
        from jax2onnx import to_onnx
    except ImportError as error:
        raise UserError(
            f"--format onnx: {error}; pip install 'vljax[onnx]', and then"
            " pip install --no-deps jax2onnx==0.17.1, which would otherwise ask for an older"
            " orbax-checkpoint"
        ) from error
    (batch,) = jax.export.symbolic_shape("batch")
    inputs, weights = function.batch(batch), dict(function.weights)

    def flat(*arrays: Array) -> Array:
        batch_arrays, weight_arrays = arrays[: len(inputs)], arrays[len(inputs) :]
        return function(
            dict(zip(weights, weight_arrays, strict=True)),
            dict(zip(inputs, batch_arrays, strict=True)),
        )

    # jax2onnx warns about types on every export; a user cannot act on these warnings.
    logger = logging.getLogger("onnx_ir.serde")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return to_onnx(
                flat,
                [*inputs.values(), *weights.values()],
                model_name=function.name,
                opset=OPSET,
                input_names=[*inputs, *weights],
                output_names=[function.output_name],
            )
    except NotImplementedError as error:
        raise UserError(
            f"--format onnx: jax2onnx cannot express the program {function.name!r}: {error}; use"
            " --format stablehlo"
        ) from error
    finally:
        logger.setLevel(level)


def _locations(file: Path) -> dict[str, Location]:
    """The location of each tensor in a safetensors file."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    spans = {name: entry["data_offsets"] for name, entry in header.items()}
    return {name: (file.name, 8 + length + a, b - a) for name, (a, b) in spans.items()}


def _point_to(graph: Any, locations: Mapping[str, Location]) -> None:
    """Turns the arguments that are weights into external data."""
    import onnx

    kept: list[Any] = []
    used = set(_used_names(graph.graph))
    for argument in graph.graph.input:
        if argument.name not in locations:
            kept.append(argument)
            continue
        if argument.name not in used:
            continue  # onnxruntime would warn of each unused tensor
        kind = argument.type.tensor_type
        tensor = onnx.TensorProto(
            name=argument.name,
            data_type=kind.elem_type,
            dims=[axis.dim_value for axis in kind.shape.dim],
            data_location=onnx.TensorProto.EXTERNAL,
        )
        for key, value in zip(
            ("location", "offset", "length"), locations[argument.name], strict=True
        ):
            tensor.external_data.add(key=key, value=str(value))
        graph.graph.initializer.append(tensor)
    _replace(graph.graph.input, kept)


def _used_names(graph: Any) -> Iterator[str]:
    """The names of a graph's outputs and of its nodes' inputs, including nested graphs."""
    yield from (output.name for output in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _used_names(inner)


def _replace(field: Any, values: Sequence[Any]) -> None:
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)


FORMAT = Format("a folder of ONNX graphs", lambda path: False, None, _write, stores_statistics=True)
