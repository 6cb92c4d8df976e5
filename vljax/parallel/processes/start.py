"""Start of a run of several processes: find each other, check each other, connect.

`connect` does it in three steps. `locate` finds the coordinator's address, the number of processes
and the index of this one. `startup_barrier` checks that all processes have come and that they run
the same recipe. Then JAX connects them.

`jax.distributed.initialize` finds the processes of a cluster too, but it connects in the same call.
If one process does not come, it aborts all others ("Terminating process because the JAX distributed
service detected fatal errors", SIGABRT, jax 0.10.2) and does not name the missing one. The barrier
does, and it has to know the coordinator and the number of processes before anything connects. JAX
has no public function for that, so the detection for SLURM and TPU is repeated here, from the same
variables and metadata; `tests/parallel/processes/test_locate.py` compares the results with JAX's.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Literal

import jax

from vljax.config import UserError, setting
from vljax.parallel.processes import failure

Kind = Literal["auto", "none", "tpu", "slurm", "explicit"]
Facts = Mapping[str, str]

HOUR = 3600.0


@dataclass(frozen=True)
class DistributedConfig:
    """How the processes of a run, usually one a host, find each other.

    >>> config = DistributedConfig(coordinator="10.0.0.1:1234", processes=4, process=3)
    >>> locate(config)
    ClusterInfo(coordinator='10.0.0.1:1234', process_count=4, process_index=3, local_devices=None)
    """

    kind: Kind = setting("auto", identity=False)
    """auto: explicit if a coordinator is given, else SLURM or TPU if the environment shows one."""
    coordinator: str | None = setting(None, identity=False)
    """HOST:PORT that process 0 listens at; the port must be free there."""
    processes: int | None = setting(None, identity=False)
    """Number of processes."""
    process: int | None = setting(None, identity=False)
    """Index of this process, from 0."""
    timeout_seconds: int = setting(300, identity=False)
    """How long to wait for the other processes at the start and before the first step."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.timeout_seconds < 1:
            yield "timeout_seconds", f"must be at least 1, not {self.timeout_seconds}"
        if self.processes is not None and self.processes < 1:
            yield "processes", f"must be at least 1, not {self.processes}"
        explicit = {name: getattr(self, name) for name in ("coordinator", "processes", "process")}
        named = [name for name, value in explicit.items() if value is not None]
        if self.kind not in ("auto", "explicit"):
            for name in named:
                yield name, f"kind {self.kind} finds this out itself; leave it unset"
        elif named or self.kind == "explicit":
            for name in explicit.keys() - named:
                yield name, f"unset; --distributed.{name} is needed where processes are explicit"
        if self.coordinator is not None:
            host, _, port = self.coordinator.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
                yield "coordinator", f"must be HOST:PORT, not {self.coordinator!r}"
        if self.process is not None and not 0 <= self.process < (self.processes or 2**31):
            known = "" if self.processes is None else f" and below processes ({self.processes})"
            yield "process", f"must be at least 0{known}, not {self.process}"


@dataclass
class World:
    """The processes of this run; one process until `connect` has found more."""

    process_index: int = 0
    process_count: int = 1
    client: Any = None
    """JAX's client of the coordination service; None if this process runs alone."""
    timeout_seconds: float = HOUR


WORLD = World()


def connect(config: DistributedConfig, facts: Callable[[], Facts]) -> None:
    """Connects the processes of a run; call it once, before anything asks JAX for its devices.

    Args:
      config: how they find each other.
      facts: returns name -> value of what must be the same in all processes, such as fields of the
        recipe; not called if this process runs alone.

    Raises:
      UserError: in all processes, if some do not come in time or the facts differ.
    """
    if WORLD.client is not None or (info := locate(config)) is None:
        return
    startup_barrier(info, facts(), config.timeout_seconds)
    # JAX's preemption service would replace the SIGTERM handler of `training.interrupt`.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        info.coordinator,
        info.process_count,
        info.process_index,
        None if info.local_devices is None else list(info.local_devices),
        cluster_detection_method="deactivate",
        initialization_timeout=config.timeout_seconds,
    )
    # The key-value store of the coordination service has no public handle in jax 0.10.2; Orbax
    # reads it from here too.
    from jax._src.distributed import global_state

    WORLD.process_index, WORLD.process_count = info.process_index, info.process_count
    WORLD.client, WORLD.timeout_seconds = global_state.client, float(config.timeout_seconds)
    WORLD.client.key_value_set(host_key(info.process_index), socket.gethostname())
    failure.watch(WORLD.client, info.process_index)


def process_index() -> int:
    """The index of this process; unlike `jax.process_index`, it initializes no device."""
    return WORLD.process_index


def is_first() -> bool:
    """Whether this is process 0, which writes the files and the log."""
    return WORLD.process_index == 0


def host_key(index: int) -> str:
    """The key under which a process stores its host name."""
    return f"vljax/host/{index}"


