"""Where this process stands among the processes of a run: explicit, SLURM, TPU, or alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import jax

from vljax.config import UserError, setting

Kind = Literal["auto", "none", "tpu", "slurm", "explicit"]

_STEP = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


@dataclass(frozen=True)
class DistributedConfig:
    """How the processes of a run, usually one a host, find each other."""

    kind: Kind = setting("auto", identity=False)
    """auto: explicit where a coordinator is given, else SLURM or TPU as the environment says."""
    coordinator: str | None = setting(None, identity=False)
    """HOST:PORT that process 0 listens at; the port must be free there."""
    processes: int | None = setting(None, identity=False)
    """How many processes take part."""
    process: int | None = setting(None, identity=False)
    """The number of this one, from 0."""
    timeout_seconds: int = setting(300, identity=False)
    """How long to wait for the others at the start and before the first step."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.timeout_seconds < 1:
            yield "timeout_seconds", f"must be at least 1, not {self.timeout_seconds}"
        if self.processes is not None and self.processes < 1:
            yield "processes", f"must be at least 1, not {self.processes}"
        given = {name: getattr(self, name) for name in ("coordinator", "processes", "process")}
        named = [name for name, value in given.items() if value is not None]
        if self.kind not in ("auto", "explicit"):
            for name in named:
                yield name, f"kind {self.kind} finds this out itself; leave it unset"
        elif named or self.kind == "explicit":
            for name in given.keys() - named:
                yield name, f"unset; --distributed.{name} is needed where processes are explicit"
        if self.coordinator is not None:
            host, _, port = self.coordinator.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
                yield "coordinator", f"must be HOST:PORT, not {self.coordinator!r}"
        if self.process is not None and not 0 <= self.process < (self.processes or 2**31):
            known = "" if self.processes is None else f" and below processes ({self.processes})"
            yield "process", f"must be at least 0{known}, not {self.process}"


@dataclass(frozen=True)
class Place:
    """A process among the processes of a run."""

    coordinator: str
    """HOST:PORT of process 0."""
    processes: int
    process: int
    local_devices: tuple[int, ...] | None = None
    """Numbers of the accelerators of this machine to use; None for all of them."""


def locate(config: DistributedConfig) -> Place | None:
    """This process's place; None where it is alone.

    Raises:
      UserError: for settings that contradict each other, or a kind that is not there.
    """
    for name, message in config.problems():
        raise UserError(f"distributed.{name}: {message}")
    if config.coordinator is not None:
        assert config.processes is not None
        assert config.process is not None
        place: Place | None = Place(config.coordinator, config.processes, config.process)
    elif config.kind == "slurm" or (config.kind == "auto" and _in_slurm_step()):
        place = _slurm(config.timeout_seconds)
    elif config.kind == "tpu" or (config.kind == "auto" and _on_tpu()):
        place = _tpu(config.timeout_seconds)
    else:
        place = None
    return place if place is not None and place.processes > 1 else None


def _in_slurm_step() -> bool:
    """Whether `srun` started this process; a batch script itself has no list of nodes."""
    return all(name in os.environ for name in _STEP)


def _on_tpu() -> bool:
    # JAX looks for the chips on the PCI bus, so a laptop with libtpu installed never gets to asking
    # the metadata server, which would hang there.
    from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm

    chosen: str | None = jax.config.jax_platforms  # type: ignore[attr-defined]
    return running_in_cloud_tpu_vm and (not chosen or "tpu" in chosen)


def _slurm(timeout: int) -> Place:
    if not _in_slurm_step():
        missing = next(name for name in _STEP if name not in os.environ)
        raise UserError(f"distributed.kind: slurm, but {missing} is unset; start with srun")
    place = _detected("slurm", timeout)
    # JAX gives each task of SLURM one device. One task a node is meant to use them all.
    alone = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0] == "1"
    return Place(place.coordinator, place.processes, place.process) if alone else place


def _tpu(timeout: int) -> Place:
    if not _on_tpu():
        raise UserError("distributed.kind: tpu, but this machine has no TPU; leave it at auto")
    named = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
    kubernetes = any(name in os.environ for name in named)
    return _detected("gketpu" if kubernetes else "gcetpu", timeout)


def _detected(method: str, timeout: int) -> Place:
    """What JAX finds out by one of its methods."""
    from jax._src.clusters import ClusterEnv

    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, method, timeout
        )
    except Exception as error:  # of whatever kind the metadata or their absence cause
        raise UserError(
            f"distributed.kind: cannot find the other processes ({error}); set coordinator,"
            " processes and process, or kind none for a process alone"
        ) from error
    coordinator, processes, process, local = found
    if coordinator is None or processes is None or process is None:
        return Place("", 1, 0)
    return Place(coordinator, processes, process, None if local is None else tuple(local))
