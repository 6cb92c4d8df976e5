"""Checks, in all processes together: the number of devices, the workdir, a sum over all devices.

python tpu_scripts/worker/preflight.py --devices N --workdir DIR [--distributed.FIELD VALUE ...]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vljax.config import UserError
from vljax.parallel.processes.failure import report_failure
from vljax.parallel.processes.start import DistributedConfig, connect


@dataclass(frozen=True)
class Preflight:
    """What the processes have to find."""

    devices: int
    """Number of devices of all processes together."""
    workdir: str
    """Storage that all processes share."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """As for a training run."""


def check(expected: Preflight) -> str:
    """A line with the devices found. Raises UserError if a run would fail."""
    found = jax.device_count()
    if found != expected.devices:
        raise UserError(
            f"--devices {expected.devices}: there are {found}, {jax.local_device_count()} on this"
            f" worker, {jax.process_count()} processes"
        )
    _write(expected.workdir)
    total = _sum_over_devices()
    if total != found * (found + 1) // 2:
        raise UserError(f"the sum of 1 to {found} over the devices came out as {total}")
    return f"{found} devices of {jax.process_count()} processes: {jax.devices()[0].device_kind}"


def _write(workdir: str) -> None:
    """Raises UserError if this process cannot write to the workdir and read what it wrote."""
    file = epath.Path(workdir) / f"preflight-{jax.process_index()}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("written")
        written = file.read_text() == "written"
        file.unlink()
    except Exception as error:  # each kind of storage raises its own errors
        raise UserError(f"--workdir {workdir}: {error}") from None
    if not written:
        raise UserError(f"--workdir {workdir}: what was written is not what was read")


def _sum_over_devices() -> int:
    """The sum of 1 to the number of devices, one term per device, by a collective over all."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    numbers = np.arange(1, jax.device_count() + 1)
    spread = jax.make_array_from_callback(
        numbers.shape, NamedSharding(mesh, PartitionSpec("data")), lambda index: numbers[index]
    )
    total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))(spread)
    return int(total)


def main() -> int:
    """Prints the devices found; returns 2 if a check fails."""
    expected = tyro.cli(Preflight)
    facts = {"devices": str(expected.devices), "workdir": expected.workdir}
    try:
        connect(expected.distributed, lambda: facts)
        print(check(expected))
    except UserError as error:
        report_failure(error)
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