# --- Detection: coordinator, number of processes, index ---


@dataclass(frozen=True)
class ClusterInfo:
    """The position of this process in the cluster."""

    coordinator: str
    """HOST:PORT of process 0."""
    process_count: int
    process_index: int
    local_devices: tuple[int, ...] | None = None
    """Indices of the accelerators of this host to use; None for all."""


def locate(config: DistributedConfig) -> ClusterInfo | None:
    """The position of this process in its cluster; None if it runs alone.

    Raises:
      UserError: for settings that contradict each other, or a kind of cluster that is not found.
    """
    for name, message in config.problems():
        raise UserError(f"distributed.{name}: {message}")
    info: ClusterInfo | None = None
    if config.coordinator is not None:
        assert config.processes is not None
        assert config.process is not None
        info = ClusterInfo(config.coordinator, config.processes, config.process)
    elif config.kind == "slurm" or (config.kind == "auto" and not _missing_from_slurm_step()):
        info = _slurm()
    elif config.kind == "tpu" or (config.kind == "auto" and _on_tpu()):
        info = _tpu()
    return info if info is not None and info.process_count > 1 else None


def _missing_from_slurm_step() -> list[str]:
    """Variables that `srun` sets and this process lacks; a batch script has no list of nodes."""
    wanted = ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID")
    return [name for part in wanted if (name := f"SLURM_{part}") not in os.environ]


def _slurm() -> ClusterInfo:
    for name in _missing_from_slurm_step():
        raise UserError(f"distributed.kind: slurm, but {name} is unset; start with srun")
    env = os.environ
    # The first host of a list such as `node[07-08,12],other`.
    first = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", env["SLURM_STEP_NODELIST"])
    assert first is not None
    host = first[1] + (first[2] or "")
    # A port that two jobs on one host rarely share; the same as JAX chooses.
    port = env.get("JAX_COORDINATOR_PORT", str(int(env["SLURM_JOB_ID"]) % 2**12 + 2**16 - 2**12))
    # With several tasks a node, each has one device. A single task uses all of the node's.
    single = env.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0] == "1"
    devices = None if single else (int(env["SLURM_LOCALID"]),)
    return ClusterInfo(
        f"{host}:{port}", int(env["SLURM_NTASKS"]), int(env["SLURM_PROCID"]), devices
    )


def _on_tpu() -> bool:
    # Importing JAX sets `jax_platforms` to "tpu,cpu" if it finds chips on the PCI bus and the user
    # has chosen no platforms. So a laptop with libtpu never waits for the metadata server.
    platforms: str | None = jax.config.jax_platforms  # type: ignore[attr-defined]
    return "tpu" in (platforms or "")


def _tpu() -> ClusterInfo | None:
    """From the variables that GKE sets, or from the metadata server of a TPU VM."""
    if not _on_tpu():
        raise UserError("distributed.kind: tpu, but this machine has no TPU; leave it at auto")
    env = os.environ
    hosts = env.get("TPU_PROCESS_ADDRESSES", env.get("TPU_WORKER_HOSTNAMES"))
    try:
        if hosts is not None:
            index: str | None = env["TPU_WORKER_ID"]
        elif "TPU_SKIP_MDS_QUERY" in env:  # JAX sets it if there are no chips
            return None
        else:
            index, hosts = _metadata("agent-worker-number"), _metadata("worker-network-endpoints")
        if index is None or hosts is None:
            return None
        workers = hosts.split(",")
        # A worker is HOST, HOST:PORT or NAME:ID:IP.
        first = workers[0].split(":")
        host = first[2] if len(first) == 3 else first[0]
        # Several slices, joined by a data center network (Megascale).
        host = _slice_value("MEGASCALE_COORDINATOR_ADDRESS") or host
        slices = int(_slice_value("MEGASCALE_NUM_SLICES") or 1)
        slice_index = int(_slice_value("MEGASCALE_SLICE_ID") or 0)
        port = env.get("JAX_COORDINATOR_PORT", "8482")
        return ClusterInfo(
            f"{host.split(':')[0]}:{port}",
            slices * len(workers),
            slice_index * len(workers) + int(index),
        )
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"distributed.kind: cannot find the other processes ({error}); set coordinator,"
            " processes and process, or kind none for a process alone"
        ) from error


def _slice_value(name: str) -> str | None:
    """A value of the environment, or else of the TPU VM's metadata, a list of `NAME: 'value'`."""
    if name in os.environ:
        return os.environ[name]
    values = dict(re.findall(r"^(\w+): *'?(.*?)'?$", _metadata("tpu-env") or "", re.MULTILINE))
    return values.get(name)


def _metadata(name: str) -> str | None:
    """An attribute of this VM; None if the metadata server does not have it."""
    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{server}/computeMetadata/v1/instance/attributes/{name}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    for _ in range(6):  # the server may come up later than this process
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text: str = answer.read().decode()
                return text
        except urllib.error.HTTPError:
            time.sleep(0.5)
    return None


