"""The device mesh: axes `data`, `fsdp` and `tensor`, within slices and across them."""

from __future__ import annotations

import math
import os
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
    """Sizes of the mesh axes. One of them may be -1: as many as the devices allow.

    >>> mesh = make_mesh(MeshConfig(data=-1, fsdp=1, tensor=1))
    >>> mesh.shape["data"] == jax.device_count()
    True
    """

    data: int = setting(-1, identity=False)
    """Replicas of the model, each with its part of the batch."""
    fsdp: int = setting(1, identity=False)
    """Parts that large parameters are split into; it splits the batch as well."""
    tensor: int = setting(1, identity=False)
    """Parts that attention heads, MLP and vocabulary are split into."""
    dcn_fsdp: int = setting(1, identity=False)
    """Slices (on GPU: nodes) that `fsdp` extends over; `data` extends over the others."""
    fsdp_min_size: int = setting(2**16, identity=False)
    """Elements of one layer below which neither `fsdp` nor `data` splits an array."""
    shard_updates: bool = setting(True, identity=False)
    """Whether `data` splits the optimizer state and the update: saves memory and work."""

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


def find_devices(*, local: bool = False) -> list[jax.Device]:
    """The devices of all processes, or those of this one.

    Raises:
      UserError: if `JAX_PLATFORMS` names a platform that is not there.
    """
    try:
        return list(jax.local_devices() if local else jax.devices())
    # jax 0.10 raises a RuntimeError, or an AssertionError if a platform has no plugin.
    except Exception as error:
        asked = os.environ.get("JAX_PLATFORMS")
        reason = " ".join(str(error).split())
        if not asked:
            raise UserError(f"JAX finds no device ({reason})") from error
        reason = f" ({reason})" if reason else ""
        raise UserError(
            f"JAX_PLATFORMS={asked}: JAX finds no such device{reason}; unset it, or set it to cpu"
        ) from error


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of all devices, or of the given ones.

    Raises:
      UserError: if the sizes don't multiply to the number of devices, or don't fit the slices.
    """
    local = devices is None
    devices = find_devices() if devices is None else devices
    arranged = arrange(config, devices, local)
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arrange(config: MeshConfig, devices: Sequence[Any], local: bool = True) -> np.ndarray:
    """Devices in an array of shape (data, fsdp, tensor), with network neighbours adjacent.

    `tensor` communicates most and gets the best-connected devices, then `fsdp`. A slice is a set of
    devices with a fast network: a TPU slice (ICI), or the GPUs of a node (NVLink). The
    `slice_index` of a device names its slice. `tensor` stays within a slice, and so does `fsdp`
    unless `dcn_fsdp` is set.

    Args:
      config: the sizes.
      devices: anything with the attributes of `jax.Device`.
      local: whether these are the devices of this machine, for error messages.

    Raises:
      UserError: as `make_mesh`.
    """
    sizes = _sizes(config, len(devices), local)
    slice_sizes = _slice_sizes(devices)
    across = _across(config, sizes, slice_sizes)
    within = [size // parts for size, parts in zip(sizes, across, strict=True)]
    # Two mesh axes share a dimension of the network only if no other arrangement exists.
    if len(slice_sizes) == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return mesh_utils.create_hybrid_device_mesh(
        within, across, devices, allow_split_physical_axes=True
    )


def slices(devices: Iterable[Any]) -> int:
    """The number of slices (on GPU: nodes) that the devices belong to."""
    return len(_slice_sizes(devices))


def _slice_sizes(devices: Iterable[Any]) -> Counter[int]:
    """The number of devices in each slice."""
    return Counter(getattr(device, "slice_index", 0) for device in devices)


def _sizes(config: MeshConfig, count: int, local: bool) -> list[int]:
    """The sizes of the axes, with -1 replaced."""
    sizes = [getattr(config, name) for name in AXES]
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and count % fixed == 0:
        sizes[sizes.index(-1)] = count // fixed
    if -1 in sizes or math.prod(sizes) != count:
        asked = " x ".join(f"{name} {size}" for name, size in zip(AXES, sizes, strict=True))
        split = sizes[1] * sizes[2]
        rest = split > 0 and count % split == 0
        remedy = "--mesh.data -1 takes the rest" if rest else f"the product must be {count}"
        other = "; for another machine: vljax compile RECIPE --topology" if local else ""
        raise UserError(f"mesh: {asked} does not fit {count} device(s); {remedy}{other}")
    return sizes


def _across(config: MeshConfig, sizes: Sequence[int], slice_sizes: Counter[int]) -> list[int]:
    """For each axis, the number of slices that it extends over."""
    count, fsdp = len(slice_sizes), config.dcn_fsdp
    if len(set(slice_sizes.values())) > 1:
        counts = ", ".join(str(size) for _, size in sorted(slice_sizes.items()))
        raise UserError(
            f"mesh: slices (or nodes) of unequal size ({counts} devices); use equal ones"
        )
    if count % fsdp or sizes[1] % fsdp:
        both = f"fsdp {sizes[1]} and the {count} slice(s) or node(s)"
        raise UserError(f"mesh.dcn_fsdp: {fsdp} must divide {both}; 1 would do")
    data = count // fsdp
    if sizes[0] % data:
        raise UserError(_slice_problem(sizes, count, next(iter(slice_sizes.values()))))
    return [data, fsdp, 1]


def _slice_problem(sizes: Sequence[int], count: int, slice_size: int) -> str:
    """Why axes of these sizes do not fit the slices, and the changes that would."""
    data, fsdp, tensor = sizes
    asked = f"data {data} x fsdp {fsdp} x tensor {tensor}"
    problem = f"mesh: {asked} does not fit {count} slices (or nodes) of {slice_size} devices"
    if slice_size % tensor:
        return f"{problem}: tensor must divide {slice_size}"
    inside = math.gcd(fsdp, slice_size // tensor)
    within = f"--mesh.data -1 --mesh.fsdp {inside} splits parameters within a slice"
    across = f"--mesh.dcn_fsdp {count // math.gcd(data, count)} across slices"
    return f"{problem}: {within}, {across}"


def check_batch(mesh: Mesh, global_batch: int, field: str = "global_batch", parts: int = 1) -> None:
    """Raises UserError if the mesh cannot split each of `parts` parts of the batch evenly."""
    pieces = mesh.shape["data"] * mesh.shape["fsdp"] * parts
    if global_batch < 1 or global_batch % pieces:
        near = max(pieces, round(global_batch / pieces) * pieces)
        split = f"data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}"
        what = f"the mesh ({split})" + (f" and accumulate {parts}" if parts > 1 else "")
        raise UserError(f"{field}: {what} cannot split {global_batch}; {near} would do")
