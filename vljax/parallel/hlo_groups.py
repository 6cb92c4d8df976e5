"""Which devices a collective joins, in every form that XLA prints."""

from __future__ import annotations

import functools
import math
import re

import numpy as np
from jax.sharding import Mesh

from vljax.parallel.hlo import Instruction

Groups = tuple[tuple[int, ...], ...]
"""Positions of devices in the mesh (row-major), group by group."""

_LISTED = re.compile(r"replica_groups=(\{\{.*?\}\}|\{\})")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=(\{\{.*?\}\}|\{\})")
_REFERENCE = re.compile(r"'?([\w.\-]+)'?(?::\((\d+)\)(\d+))?")


def groups(instruction: Instruction, devices: int) -> Groups:
    """The groups of a collective; the pairs of a permutation.

    Raises:
      ValueError: for a form that is not known.
    """
    return _groups(instruction.attributes.partition(", metadata=")[0], devices)


@functools.cache
def _groups(text: str, devices: int) -> Groups:
    if match := _PAIRS.search(text) or _LISTED.search(text):
        listed = tuple(
            tuple(int(i) for i in group.split(","))
            for group in re.findall(r"\{([\d,]+)\}", match[1])
        )
        return listed or (tuple(range(devices)),)
    if match := _IOTA.search(text):
        return _rows(_iota(match[2], match[3]).reshape(_ints(match[1])))
    if match := _MESH.search(text):
        return _mesh(*match.groups())
    raise ValueError(f"no known form of replica groups: {text[:200]}")


def _ints(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _rows(array: np.ndarray) -> Groups:
    return tuple(tuple(int(i) for i in row) for row in array)


def _iota(dims: str, permutation: str | None) -> np.ndarray:
    """`[4,2]T(1,0)`: counting numbers in that shape, transposed."""
    ids = np.arange(math.prod(_ints(dims))).reshape(_ints(dims))
    return ids.transpose(_ints(permutation)) if permutation else ids


def _mesh(axes: str, device_ids: str | None, crossed: str) -> Groups:
    """`mesh['a'=4,'b'=2] {'b'}`: devices that differ in axis b only; `'a':(2)2` is a part of a."""
    sizes = {name.strip(" '"): int(size) for name, size in (a.split("=") for a in axes.split(","))}
    ids = _device_ids(device_ids, math.prod(sizes.values())).reshape(tuple(sizes.values()))
    parts: list[tuple[str, int]] = list(sizes.items())
    wanted: list[str] = []
    for name, before, size in _REFERENCE.findall(crossed):
        if not size:
            wanted.append(name)
            continue
        place = [part for part, _ in parts].index(name)
        rest = parts[place][1] // (int(before) * int(size))
        split = [(f"{name}<", int(before)), (f"{name}=", int(size)), (name, rest)]
        parts[place : place + 1] = split
        wanted.append(f"{name}=")
    ids = ids.reshape([size for _, size in parts])
    chosen = [[part for part, _ in parts].index(name) for name in wanted]
    others = [i for i in range(len(parts)) if i not in chosen]
    members = math.prod(parts[i][1] for i in chosen)
    return _rows(ids.transpose(others + chosen).reshape(-1, members))


def _device_ids(text: str | None, count: int) -> np.ndarray:
    if text is None:
        return np.arange(count)
    if match := re.fullmatch(r"(?:\[[\d,]+\])?(?:<=)?\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        return _iota(match[1], match[2]).reshape(-1)
    return np.array([int(number) for number in re.findall(r"\d+", text)])


def crossed_axes(members: Groups, mesh: Mesh) -> tuple[str, ...]:
    """The mesh axes along which devices of one group differ."""
    shape = tuple(mesh.shape.values())
    differs = np.zeros(len(shape), bool)
    for group in members:
        coordinates = np.stack(np.unravel_index(np.array(group), shape))
        differs |= (coordinates != coordinates[:, :1]).any(axis=1)
    return tuple(name for name, crossed in zip(mesh.shape, differs, strict=True) if crossed)
