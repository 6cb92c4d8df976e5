"""Start-up time: medians of several runs of each command, with a warm disk cache.

    python benchmarks/startup.py [--runs 7] [--phases 3]

It then prints the phases of `python train.py configs/quickstart.py` up to the first step, with an
empty and with a filled compilation cache. The step is traced and compiled while the state is
initialised, so the phases add up to more than the total.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import vljax": ["-c", "import vljax"],
    "vljax --help": ["-m", "vljax.commands.main", "--help"],
    "vljax check configs/quickstart.py": [
        "-m",
        "vljax.commands.main",
        "check",
        "configs/quickstart.py",
    ],
    "vljax check configs/siglip_so400m14_384.py": [
        *("-m", "vljax.commands.main", "check", "configs/siglip_so400m14_384.py")
    ],
}


def seconds(args: list[str]) -> float:
    """Wall time of one run."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *args], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def phases(folder: str) -> dict[str, float]:
    """The phases of one start of the quickstart; compiled programs are kept in the folder."""
    script = str(ROOT / "benchmarks" / "startup_phases.py")
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, script, str(time.time()), "--workdir", workdir]
        environment = {**os.environ, "XDG_CACHE_HOME": folder}
        quiet = subprocess.DEVNULL
        done = subprocess.run(
            command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, stderr=quiet
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def print_phases(runs: int) -> None:
    """Prints a row for each phase: medians with an empty and with a filled compilation cache."""
    cold, warm = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            cold.append(phases(folder))
            warm.append(phases(folder))
    print(f"\n{'train.py configs/quickstart.py to step 1':45} {'cold':>6}   {'warm':>6} s")
    for name in cold[0]:
        values = (statistics.median(run[name] for run in group) for group in (cold, warm))
        print(f"{name:45} " + "   ".join(f"{value:6.2f}" for value in values))


def main() -> None:
    """Prints a row for each command, then the phases of training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--phases", type=int, default=3, help="runs for the phases; 0 for none")
    args = parser.parse_args()
    runs = args.runs
    for command in COMMANDS.values():
        seconds(command)  # compiled modules and disk caches
    times = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    for name, values in times.items():
        spread = f"of {runs}: {min(values):.2f} to {max(values):.2f}"
        print(f"{name:45} {statistics.median(values):6.2f} s  ({spread})")
    if args.phases:
        print_phases(args.phases)


if __name__ == "__main__":
    main()
