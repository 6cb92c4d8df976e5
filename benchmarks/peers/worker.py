"""A process that runs workloads on request, so that several processes can take turns.

For each request it reads a line of JSON from standard input and writes a line of JSON to standard
output. Everything else that a workload prints goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

Workloads = Mapping[str, Callable[[], None]]
"""Name -> a function that returns once its results are computed."""


@dataclass(frozen=True)
class Spec:
    """The task of all peers: CLIP with a ViT-B and the text tower of table 19 of its paper."""

    patch_size: int
    batch: int
    activation: str
    """gelu, as open_clip's ViT-B-32; quick_gelu, as OpenAI's."""
    image_size: int = 224
    context: int = 77
    vocab: int = 49_408

    @property
    def name(self) -> str:
        """The name in tables."""
        return f"ViT-B/{self.patch_size}, batch {self.batch}, {self.activation}"


def serve(make: Callable[[Any], Workloads], kind: type = Spec) -> None:
    """Answers requests until standard input ends; `make` gets the task, an instance of `kind`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", type=json.loads, required=True)
    spec = kind(**parser.parse_args().spec)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    begin = time.perf_counter()
    workloads = make(spec)
    made = time.perf_counter() - begin
    print(json.dumps({"workloads": list(workloads), "seconds": made}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        workload, seconds = workloads[request["workload"]], []
        for _ in range(request["runs"]):
            begin = time.perf_counter()
            workload()
            seconds.append(time.perf_counter() - begin)
        print(json.dumps({"seconds": seconds}), file=answers)


class Worker:
    """Starts a peer process and sends it requests."""

    def __init__(self, module: str, spec: Any, python: str = sys.executable) -> None:
        command = [python, "-m", f"benchmarks.peers.{module}", "--spec", json.dumps(asdict(spec))]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.module = module
        self.workloads: list[str] = self._answer()["workloads"]

    def seconds(self, workload: str, runs: int = 1) -> list[float]:
        """The seconds of each of `runs` runs of a workload."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"workload": workload, "runs": runs}) + "\n")
        self.process.stdin.flush()
        seconds: list[float] = self._answer()["seconds"]
        return seconds

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.module} ended with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer
