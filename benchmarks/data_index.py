"""Seconds to the first batch, and memory, for a data set of 100 million examples.

    python benchmarks/data_index.py [--examples 100000000] [--batch 256] [--runs 3] [--json PATH]

Each case runs in its own process and is timed from the start of that process: imports, opening, the
order of the data, decoding and augmenting one batch of 224 pixels. The examples are synthetic (32
different JPEG files of 640x480 pixels, a caption with the example's number) and have no index on
disk. So this measures the order of the data, not a file format. Memory is the peak resident memory
of the process.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CASES = {
    "one source, from the start": ("single", 0),
    "one source, resumed at step 1,000,000": ("single", 1_000_000),
    "mixture of four, from the start": ("mixture", 0),
    "mixture of four, resumed past a change of weights": ("mixture", 1_000_000),
}
LIMIT_SECONDS, LIMIT_BYTES = 10.0, 2 * 2**30


def first_batch(kind: str, step: int, examples: int, batch: int, began: float) -> dict[str, float]:
    """Takes one batch in this process.

    Args:
      kind: "single" or "mixture".
      step: the step of the batch.
      examples: number of examples in all sources together.
      batch: batch size.
      began: start time of the process, in seconds since the epoch.
    """
    from vljax.data.pipeline.pipeline import Data, train_batches
    from vljax.data.records import Annotation, Records, Source
    from vljax.data.sources import Mixture, Part, Phase
    from vljax.data.tokenizers import Clip
    from vljax.data.transforms import ChooseText, Decode, Flip, RandomResizedCrop, Resize, Tokenize

    files = _files()

    class SyntheticRecords(Records):
        identity = "synthetic"

        def __len__(self) -> int:
            return count

        def annotation(self, index: int) -> Annotation:
            return Annotation((f"example number {index}",))

        def image(self, index: int) -> bytes:
            return files[index % len(files)]

    @dataclass(frozen=True)
    class Synthetic(Source, name="synthetic_index"):
        @property
        def full_name(self) -> str:
            return "synthetic_index"

        def open(self) -> Records:
            return SyntheticRecords()

    source: Source = Synthetic()
    count = examples
    if kind == "mixture":
        count = examples // 4
        parts = {f"part{i}": Part(Synthetic(), weight) for i, weight in enumerate((8, 4, 2, 1))}
        source = Mixture(parts, (Phase(500_000, {"part3": 8}),))
    data = Data(
        source,
        {"text": Clip()},
        (Decode(), RandomResizedCrop(224), Flip(), ChooseText(), Tokenize()),
        (Decode(), Resize(224), ChooseText(), Tokenize()),
    )
    imported = time.time()
    batches = train_batches(data, seed=0, global_batch=batch, start_step=step)
    found = next(batches)
    ready = time.time()
    batches.close()
    assert found["valid"].all()
    return {
        "seconds": ready - began,
        "of them imports": imported - began,
        "resident bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _files() -> list[bytes]:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    files = []
    for _ in range(32):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        file = io.BytesIO()
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def measure(kind: str, step: int, examples: int, batch: int) -> dict[str, Any]:
    """Runs `first_batch` in a new process."""
    case = json.dumps([kind, step, examples, batch, time.time()])
    command = [sys.executable, __file__, "--case", case]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Prints a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--examples", type=int, default=100_000_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3, help="runs per case; the median is shown")
    parser.add_argument("--json", help="also write the numbers to this file; - for stdout")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(first_batch(*json.loads(args.case))))
        return
    results = {}
    print(f"{args.examples:,} examples, first batch of {args.batch}")
    for name, (kind, step) in CASES.items():
        runs = [measure(kind, step, args.examples, args.batch) for _ in range(args.runs)]
        results[name] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        seconds, imports, resident = results[name].values()
        print(f"{name:50} {seconds:6.2f} s ({imports:.2f} s imports) {resident / 2**20:6.0f} MiB")
    good = all(
        row["seconds"] < LIMIT_SECONDS and row["resident bytes"] < LIMIT_BYTES
        for row in results.values()
    )
    print(f"within {LIMIT_SECONDS:g} s and {LIMIT_BYTES / 2**30:g} GiB: {'yes' if good else 'NO'}")
    if args.json:
        text = json.dumps({"examples": args.examples, "batch": args.batch, "cases": results})
        sys.stdout.write(text + "\n") if args.json == "-" else Path(args.json).write_text(text)


if __name__ == "__main__":
    main()
