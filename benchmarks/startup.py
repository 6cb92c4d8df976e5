"""Seconds that starting takes: median of several runs of each command, caches of the disk warm.

python benchmarks/startup.py [--runs 7]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import vljax": ["-c", "import vljax"],
    "vljax --help": ["-m", "vljax.cli", "--help"],
    "vljax check configs/quickstart.py": ["-m", "vljax.cli", "check", "configs/quickstart.py"],
    "vljax check configs/siglip_so400m14_384.py": [
        *("-m", "vljax.cli", "check", "configs/siglip_so400m14_384.py")
    ],
}


def seconds(args: list[str]) -> float:
    """Wall time of one run."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *args], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    """Prints a row for each command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    for args in COMMANDS.values():
        seconds(args)  # compiled modules and disk caches
    times = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, args in COMMANDS.items():
            times[name].append(seconds(args))
    for name, values in times.items():
        spread = f"of {runs}: {min(values):.2f} to {max(values):.2f}"
        print(f"{name:45} {statistics.median(values):6.2f} s  ({spread})")


if __name__ == "__main__":
    main()