# --- Startup barrier: process 0 listens at the coordinator's port before JAX does ---
#
# The other processes send it a line of JSON each, and it answers all with the problem it found.

_RETRY_SECONDS = 0.2
_LINE_SECONDS = 5.0
_LINE_BYTES = 2**24


def startup_barrier(info: ClusterInfo, facts: Facts, seconds: float) -> None:
    """Returns once all processes have come with the same facts.

    Args:
      info: the position of this process.
      facts: name -> value of what must be the same in all processes.
      seconds: how long to wait for the others.

    Raises:
      UserError: the same in all processes that have come, if some have not, if two have the same
        index, or if their facts differ.
    """
    report = {
        "process": info.process_index,
        "processes": info.process_count,
        "host": socket.gethostname(),
        "facts": facts,
    }
    meet = _collect_reports if info.process_index == 0 else _send_report
    if problem := meet(info, report, seconds):
        raise UserError(problem)


def _collect_reports(info: ClusterInfo, report: dict[str, Any], seconds: float) -> str:
    """In process 0: waits for the other processes, and tells them the problem, or "" if none."""
    deadline = time.monotonic() + seconds
    reports = [report]
    with ExitStack() as stack:
        server = stack.enter_context(_listen(info.coordinator))
        connections = []
        while len(reports) < info.process_count and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            # Strangers may connect to the port: port scanners, health checks.
            with suppress(OSError, ValueError):
                connection = stack.enter_context(server.accept()[0])
                reports.append(_checked(_receive(connection, _LINE_SECONDS)))
                connections.append(connection)
        problem = _problem(info, reports, seconds)
        for connection in connections:
            with suppress(OSError):
                _send(connection, {"problem": problem})
                # The side that closes first keeps the port in TIME_WAIT, and JAX needs it next. So
                # wait for the other side to close.
                connection.recv(1)
    return problem


def _send_report(info: ClusterInfo, report: dict[str, Any], seconds: float) -> str:
    """In another process: reports to process 0 and returns its answer."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection = socket.create_connection(_address(info.coordinator), _LINE_SECONDS)
        except OSError as error:
            if time.monotonic() < deadline:
                time.sleep(_RETRY_SECONDS)
                continue
            return (
                f"distributed.coordinator: no answer from {info.coordinator} within {seconds:g} s"
                f" ({error.strerror or error}); is process 0 running there?"
            )
        break
    with connection:
        try:
            _send(connection, report)
            # Process 0 may have started later than this process; it waits `seconds` from then.
            return str(_receive(connection, seconds + _LINE_SECONDS)["problem"])
        except (OSError, ValueError):
            return f"process 0 at {info.coordinator} ended at the start; its output says why"


def _problem(info: ClusterInfo, reports: list[dict[str, Any]], seconds: float) -> str:
    """The first problem among the processes that have come; "" if there is none."""
    first, *others = reports
    hosts = {0: first["host"]}
    for report in others:
        index, host = report["process"], report["host"]
        who = f"process {index} ({host})"
        if report["processes"] != info.process_count:
            return (
                f"distributed.processes: {report['processes']} in {who},"
                f" {info.process_count} in process 0; start all with the same number"
            )
        if index in hosts or not 0 < index < info.process_count:
            return f"distributed.process: {index} on both {hosts.get(index)} and {host}"
        hosts[index] = host
        expected, facts = first["facts"], report["facts"]
        for name in sorted(expected.keys() | facts.keys()):
            if expected.get(name) != facts.get(name):
                values = f"{facts.get(name)} in {who}, {expected.get(name)} in process 0"
                return f"{name}: {values}; start all processes with the same recipe and versions"
    missing = [str(i) for i in range(info.process_count) if i not in hosts]
    if not missing:
        return ""
    named = f"process{'es' * (len(missing) > 1)} {', '.join(missing)} of {info.process_count}"
    return f"{named} did not come to {info.coordinator} within {seconds:g} s; is it running?"


def _listen(coordinator: str) -> socket.socket:
    port = _address(coordinator)[1]
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=1024)
    except OSError as error:
        raise UserError(
            f"distributed.coordinator: cannot listen at port {port} ({error.strerror}); choose"
            " another port"
        ) from error


def _address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    return host.strip("[]"), int(port)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket, seconds: float) -> Any:
    """A line of JSON. Raises OSError or ValueError."""
    connection.settimeout(seconds)
    with connection.makefile("rb") as lines:
        return json.loads(lines.readline(_LINE_BYTES))


def _checked(report: Any) -> dict[str, Any]:
    """A report as `startup_barrier` makes it. Raises ValueError for anything else."""
    wanted = {"process": int, "processes": int, "host": str, "facts": dict}
    if not isinstance(report, dict) or not all(
        isinstance(report.get(name), kind) for name, kind in wanted.items()
    ):
        raise ValueError("not a report of a process")
    return dict(report)
