"""Topologies of TPU slices and GPU nodes, to compile for them without the hardware.

`v5e:4x4` is a TPU slice, `v5e:4x4*2` two of them; `h100:8` is a GPU node, `h100:2x8` two of them.
Only `devices` imports JAX, because `quiet_environment` has to be called before that.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from vljax.analysis.accelerators import ACCELERATORS, Accelerator
from vljax.config import UserError, suggest

_TPU = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2, "tpu7x": 3}
"""Kind of TPU -> number of dimensions of a slice."""
_GPU = ("a100", "h100", "h200", "b200")
_PARTS = re.compile(r"(\w+):(\d+(?:x\d+)*)(?:\*(\d+))?")


@dataclass(frozen=True)
class Topology:
    """A set of devices of one kind, with the shape of their network."""

    name: str
    platform: str
    """tpu or gpu."""
    kind: str
    """An entry of ACCELERATORS."""
    shape: tuple[int, ...]
    """Chips of a slice along each dimension; on GPU, (nodes, GPUs per node)."""
    slices: int = 1
    """Number of TPU slices, joined by a data center network."""

    @property
    def accelerator(self) -> Accelerator:
        """Peak rates and memory of one device."""
        return ACCELERATORS[self.kind]


def topology(name: str) -> Topology:
    """The topology with a name such as `v5e:4x4*2` or `h100:2x8`.

    Raises:
      UserError: for an unknown kind or a malformed name.

    >>> topology("h100:2x8").shape
    (2, 8)
    """
    match = _PARTS.fullmatch(name)
    kind = match[1] if match else name.partition(":")[0]
    if kind not in ACCELERATORS:
        raise UserError(f"--topology: unknown accelerator {kind!r}{suggest(kind, ACCELERATORS)}")
    shape = tuple(int(size) for size in match[2].split("x")) if match else ()
    slices = int(match[3] or 1) if match else 1
    if kind in _GPU:
        if not 1 <= len(shape) <= 2 or slices != 1 or math.prod(shape) < 1:
            raise UserError(
                f"--topology: write {kind}:8 or {kind}:2x8 (nodes x GPUs), not {name!r}"
            )
        return Topology(name, "gpu", kind, (1, *shape)[-2:])
    if len(shape) != _TPU[kind] or slices < 1 or math.prod(shape) < 1:
        example = f"{kind}:{'x'.join(['4'] * _TPU[kind])}"
        raise UserError(f"--topology: write {example} or {example}*2 (two slices), not {name!r}")
    return Topology(name, "tpu", kind, shape, slices)


def quiet_environment(environment: MutableMapping[str, str]) -> None:
    """Sets variables that let libtpu compile without a TPU and without messages.

    Call it before JAX is imported.
    """
    environment["JAX_PLATFORMS"] = "cpu"
    environment["TPU_SKIP_MDS_QUERY"] = "1"  # do not query the metadata server
    environment["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # two compiles at the same time
    # Without a host libtpu prints warnings. Any host will do.
    environment["TPU_ACCELERATOR_TYPE"] = "v5litepod-4"
    environment["TPU_WORKER_HOSTNAMES"] = "localhost"
    environment["TPU_WORKER_ID"] = "0"
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def devices(topology: Topology) -> list[Any]:
    """Descriptions of the devices of a topology: programs can be compiled for them, but not run.

    Raises:
      UserError: if the platform's compiler is not installed, or does not know the topology.
    """
    _require_compiler(topology)
    from jax.errors import JaxRuntimeError
    from jax.experimental.topologies import get_topology_desc

    options: dict[str, Any]
    if topology.platform == "tpu":
        name, platform = f"{topology.kind}:{'x'.join(map(str, topology.shape))}", "tpu"
        options = {"num_slices": topology.slices} if topology.slices > 1 else {}
        if topology.kind == "v4":
            options["chip_config_name"] = "megacore"  # one device per chip, as on Cloud TPU
    else:
        nodes, gpus = topology.shape
        name, platform = "", "cuda"
        options = {"target_config": _gpu_description(topology.kind)}
        options["topology"] = f"{nodes}x1x{gpus}"  # slices, processes of each, devices of each
    try:
        return list(get_topology_desc(name, platform=platform, **options).devices)
    except JaxRuntimeError as error:
        reason = str(error).partition(": ")[2].splitlines()[0]
        raise UserError(f"--topology {topology.name}: {reason}") from None


def _require_compiler(topology: Topology) -> None:
    package, extra = {
        "tpu": ("libtpu", "tpu-aot"),
        "gpu": ("jax_plugins.xla_cuda12", "cuda"),
    }[topology.platform]
    try:
        found = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        needs = f"needs the compiler of that platform: pip install 'vljax[{extra}]'"
        raise UserError(f"--topology {topology.name}: {needs}")


def _gpu_description(kind: str) -> str:
    return (resources.files("vljax.analysis") / "gpu" / f"{kind}.txtpb").read_text()
