"""Runs of several real processes on this machine, with four CPU devices in total."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEVICES = 4
_GLOO = (
    r"(\[Gloo\] Rank |\d+| is connected to | peer ranks\. "
    r"|Expected number of connected peer ranks is : )+"
)


def news(text):
    """The lines that the program itself wrote.

    The CPU collectives print their connections to standard output, in pieces and from several
    threads: lines may be empty, or mix pieces of several messages.
    """
    return [line for line in text.splitlines() if line and not re.fullmatch(_GLOO, line)]


class Group:
    """Several processes of one run."""

    def __init__(self, count, args, environment, folder, members=None):
        self.folder = folder
        self.members = list(range(count)) if members is None else members
        with socket.socket() as free:
            free.bind(("", 0))
            self.coordinator = f"localhost:{free.getsockname()[1]}"
        environment = {**environment, "JAX_NUM_CPU_DEVICES": str(DEVICES // count)}
        self.processes = {}
        for i in self.members:
            place = {"coordinator": self.coordinator, "processes": count, "process": i}
            flags = [f"--distributed.{name}={value}" for name, value in place.items()]
            with open(folder / f"out{i}", "w") as out, open(folder / f"err{i}", "w") as err:
                command = [sys.executable, *map(str, args(i) if callable(args) else args)]
                self.processes[i] = subprocess.Popen(
                    command + (flags if count > 1 else []),
                    cwd=ROOT,
                    env=environment,
                    stdout=out,
                    stderr=err,
                )

    def wait(self, seconds=300):
        """Exit statuses, standard outputs and standard errors in the order of the processes."""
        try:
            statuses = [p.wait(seconds) for p in self.processes.values()]
        finally:
            for process in self.processes.values():
                process.kill()
        return statuses, self.texts("out"), self.texts("err")

    def texts(self, name):
        return [(self.folder / f"{name}{i}").read_text() for i in self.members]


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Environment variables; all processes and tests share a compilation cache."""
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    return {
        **{
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("JAX_", "XLA_", "PYTHONDONTWRITEBYTECODE", "SLURM_"))
        },
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "COLUMNS": "200",
    }


@pytest.fixture(scope="session")
def start(environment, tmp_path_factory):
    """A function that starts `count` processes `python ARGS`; `args` may depend on the index."""
    groups = []

    def run(count, args, members=None):
        groups.append(Group(count, args, environment, tmp_path_factory.mktemp("group"), members))
        return groups[-1]

    yield run
    for group in groups:
        for process in group.processes.values():
            process.kill()


@pytest.fixture(scope="session")
def run(start):
    """A function that starts processes and waits; all must exit with status 0."""

    def call(count, args):
        statuses, out, err = start(count, args).wait()
        assert statuses == [0] * count, err
        return out, err

    return call
