"""The device mesh: axes `data`, `fsdp` and `tensor`, within slices and across them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from vljax.config import UserError, setting

AXES = ("data", "fsdp", "tensor")


@dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged; one of the sizes may be -1: what is left."""

    data: int = setting(-1, identity=False)
    """Copies of the model, each with its part of the batch."""
    fsdp: int = setting(1, identity=False)
    """Parts that large parameters are split into; the batch is split as well."""
    tensor: int = setting(1, identity=False)
    """Parts that heads, MLP and vocabulary are split into."""
    dcn_fsdp: int = setting(1, identity=False)
    """Slices (of a TPU pod; on GPU: nodes) that `fsdp` reaches across; `data` takes the others."""
    fsdp_min_size: int = setting(2**16, identity=False)
    """Elements, of one layer, below which an array is split by neither fsdp nor data."""

    shard_updates: bool = setting(True, identity=False)
    """Whether `data` splits optimizer state and update: less memory, and no work done twice."""

    def problems(self) -> Iterator[tuple[str, str]]:
        sizes = {name: getattr(self, name) for name in AXES}
        for name, size in sizes.items():
            if size < 1 and size != -1:
                yield name, f"must be at least 1, or -1 for the rest, not {size}"
        rest = [name for name, size in sizes.items() if size == -1]
        if len(rest) > 1:
            yield rest[1], f"only one axis can be -1, and {rest[0]} is"
        if self.dcn_fsdp < 1:
            yield "dcn_fsdp", f"must be at least 1, not {self.dcn_fsdp}"
        if self.fsdp_min_size < 0:
            yield "fsdp_min_size", f"must be at least 0, not {self.fsdp_min_size}"


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over all devices (or the given ones).

    Raises:
      UserError: if the sizes don't multiply to the number of devices, or don't fit the slices.
    """
    here = devices is None
    devices = jax.devices() if devices is None else devices
    arranged = arrange(config, devices, here)
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arrange(config: MeshConfig, devices: Sequence[Any], here: bool = True) -> np.ndarray:
    """Devices in the shape (data, fsdp, tensor), neighbours in the network beside each other.

    `tensor`, which communicates most, is given the best-connected devices, then `fsdp`. A slice is
    what a fast network joins: a TPU slice (ICI), or the GPUs of a node (NVLink); JAX tells them
    apart by `slice_index`. Blocks of the mesh stay within one; see `dcn_fsdp`.

    Args:
      config: the sizes.
      devices: anything with the attributes of `jax.Device`.
      here: whether they are those of this machine, for messages.

    Raises:
      UserError: as `make_mesh`.
    """
    sizes = _sizes(config, len(devices), here)
    members = _members(devices)
    across = _across(config, sizes, members)
    within = [size // parts for size, parts in zip(sizes, across, strict=True)]
    # A dimension of the network is shared by two axes only where no other arrangement exists.
    if len(members) == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return mesh_utils.create_hybrid_device_mesh(
        within, across, devices, allow_split_physical_axes=True
    )


def slices(devices: Iterable[Any]) -> int:
    """The number of slices (on GPU: nodes) that devices belong to."""
    return len(_members(devices))


def _members(devices: Iterable[Any]) -> Counter[int]:
    """The number of devices in each slice."""
    return Counter(getattr(device, "slice_index", 0) for device in devices)


def _sizes(config: MeshConfig, count: int, here: bool) -> list[int]:
    """The sizes of the axes, with the rest put in place of -1."""
    sizes = [getattr(config, name) for name in AXES]
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and count % fixed == 0:
        sizes[sizes.index(-1)] = count // fixed
    if -1 in sizes or math.prod(sizes) != count:
        asked = " x ".join(f"{name} {size}" for name, size in zip(AXES, sizes, strict=True))
        split = sizes[1] * sizes[2]
        rest = split > 0 and count % split == 0
        remedy = "--mesh.data -1 takes the rest" if rest else f"the product must be {count}"
        other = "; for another machine: vljax compile RECIPE --topology" if here else ""
        raise UserError(f"mesh: {asked} does not fit {count} device(s); {remedy}{other}")
    return sizes


def _across(config: MeshConfig, sizes: Sequence[int], members: Counter[int]) -> list[int]:
    """For each axis, over how many slices it reaches."""
    count, fsdp = len(members), config.dcn_fsdp
    if len(set(members.values())) > 1:
        counts = ", ".join(str(count) for _, count in sorted(members.items()))
        raise UserError(
            f"mesh: slices (or nodes) of unequal size ({counts} devices); use equal ones"
        )
    if count % fsdp or sizes[1] % fsdp:
        both = f"fsdp {sizes[1]} and the {count} slice(s) or node(s)"
        raise UserError(f"mesh.dcn_fsdp: {fsdp} must divide {both}; 1 would do")
    data = count // fsdp
    if sizes[0] % data:
        raise UserError(_crossing(sizes, count, next(iter(members.values()))))
    return [data, fsdp, 1]


def _crossing(sizes: Sequence[int], count: int, members: int) -> str:
    """Why axes of these sizes cannot be laid over slices, and the changes that would do."""
    data, fsdp, tensor = sizes
    here = f"data {data} x fsdp {fsdp} x tensor {tensor}"
    problem = f"mesh: {here} does not fit {count} slices (or nodes) of {members} devices"
    if members % tensor:
        return f"{problem}: tensor must divide {members}"
    inside = math.gcd(fsdp, members // tensor)
    within = f"--mesh.data -1 --mesh.fsdp {inside} splits parameters within a slice"
    across = f"--mesh.dcn_fsdp {count // math.gcd(data, count)} across slices"
    return f"{problem}: {within}, {across}"


def check_batch(mesh: Mesh, global_batch: int, field: str = "global_batch", parts: int = 1) -> None:
    """Raises UserError if the mesh cannot split each part of a batch of that size evenly."""
    pieces = mesh.shape["data"] * mesh.shape["fsdp"] * parts
    if global_batch < 1 or global_batch % pieces:
        near = max(pieces, round(global_batch / pieces) * pieces)
        split = f"data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}"
        what = f"the mesh ({split})" + (f" and accumulate {parts}" if parts > 1 else "")
        raise UserError(f"{field}: {what} cannot split {global_batch}; {near} would do")
