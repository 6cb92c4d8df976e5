"""Training examples per second of vljax and open_clip, and the rate that accelerators need.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/data.py [--only images|tars] [--runs 15] [--images FOLDER] [--json PATH]

Images: a JPEG of 640 x 480 pixels becomes an example of 224 by open_clip's default augmentation, a
random resized crop of 90 to 100 % of the area. open_clip's transform also normalises; vljax does
that on the device. Both run in turns on one core, each in its own process with one thread. Figures
are medians. The pixel difference is the mean absolute difference, in levels of 255, from a full
decode and Pillow's antialiased bicubic filter for the same rectangles.

Tars: whole input pipelines on two cores, from WebDataset shards to batches (`data_tars.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import data_tars  # noqa: E402
from benchmarks.peers import photographs  # noqa: E402
from benchmarks.peers.photographs import ImageSpec  # noqa: E402
from benchmarks.peers.worker import Worker  # noqa: E402

PEERS = {"vljax": "vljax_images", "open_clip": "open_clip_images"}
PEER = "open_clip"
CHIPS = ("v5e", "v5p", "h100")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def measure(spec: ImageSpec, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds per image of each list of transforms, for each run; the first run is dropped."""
    pythons = {"vljax": sys.executable, PEER: options.peer_python}
    workers = {name: Worker(PEERS[name], spec, pythons[name]) for name in PEERS}
    times: dict[str, list[float]] = {}
    try:
        for turn in range(options.runs + 1):
            for worker in workers.values():
                for workload in worker.workloads:
                    (seconds,) = worker.seconds(workload)
                    if turn:
                        times.setdefault(workload, []).append(seconds / len(spec.files))
    finally:
        for worker in workers.values():
            worker.close()
    return times


def differences(spec: ImageSpec, epochs: int = 5) -> dict[str, dict[str, float]]:
    """Mean absolute difference from the first list of transforms, over all images and at worst."""
    import numpy as np

    from benchmarks.peers.vljax_images import example, ways

    exact, *others = ways(spec).items()
    result = {}
    for name, transforms in others:
        by_image = {}
        for index, file in enumerate(spec.files):
            content = file.read_bytes()
            pairs = (
                [example(t, content, epoch, index).astype(int) for t in (exact[1], transforms)]
                for epoch in range(epochs)
            )
            by_image[file.stem] = float(np.mean([np.abs(a - b).mean() for a, b in pairs]))
        result[name] = {"mean": statistics.mean(by_image.values()), "worst": max(by_image.values())}
    return result


def images(options: argparse.Namespace, quality: int) -> dict[str, Any]:
    """The figures for files of one JPEG quality."""
    sources = sorted(options.images.iterdir()) if options.images else photographs.paths()
    with tempfile.TemporaryDirectory() as folder:
        photographs.write(sources, Path(folder), quality)
        spec = ImageSpec(folder)
        kib = statistics.mean(file.stat().st_size for file in spec.files) / 1024
        times = measure(spec, options)
        pixels = differences(spec)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    ways = {
        name: {
            "images_per_second": 1 / value,
            f"ratio_vs_{PEER}": seconds[PEER] / value,
            "pixel_difference": pixels.get(name),
        }
        for name, value in seconds.items()
    }
    return {"files": len(sources), "kib_per_file": kib, "ways": ways}


def pair_flops() -> dict[str, float]:
    """Model of CLIP's paper -> FLOPs of a training step per image-text pair."""
    from vljax import config
    from vljax.analysis.compile import model_flops
    from vljax.overrides import override
    from vljax.run import Run, prepare

    models = {
        "ViT-B/16": [],
        "ViT-L/14": [  # table 20
            *("--model.nodes.image.patch_size", "14"),
            *("--model.nodes.image.width", "1024", "--model.nodes.image.depth", "24"),
            *("--model.nodes.image.heads", "16", "--model.nodes.image.mlp_dim", "4096"),
            *("--model.nodes.text.width", "768", "--model.nodes.text.heads", "12"),
            *("--model.nodes.text.mlp_dim", "3072", "--model.nodes.embedding.dim", "768"),
        ],
    }
    batch = 8
    run = config.load(str(ROOT / "configs/clip_vit_b16.py"), Run)
    runs = {
        name: override(run, ["--global_batch", str(batch), *changes])
        for name, changes in models.items()
    }
    return {name: model_flops(prepare(changed)) / batch for name, changed in runs.items()}


