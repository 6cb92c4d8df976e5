"""The device mesh: axes `data`, `fsdp` and `tensor`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
from jax.sharding import AxisType, Mesh

from vljax.config import UserError, setting

AXES = ("data", "fsdp", "tensor")


@dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged; one of the sizes may be -1: what is left."""

    data: int = setting(-1, identity=False)
    """Copies of the model, each with its part of the batch."""
    fsdp: int = setting(1, identity=False)
    """Parts that parameters are split into along `embed`; the batch is split as well."""
    tensor: int = setting(1, identity=False)
    """Parts that heads, MLP and vocabulary are split into."""

    def problems(self) -> Iterator[tuple[str, str]]:
        sizes = {name: getattr(self, name) for name in AXES}
        for name, size in sizes.items():
            if size < 1 and size != -1:
                yield name, f"must be at least 1, or -1 for the rest, not {size}"
        rest = [name for name, size in sizes.items() if size == -1]
        if len(rest) > 1:
            yield rest[1], f"only one axis can be -1, and {rest[0]} is"


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over all devices (or the given ones).

    Raises:
      UserError: if the sizes don't multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(config, name) for name in AXES]
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % fixed == 0:
        sizes[sizes.index(-1)] = len(devices) // fixed
    if -1 in sizes or math.prod(sizes) != len(devices):
        asked = " x ".join(f"{name} {size}" for name, size in zip(AXES, sizes, strict=True))
        raise UserError(f"mesh: {asked} does not fit {len(devices)} device(s)")
    return jax.make_mesh(
        tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices
    )


def check_batch(mesh: Mesh, global_batch: int, field: str = "global_batch") -> None:
    """Raises UserError if the mesh cannot split a batch of that size evenly."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if global_batch < 1 or global_batch % parts:
        near = max(parts, round(global_batch / parts) * parts)
        split = f"data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}"
        raise UserError(f"{field}: the mesh ({split}) cannot split {global_batch}; {near} would do")
