"""Predicted time of a compiled program: a model of its schedule and one of the interconnect.

The time of a step on one device is the sum over all instructions that run:
  - with an estimate of the TPU compiler (`estimated_cycles`): cycles / clock;
  - without one (custom calls such as Pallas kernels, scatters, everything on GPU): its roofline
    time, the larger of FLOPs / peak and bytes / bandwidth of the main memory;
  - a collective or an asynchronous copy: bytes / bandwidth, minus the time of the instructions that
    the schedule puts between its start and its end.
Latencies, contention for memory and links, and the work of the hosts are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vljax.analysis.accelerators import Accelerator
from vljax.analysis.hlo import Computation, Executions, Instruction, Module
from vljax.analysis.hlo_costs import (
    Collective,
    computation_flops,
    instruction_flops,
    is_free,
    memory_bytes,
)


@dataclass
class Cost:
    """The cost of a part of a program on one device."""

    cycles: int = 0
    """Sum of the compiler's estimates."""
    uncosted_seconds: float = 0.0
    """Roofline time of instructions without an estimate."""
    uncosted_flops: int = 0
    """FLOPs of instructions without an estimate."""
    exposed_seconds: float = 0.0
    """Time of collectives that no computation overlaps."""
    copy_seconds: float = 0.0
    """Time of asynchronous copies that no computation overlaps."""
    memory_bytes: int = 0
    """Bytes of main memory read and written."""

    def add(self, other: Cost, times: int) -> None:
        """Adds `times` times another cost."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + times * getattr(other, name))

    def seconds(self, clock: float | None) -> float:
        """The predicted time; `clock` in cycles/s."""
        computed = self.cycles / clock if clock else 0.0
        return computed + self.uncosted_seconds + self.exposed_seconds + self.copy_seconds


def program_cost(
    module: Module,
    runs: Executions,
    found: list[Collective],
    accelerator: Accelerator,
    seconds: Callable[[Collective], float],
) -> Cost:
    """The cost of one execution of a program.

    Args:
      module: the program.
      runs: how often each computation runs.
      found: its collectives.
      accelerator: peak rates of a device.
      seconds: the time of a collective, from `collective_seconds`.
    """
    by_name = {(c.computation, c.name): seconds(c) for c in found}
    inside: dict[str, float] = {}
    for collective in found:
        inside[collective.computation] = inside.get(collective.computation, 0.0) + seconds(
            collective
        )
    total = Cost()
    for name in runs.scheduled:
        schedule = _Schedule(module, module.computations[name], accelerator, by_name, inside)
        total.add(schedule.cost(), runs.times[name])
    return total


@dataclass
class _Schedule:
    """The instructions of a computation, in the order in which a device starts them."""

    module: Module
    computation: Computation
    accelerator: Accelerator
    collectives: dict[tuple[str, str], float]
    """(computation, instruction) -> seconds."""
    inside: dict[str, float]
    """Fused or asynchronous computation -> seconds of the collectives in it."""
    total: Cost = field(default_factory=Cost)
    elapsed: float = 0.0
    """Seconds of computation so far."""
    started: dict[str, tuple[float, float, bool]] = field(default_factory=dict)
    """Running asynchronously: start time, duration, whether it is a collective."""
    spread: tuple[float, float] | None = None
    """A collective that is spread over fusions: start time, duration."""

    def cost(self) -> Cost:
        for instruction in self.computation.instructions.values():
            self._step(instruction)
        # Operations without an end in this computation end with it.
        for name in list(self.started):
            self._finish(name)
        self._finish_spread()
        return self.total

    def _step(self, instruction: Instruction) -> None:
        # An asynchronous operation is passed on under the name of its last `-update`.
        if instruction.opcode.endswith("-update") and instruction.operands[0] in self.started:
            self.started[instruction.name] = self.started.pop(instruction.operands[0])
            return
        if instruction.opcode.endswith("-done"):
            self._finish(instruction.operands[0] if instruction.operands else "")
            return
        if instruction.target == "AsyncCollectiveDone":
            self._finish_spread()
        if is_free(instruction):
            return
        size = memory_bytes(self.module, self.computation, instruction)
        self.total.memory_bytes += size
        key = (self.computation.name, instruction.name)
        within = sum(self.inside.get(name, 0.0) for name in instruction.called)
        if instruction.opcode.endswith("-start"):
            is_collective = key in self.collectives or within > 0
            takes = self.collectives.get(key, 0.0) + within
            takes = takes if is_collective else size / self.accelerator.memory_bandwidth
            self.started[instruction.name] = (self.elapsed, takes, is_collective)
            return
        if key in self.collectives:
            self.total.exposed_seconds += self.collectives[key]
            return
        if within > 0:
            # The TPU compiler spreads a collective over several fusions. It ends at the custom call
            # `AsyncCollectiveDone`.
            since, takes = self.spread or (self.elapsed, 0.0)
            self.spread = (since, takes + within)
        self._compute(instruction, size)

    def _compute(self, instruction: Instruction, size: int) -> None:
        cycles = estimated_cycles(instruction)
        if cycles is not None and self.accelerator.clock:
            self.total.cycles += cycles
            self.elapsed += cycles / self.accelerator.clock
            return
        # Without an estimate an instruction must not be free: Pallas kernels have none.
        flops = instruction_flops(self.module, self.computation, instruction)
        if instruction.opcode == "fusion":
            flops += sum(computation_flops(self.module, name) for name in instruction.called)
        limits = (flops / self.accelerator.peak_flops, size / self.accelerator.memory_bandwidth)
        self.total.uncosted_flops += flops
        self.total.uncosted_seconds += max(limits)
        self.elapsed += max(limits)

    def _finish(self, name: str) -> None:
        since, takes, is_collective = self.started.pop(name, (0.0, 0.0, False))
        exposed = max(0.0, takes - (self.elapsed - since))
        if is_collective:
            self.total.exposed_seconds += exposed
        else:
            self.total.copy_seconds += exposed

    def _finish_spread(self) -> None:
        if self.spread is not None:
            since, takes = self.spread
            self.total.exposed_seconds += max(0.0, takes - (self.elapsed - since))
            self.spread = None


def estimated_cycles(instruction: Instruction) -> int | None:
    """The TPU compiler's estimate for an instruction; None if it has none."""
    config = instruction.backend_config.get("window_config", {})
    return int(config["estimated_cycles"]) if "estimated_cycles" in config else None


