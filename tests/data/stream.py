"""A program that reads batches of a mixture and logs the example ids, until it is killed.

    python stream.py FOLDER SEED STEPS PROCESSES WORKERS

It resumes where `FOLDER/log` ends. The log has one line per step: the ids of its examples.
"""

import sys
from pathlib import Path

import numpy as np

from tests.data.samples import sample_data
from vljax.data.pipeline.pipeline import Data, train_batches
from vljax.data.sources import JsonLines, Mixture, Part, Phase
from vljax.data.transforms import ChooseText, Decode, Resize, Tokenize
from vljax.datasets import Builtin

GLOBAL_BATCH = 8


def mixture(path: str, **changes: object) -> Data:
    """Two sources, one with transforms of its own, whose weights change twice."""
    plain = (Decode(), Resize(16), ChooseText(), Tokenize())
    parts = {
        "photos": Part(JsonLines(path), 0.7),
        "art": Part(Builtin("test"), 0.2),
        "again": Part(JsonLines(path), 0.1, transforms=plain),
    }
    schedule = (Phase(5, {"art": 0.0}), Phase(12, {"art": 3.0, "photos": 0.0}))
    return sample_data(path, source=Mixture(parts, schedule), **changes)


def main(folder: str, seed: int, steps: int, processes: int, workers: int) -> None:
    log = Path(folder) / "log"
    whole = log.read_text() if log.exists() else ""
    lines = whole.splitlines()[: whole.count("\n")]  # without an incomplete last line
    log.write_text("".join(line + "\n" for line in lines))
    data = mixture(f"{folder}/pets.jsonl", workers=workers)
    parts = [
        train_batches(
            data,
            seed=seed,
            global_batch=GLOBAL_BATCH,
            start_step=len(lines),
            process_index=i,
            process_count=processes,
        )
        for i in range(processes)
    ]
    with open(log, "a", buffering=1) as file:
        for _ in range(len(lines), steps):
            ids = np.concatenate([next(part)["example_id"] for part in parts])
            file.write(ids.tobytes().hex() + "\n")
    for part in parts:
        part.close()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