def demand(mfu: float, rate: float) -> list[dict[str, Any]]:
    """Images per second that chips consume at an MFU, and the CPU cores that this takes.

    Args:
      mfu: of the chips.
      rate: images per second that a CPU core makes.
    """
    from vljax.analysis.accelerators import ACCELERATORS

    rows = []
    for model, flops in pair_flops().items():
        for chip in CHIPS:
            used = mfu * ACCELERATORS[chip].peak_flops / flops
            row = {"model": model, "chip": ACCELERATORS[chip].name, "flops_per_pair": flops}
            rows.append({**row, "images_per_second": used, "cores": used / rate})
    return rows


def image_report(options: argparse.Namespace) -> dict[str, Any]:
    """The figures for single images on one core, and the demand of accelerators."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the peers inherit it
    by_quality = {str(q): images(options, q) for q in options.quality}
    quality, entry = list(by_quality.items())[-1]
    rate = max(way["images_per_second"] for way in entry["ways"].values())
    return {
        "jpeg_640x480_to_224": by_quality,
        "assumed": {
            "mfu": options.mfu,
            "quality": quality,
            "images_per_second_per_core": rate,
        },
        "demand": demand(options.mfu, rate),
    }


def show(report: dict[str, Any]) -> None:
    """Prints the tables."""
    if "webdataset" in report:
        data_tars.show(report["webdataset"])
    if "jpeg_640x480_to_224" in report:
        show_images(report)


def show_images(report: dict[str, Any]) -> None:
    """Prints the tables of the images."""
    for quality, entry in report["jpeg_640x480_to_224"].items():
        about = f"{entry['files']} files of {entry['kib_per_file']:.0f} KiB"
        print(f"\nJPEG 640 x 480, quality {quality} ({about}) to a training example of 224 pixels")
        print(f"{'':24}{'images/s/core':>14}{'vs ' + PEER:>14}{'pixels differ by':>18}{'worst':>8}")
        for name, way in entry["ways"].items():
            pixels = way["pixel_difference"]
            cells = f"{pixels['mean']:18.2f}{pixels['worst']:8.2f}" if pixels else f"{'-':>18}"
            rates = f"{way['images_per_second']:14.0f}{way[f'ratio_vs_{PEER}']:14.2f}"
            print(f"{name:24}{rates}{cells}")
    assumed = report["assumed"]
    print(
        f"\nCores to feed a chip at {assumed['images_per_second_per_core']:.0f} images/s/core "
        f"(quality {assumed['quality']}, the fastest way), if it reaches {assumed['mfu']:.0%} of "
        "its bfloat16 peak"
    )
    print(f"{'model':12}{'chip':20}{'GFLOP a pair':>14}{'images/s':>12}{'cores':>8}")
    for row in report["demand"]:
        gflop = row["flops_per_pair"] / 1e9
        rates = f"{gflop:14.1f}{row['images_per_second']:12.0f}{row['cores']:8.1f}"
        print(f"{row['model']:12}{row['chip']:20}{rates}")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("images", "tars"), help="this section alone")
    parser.add_argument("--runs", type=int, default=15, help="runs of each list of transforms")
    parser.add_argument("--quality", type=int, nargs="+", default=[75, 90], help="JPEG qualities")
    parser.add_argument("--turns", type=int, default=3, help="turns of each tar pipeline")
    parser.add_argument("--seconds", type=float, default=6, help="least duration of a turn")
    parser.add_argument("--images", type=Path, help="a folder of other pictures")
    parser.add_argument("--mfu", type=float, default=0.5, help="assumed MFU of the chips, 0 to 1")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has open_clip")
    parser.add_argument("--json", metavar="PATH", help="write the figures; - for standard output")
    options = parser.parse_args()
    os.environ |= dict.fromkeys(THREADS, "1")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # models are traced only
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": _versions(),
    }
    if options.only != "images":
        report["webdataset"] = data_tars.measure(options)
    if options.only != "tars":
        report |= image_report(options)
    if options.json == "-":
        print(json.dumps(report, indent=2))
        return
    show(report)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n")


def _versions() -> dict[str, str]:
    found = {}
    for package in (
        "simplejpeg",
        "opencv-python-headless",
        "pillow",
        "torch",
        "open_clip_torch",
        "webdataset",
    ):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "in another environment"
    return found


if __name__ == "__main__":
    main()
