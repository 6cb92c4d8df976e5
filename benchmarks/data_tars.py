"""Images per second from WebDataset shards, by vljax and by open_clip, on the same two cores.

This is a section of `benchmarks/data.py`. Both sides read the same shards and make batches of
224-pixel images, by open_clip's default augmentation, and token ids. Each turn runs in its own
process, so that one side never prepares batches while the other is timed. The first runs of a turn
are dropped, because workers that start early have already filled their buffers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers import photographs, tars
from benchmarks.peers.tars import TarSpec
from benchmarks.peers.worker import Worker

CORES = 2
SHARDS, EXAMPLES = 4, 500
QUALITY = 90
BATCH, BATCHES = 64, 8  # examples of a batch, batches of a run
WARM_UP = 3.0  # seconds after the first run
PEER = "open_clip"
MODULES = {"vljax": "vljax_tars", PEER: "open_clip_tars"}
# Numbers of worker processes to try; the best of each side counts. 0 stands for threads, which is
# vljax's default. open_clip's loader without processes would leave a core idle.
WORKERS = {"vljax": (0, 1, 2, 3), PEER: (1, 2, 3)}
AIM = 3.0


def turn(name: str, spec: TarSpec, python: str, seconds: float) -> float:
    """Images per second of one side, measured alone for at least `seconds` seconds."""
    worker = Worker(MODULES[name], spec, python)
    try:
        worker.seconds(*worker.workloads)
        _runs(worker, WARM_UP)
        times = _runs(worker, seconds)
    finally:
        worker.close()
    return len(times) * spec.batches * spec.batch / sum(times)


def _runs(worker: Worker, seconds: float) -> list[float]:
    """The seconds of each run, for at least `seconds` seconds in total."""
    times: list[float] = []
    while sum(times) < seconds:
        times += worker.seconds(*worker.workloads)
    return times


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The median rate for each side and number of processes, and the ratio of the best ones."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < CORES:
        sys.exit(f"--only images: the section of tar shards needs {CORES} cores, here is one")
    os.sched_setaffinity(0, cores[:CORES])  # the peers inherit it
    pythons = {"vljax": sys.executable, PEER: options.peer_python}
    sources = sorted(options.images.iterdir()) if options.images else photographs.paths()
    rates: dict[str, dict[int, list[float]]] = {n: {w: [] for w in WORKERS[n]} for n in WORKERS}
    with tempfile.TemporaryDirectory() as folder:
        kib = tars.write(sources, Path(folder), QUALITY, SHARDS, EXAMPLES)
        for number in range(options.turns):
            for name, counts in WORKERS.items():
                for workers in counts:
                    spec = TarSpec(folder, SHARDS, workers, BATCH, BATCHES)
                    rate = turn(name, spec, pythons[name], options.seconds)
                    rates[name][workers].append(rate)
                    about = f"turn {number + 1} of {options.turns}, {row_name(name, workers)}"
                    print(f"{about}: {rate:.0f} images/s", file=sys.stderr)
    medians = {
        name: {workers: statistics.median(values) for workers, values in by_workers.items()}
        for name, by_workers in rates.items()
    }
    best = {name: max(found.values()) for name, found in medians.items()}
    return {
        "shards": SHARDS,
        "examples_per_shard": EXAMPLES,
        "kib_per_image": kib,
        "batch": BATCH,
        "turns": rates,
        "images_per_second": medians,
        f"ratio_vs_{PEER}": best["vljax"] / best[PEER],
    }


def row_name(name: str, workers: int) -> str:
    """The name of a row: the side and its number of worker processes."""
    pool = f"{workers} process" + ("es" if workers > 1 else "") if workers else "threads"
    return f"{name}, {pool}"


def show(report: dict[str, Any]) -> None:
    """Prints the table."""
    print(
        f"\nWebDataset shards ({report['shards']} of {report['examples_per_shard']} JPEG images of "
        f"{report['kib_per_image']:.0f} KiB with a caption) to batches of {report['batch']}, "
        f"tokens included, {CORES} cores"
    )
    peer = max(report["images_per_second"][PEER].values())
    print(f"{'':24}{'images/s':>12}{'lowest':>10}{'highest':>10}{'vs ' + PEER:>14}")
    for name, by_workers in report["images_per_second"].items():
        for workers, rate in by_workers.items():
            row = row_name(name, workers)
            turns = report["turns"][name][workers]
            print(f"{row:24}{rate:12.0f}{min(turns):10.0f}{max(turns):10.0f}{rate / peer:14.2f}")
    ratio = report[f"ratio_vs_{PEER}"]
    print(f"at its best {ratio:.2f} times open_clip at its best (aim: {AIM:g} times)")
