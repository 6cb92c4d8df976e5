"""The collectives of a compiled program: kind, bytes, mesh axes, how often each runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from vljax.parallel.hlo import Computation, Instruction, Module
from vljax.parallel.hlo_groups import Groups, crossed_axes, groups
from vljax.parallel.hlo_loops import Executions

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
    """A collective of the program, as it runs once."""

    kind: str
    name: str
    computation: str
    axes: tuple[str, ...]
    """The mesh axes that it crosses."""
    groups: Groups
    bytes: int
    """On each device: of the operands; of the result for an all-gather."""
    times: int
    """Runs in one execution of the program."""
    overlapped: bool
    """Whether the program goes on while it runs."""

    @property
    def group_size(self) -> int:
        """Devices that take part together."""
        return max(len(group) for group in self.groups)

    @property
    def sent_bytes(self) -> float:
        """What each device has to send, at least: the ring algorithms' count.

        An all-reduce is a reduce-scatter and an all-gather (Patarasuk & Yuan 2009).
        """
        if self.kind in ("collective-permute", "collective-broadcast"):
            return float(self.bytes)
        passes = 2 if self.kind == "all-reduce" else 1
        return passes * self.bytes * (self.group_size - 1) / self.group_size


def collectives(module: Module, runs: Executions, mesh: Mesh) -> list[Collective]:
    """Every collective that runs and joins more than one device.

    On TPU a collective that is spread over several fusions stands in each of them, with one
    channel: it counts once.
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
    # TPU: a fused all-reduce of which each device keeps its slice.
    if kind == "all-reduce" and "all-reduce-scatter" in computation.name:
        return "reduce-scatter"
    return kind


def _overlapping(module: Module) -> set[str]:
    """The computations that an `async-start` runs."""
    starts = (i for _, i in module.instructions() if i.opcode == "async-start")
    return {name for start in starts for name in start.called}


def _bytes(computation: Computation, instruction: Instruction, kind: str, members: int) -> int:
    total = 0
    for operand in instruction.operands:
        total += sum(shape.bytes for shape in computation.instructions[operand].shapes)
    return total * members if kind == "all-gather" else total


def summarise(found: list[Collective]) -> list[dict[str, Any]]:
    """One row for each kind and set of mesh axes: runs and bytes per step and device."""
    return list(_rows(found))


def _rows(found: list[Collective]) -> Iterator[dict[str, Any]]:
    keys = dict.fromkeys((c.kind, c.axes) for c in found)
    for kind, axes in sorted(keys):
        members = [c for c in found if (c.kind, c.axes) == (kind, axes)]
        yield {
            "kind": kind,
            "axes": list(axes),
            "count": sum(c.times for c in members),
            "bytes": sum(c.times * c.bytes for c in members),
            "sent_bytes": round(sum(c.times * c.sent_bytes for c in members)),
            "overlapped_bytes": sum(c.times * c.bytes for c in members if c.overlapped),
        }
