"""How long collectives take at best, by the links that they can use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vljax.parallel.accelerators import Accelerator
from vljax.parallel.hlo_collectives import Collective


def collective_seconds(
    devices: Sequence[Any], accelerator: Accelerator
) -> Callable[[Collective], float]:
    """A function from a collective to its roofline time; `devices` are in the order of the mesh.

    Within a slice each device can use its links along the dimensions of the torus in which its
    group extends, in both directions; between GPUs of a node all NVLinks. Between slices or nodes,
    every device its share of the network. Rings without a link around, and several groups on one
    link, are not looked at: it is a lower limit.
    """
    known: dict[Any, float] = {}

    def seconds(collective: Collective) -> float:
        shared = collective.kind in _SHARED
        key = collective.groups, shared
        if key not in known:
            known[key] = _bandwidth(devices, collective.groups, accelerator, shared)
        return collective.sent_bytes / known[key]

    return seconds


_SHARED = ("all-reduce", "all-gather", "reduce-scatter")


def _bandwidth(
    devices: Sequence[Any],
    groups: Sequence[Sequence[int]],
    accelerator: Accelerator,
    shared: bool,
) -> float:
    """Bytes/s out of a device; infinite where the network's share is not known.

    Where the work is `shared`, all devices of a slice or node carry what goes to the next one.
    """
    slowest = float("inf")
    for group in groups:
        members = [devices[i] for i in group]
        parts = len({_neighbourhood(device) for device in members})
        if parts > 1:
            limit = accelerator.network_bandwidth or float("inf")
            limit *= (len(members) - 1) / (parts - 1) if shared else 1
        else:
            links = accelerator.links_per_dimension * _dimensions(members)
            limit = accelerator.link_bandwidth * links
        slowest = min(slowest, limit)
    return slowest


def _neighbourhood(device: Any) -> int:
    """What a fast network joins: a TPU slice; the GPUs of a node, which has one process here."""
    name = "process_index" if device.platform == "gpu" else "slice_index"
    return int(getattr(device, name, 0) or 0)


def _dimensions(members: Sequence[Any]) -> int:
    """Dimensions of the torus in which devices differ; at least one."""
    if not isinstance(getattr(members[0], "coords", None), list | tuple):
        return 1
    coordinates = np.array([device.coords for device in members])
    if members[0].platform != "tpu":
        return 1
    return max(1, int((coordinates != coordinates[0]).any(axis=0).sum()))
