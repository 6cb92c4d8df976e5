"""The quickstart over several seeds: quality, time and memory, as README states them.

    python benchmarks/quickstart.py [--seeds 0 1 2] [--json PATH] [--RECIPE_FIELD VALUE ...]
    python benchmarks/quickstart.py --recipe configs/lit_real_towers.py

Every run has its own process, a new workdir and no compilation cache. `--recipe` takes any
recipe whose evaluators are the quickstart's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
RECALL = "retrieval/builtin/test/text_to_image/recall@10"
SHOWN = (
    RECALL,
    f"{RECALL}_chance",
    "retrieval/builtin/test/image_to_text/recall@10",
    "retrieval/builtin/test/image_to_text/recall@10_chance",
    "zero_shot/builtin/test/accuracy@1",
    "zero_shot/builtin/test/accuracy@1_chance",
)


def run(recipe: str, seed: int, overrides: list[str]) -> dict[str, float]:
    """Trains once; returns the final metrics, seconds and GiB."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "train.py", recipe, "--seed", str(seed), *overrides]
        command += ["--workdir", f"{folder}/run", "--json", str(result)]
        environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0"}
        begin = time.monotonic()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        watched, peak, first_step, seconds = psutil.Process(process.pid), 0, 0.0, 0.0
        assert process.stderr is not None
        for line in process.stderr:
            if not first_step and line.startswith(b"step 1/"):
                first_step = time.monotonic() - begin
            peak = max(peak, _memory(watched))
        if process.wait():
            raise SystemExit(f"{' '.join(command)} failed with status {process.returncode}")
        seconds = time.monotonic() - begin
        metrics = json.loads(result.read_text())
        waited = _input_wait(Path(folder) / "run" / "metrics.jsonl")
    measured = {"seconds": seconds, "first_step_seconds": first_step, "peak_gib": peak / 2**30}
    return {**{name: metrics[name] for name in SHOWN}, **measured, "input_wait": waited}


def _input_wait(path: Path) -> float:
    """The mean fraction of step time spent waiting for input, over the rows that have it."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return statistics.mean(row["input/wait"] for row in rows if row.get("input/wait") is not None)


def _memory(process: psutil.Process) -> int:
    """The largest resident memory so far, bytes."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return int(process.memory_info().rss) if process.is_running() else 0


def main() -> None:
    """Prints a row for each figure: mean, standard deviation and the value of every run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", default="configs/quickstart.py", metavar="RECIPE")
    parser.add_argument("--json", metavar="PATH", help="write the numbers as JSON too")
    args, overrides = parser.parse_known_args()
    runs = [run(args.recipe, seed, overrides) for seed in args.seeds]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'':56} {'mean':>8} {'std':>8}   runs")
    for name in runs[0]:
        values = [result[name] for result in runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        each = " ".join(f"{value:.4g}" for value in values)
        print(f"{name:56} {statistics.mean(values):8.4f} {spread:8.4f}   {each}")
    lift = statistics.mean(result[RECALL] / result[f"{RECALL}_chance"] for result in runs)
    print(f"{'times chance, ' + RECALL:56} {lift:8.2f}")
    if args.json:
        Path(args.json).write_text(json.dumps(runs, indent=2) + "\n")


if __name__ == "__main__":
    main()
