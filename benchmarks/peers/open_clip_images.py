"""open_clip's transform for training with its defaults, as its datasets call it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import torch
from open_clip.transform import AugmentationCfg, PreprocessCfg, image_transform_v2
from PIL import Image

from benchmarks.peers.photographs import ImageSpec
from benchmarks.peers.worker import Workloads, serve


def training_transform(size: int, scale: Sequence[float]) -> Callable[[Image.Image], torch.Tensor]:
    """A function from an image to a random resized crop, normalised, as float32."""
    augmentation = AugmentationCfg(scale=tuple(scale))
    return image_transform_v2(PreprocessCfg(size=size), is_train=True, aug_cfg=augmentation)


def make(spec: ImageSpec) -> Workloads:
    """The workload: a normalised float32 image of each file."""
    torch.set_num_threads(1)
    contents = [file.read_bytes() for file in spec.files]
    transform = training_transform(spec.size, spec.scale)

    def run() -> None:
        for content in contents:
            transform(Image.open(io.BytesIO(content)))

    return {"open_clip": run}


if __name__ == "__main__":
    serve(make, ImageSpec)
