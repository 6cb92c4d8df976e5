"""What `vljax check` says of a recipe."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
from rich import box
from rich.console import Console
from rich.table import Table

from vljax import config
from vljax.parallel.mesh import slices
from vljax.parallel.placement import ParameterPlacement, bytes_per_device, parameter_placements
from vljax.report.placement import print_placement
from vljax.report.text import in_bytes, say
from vljax.run import Prepared

_STATE = {"params": "parameters", "average": "moving average", "optimizer": "optimizer state"}


def summarise(prepared: Prepared) -> dict[str, Any]:
    """What a checked run is, as data; `ready` says whether it could train as it stands."""
    run = prepared.run
    groups = {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part))
        for name, part in prepared.shapes.params.items()
    }
    unset = [path for path, value in config.paths(run) if value is None]
    return {
        "ready": not unset,
        "unset": unset,
        "parameters": {**groups, "total": sum(groups.values())},
        "platform": prepared.platform,
        "precision": run.precision.resolve(prepared.platform).compute,
        "mesh": dict(prepared.mesh.shape),
        "slices": slices(prepared.mesh.devices.flat),
        "steps": run.steps,
        "global_batch": run.global_batch,
        "examples": run.steps * run.global_batch,
        "image_lengths": run.data.image_lengths,
        "bytes_per_device": state_bytes(prepared),
        "placement": [dataclasses.asdict(row) for row in placed(prepared)],
        "notes": prepared.notes,
    }


def placed(prepared: Prepared) -> list[ParameterPlacement]:
    """Where every parameter of a run is."""
    params, axes = prepared.shapes.params, prepared.model.axes
    return parameter_placements(params, axes, prepared.mesh, prepared.run.mesh.fsdp_min_size)


def state_bytes(prepared: Prepared) -> dict[str, int]:
    """What each device holds of the training state, and the gradients, by kind, in bytes."""
    shapes, patterns = prepared.shapes, prepared.task.groups
    gradients = jax.tree.map(_with_sharding, shapes.params, prepared.task.updates)
    trained = [prepared.task.trained(pattern, gradients) for pattern in patterns]
    state = {
        _STATE.get(name, name): bytes_per_device(part)
        for name, part in shapes._asdict().items()
        if isinstance(part, dict) and part
    }
    return {**state, "gradients": bytes_per_device(trained)}


def _with_sharding(leaf: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def print_summary(spec: str, summary: dict[str, Any]) -> None:
    """The summary of a check on standard output."""
    mesh = " x ".join(f"{name} {size}" for name, size in summary["mesh"].items())
    over = f", {summary['slices']} slices" if summary["slices"] > 1 else ""
    rows = [(f"parameters, {name}", f"{n:,}") for name, n in summary["parameters"].items()]
    rows += [
        ("steps", f"{summary['steps']:,}"),
        ("global batch", f"{summary['global_batch']:,}"),
        ("examples seen", f"{summary['examples']:,}"),
        ("mesh", mesh + over),
        ("platform", f"{summary['platform']}, {summary['precision']}"),
    ]
    on_device = summary["bytes_per_device"].items()
    rows += [(f"on each device, {name}", in_bytes(n)) for name, n in on_device]
    table = Table(box=box.HORIZONTALS, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    console = Console()
    say(console, f"{spec}: valid")
    console.print(table)
    print_placement([ParameterPlacement(**row) for row in summary["placement"]], console)
    unset = {f"{path}: unset" for path in summary["unset"]}
    for note in summary["notes"]:
        if note not in unset:
            say(console, f"note: {note}")
    if unset:
        say(console, f"to train, set: {', '.join(f'--{path}' for path in summary['unset'])}")