# --- Interconnect: the least time of a collective, by the links that it can use ---


def collective_seconds(
    devices: Sequence[Any], accelerator: Accelerator
) -> Callable[[Collective], float]:
    """A function from a collective to its roofline time in seconds.

    A TPU uses its links along those dimensions of the torus in which its group extends, in both
    directions. A GPU uses all its NVLinks within a node. Between slices or nodes, a device uses its
    share of the network. This is a lower bound: it ignores rings that do not close and groups that
    share a link.

    Args:
      devices: in the order of the mesh.
      accelerator: peak rates of a device.
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
    """Bytes/s out of a device; infinite if the bandwidth of the network is not known.

    For `shared` kinds, all devices of a slice or node send a part of the data for the next one.
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
    """The index of the device's TPU slice, or of its GPU node (one process each)."""
    name = "process_index" if device.platform == "gpu" else "slice_index"
    return int(getattr(device, name, 0) or 0)


def _dimensions(members: Sequence[Any]) -> int:
    """The number of torus dimensions in which the devices differ; at least 1."""
    if not isinstance(getattr(members[0], "coords", None), list | tuple):
        return 1
    coordinates = np.array([device.coords for device in members])
    if members[0].platform != "tpu":
        return 1
    return max(1, int((coordinates != coordinates[0]).any(axis=0).sum()))
