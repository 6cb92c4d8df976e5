"""Retrieval metrics of vljax and of CLIP_benchmark: numbers, seconds and memory in the same run.

    pip install torch tqdm && pip install --no-deps clip-benchmark
    python benchmarks/retrieval_metrics.py [--texts N] [--images N] [--embed N] [--json PATH]

Both get the same float32 embeddings and compute recall@1, 5 and 10 in both directions, vljax also
the average precision and the median rank. Each runs in a process of its own; memory is the growth
of its resident set while it computes, without imports and embeddings. CLIP_benchmark's own
functions are called, with its batches of 64, as its `evaluate` does. The default has the size of
COCO's Karpathy test split.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

RECALL_AT = (1, 5, 10)
TOLERANCE = 1e-6

Measured = Callable[[], dict[str, float]]


def embeddings(texts: int, images: int, embed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors of texts and images, and the image of each text, which is near it."""
    rng = np.random.default_rng(0)
    owner = np.arange(texts) % images
    image = rng.normal(size=(images, embed)).astype(np.float32)
    text = image[owner] + 5 * rng.normal(size=(texts, embed)).astype(np.float32)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    return text, image, owner


def of_vljax(text: np.ndarray, image: np.ndarray, owner: np.ndarray) -> Measured:
    """Recall, mAP and median rank by blocks."""
    from vljax.evaluation.metrics import ranking

    def measure() -> dict[str, float]:
        own, found = np.arange(len(image)), {}
        for name, ranks in (
            ("image", ranking.positive_ranks(text, image, owner, own)),
            ("text", ranking.positive_ranks(image, text, own, owner)),
        ):
            for k in RECALL_AT:
                found[f"{name}_retrieval_recall@{k}"] = ranking.recall_at_k(ranks.best, k)
            found[f"{name}_retrieval_map"] = ranking.retrieval_map(ranks)
            found[f"{name}_retrieval_median_rank"] = ranking.median_rank(ranks.best)
        return found

    return measure


def of_clip_benchmark(text: np.ndarray, image: np.ndarray, owner: np.ndarray) -> Measured:
    """Recall from the matrix of all similarities."""
    import torch
    from clip_benchmark.metrics.zeroshot_retrieval import batchify, recall_at_k

    texts, images = torch.from_numpy(text), torch.from_numpy(image)

    def measure() -> dict[str, float]:
        scores = texts @ images.t()
        positive = torch.zeros_like(scores, dtype=bool)
        positive[torch.arange(len(scores)), torch.from_numpy(owner)] = True
        found = {}
        for k in RECALL_AT:
            for name, s, y in (("image", scores, positive), ("text", scores.T, positive.T)):
                hits = batchify(recall_at_k, s, y, 64, "cpu", k=k) > 0
                found[f"{name}_retrieval_recall@{k}"] = hits.double().mean().item()
        return found

    return measure


SIDES = {"vljax": of_vljax, "CLIP_benchmark": of_clip_benchmark}


def peak_kib() -> int:
    """The largest resident set of this process since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def run(side: str, folder: Path) -> None:
    """Measures one side in this process and prints JSON."""
    measure = SIDES[side](*(np.load(folder / f"{name}.npy") for name in ("text", "image", "owner")))
    Path("/proc/self/clear_refs").write_text("5")  # the largest resident set starts anew
    before, begin = peak_kib(), time.perf_counter()
    found = measure()
    seconds = time.perf_counter() - begin
    print(json.dumps({"metrics": found, "seconds": seconds, "mib": (peak_kib() - before) / 1024}))


def main() -> int:
    """Prints both sides; 1 if a number differs by more than 1e-6."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--texts", type=int, default=25_000)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--embed", type=int, default=512)
    parser.add_argument("--json", metavar="PATH", help="write the numbers as JSON too")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        run(args.side, args.folder)
        return 0
    with tempfile.TemporaryDirectory() as tmp:
        arrays = embeddings(args.texts, args.images, args.embed)
        for name, array in zip(("text", "image", "owner"), arrays, strict=True):
            np.save(Path(tmp) / f"{name}.npy", array)
        results: dict[str, Any] = {}
        for side in SIDES:
            command = [sys.executable, __file__, "--side", side, "--folder", tmp]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results[side] = json.loads(printed)
    ours, theirs = results.values()
    difference = 0.0
    print(f"{args.texts:,} texts x {args.images:,} images, {args.embed} dimensions")
    for name, value in ours["metrics"].items():
        other = theirs["metrics"].get(name)
        if other is not None:
            difference = max(difference, abs(value - other))
        print(f"  {name:32}{value:12.6f}{'' if other is None else f'{other:12.6f}'}")
    for name, unit in (("seconds", "s"), ("mib", "MiB")):
        share = theirs[name] / ours[name]
        print(f"  {name:32}{ours[name]:12.1f}{theirs[name]:12.1f} {unit} {share:8.1f} times")
    print(f"  largest difference {difference:.1e}")
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1))
    return int(difference > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
