"""vljax's transforms for training, as its loader calls them."""

# ruff: noqa: E402
from __future__ import annotations

from vljax.host_process import keep_freed_memory

keep_freed_memory()  # as the command does, before NumPy starts threads

import itertools
from collections.abc import Callable

import cv2
import numpy as np

from benchmarks.peers.photographs import ImageSpec
from benchmarks.peers.worker import Workloads, serve
from vljax.data.randomness import example_generator
from vljax.data.records import Record
from vljax.data.transforms import Decode, RandomResizedCrop, Transform


def ways(spec: ImageSpec) -> dict[str, tuple[Transform, ...]]:
    """Lists of transforms, by name; the first is the exact one, the last the fastest."""

    def crop(interpolation: str) -> RandomResizedCrop:
        return RandomResizedCrop(spec.size, tuple(spec.scale), interpolation=interpolation)

    return {
        "full decode, bicubic": (Decode(), crop("bicubic")),
        "scaled decode, bicubic": (Decode(scaled=True), crop("bicubic")),
        "full decode, area": (Decode(), crop("area")),
        "scaled decode, area": (Decode(scaled=True), crop("area")),
    }


def example(
    transforms: tuple[Transform, ...], content: bytes, epoch: int, index: int
) -> np.ndarray:
    """The image of an example (uint8), with the random numbers of its epoch and index."""
    rng = example_generator(0, "benchmark", epoch, index)
    result = {"record": Record(captions=(), image=content)}
    for transform in transforms:
        result = transform(result, rng)
    return result["image"]


def make(spec: ImageSpec) -> Workloads:
    """A workload for each list of transforms: an image of each file."""
    cv2.setNumThreads(1)
    contents = [file.read_bytes() for file in spec.files]
    epochs = itertools.count()

    def workload(transforms: tuple[Transform, ...]) -> Callable[[], None]:
        def run() -> None:
            epoch = next(epochs)
            for index, content in enumerate(contents):
                example(transforms, content, epoch, index)

        return run

    return {name: workload(transforms) for name, transforms in ways(spec).items()}


if __name__ == "__main__":
    serve(make, ImageSpec)
