"""Batches of the pipeline of `vljax train` from tar shards."""

from __future__ import annotations

from vljax.host_process import keep_freed_memory

if __name__ == "__main__":  # and not in the processes that prepare batches
    keep_freed_memory()  # as the command does, before NumPy starts threads

import dataclasses

from benchmarks.peers.tars import TarSpec
from benchmarks.peers.worker import ROOT, Workloads, serve
from vljax import config
from vljax.data.pipeline.pipeline import Data, train_batches
from vljax.data.sources import WebDataset
from vljax.data.transforms import RandomResizedCrop
from vljax.run import Run


def data_of(spec: TarSpec) -> Data:
    """The data of the CLIP recipe with these shards, and open_clip's crop in place of its own."""
    data = config.load(str(ROOT / "configs/clip_vit_b16.py"), Run).data
    decode, _, *texts = data.train_transforms
    crop = RandomResizedCrop(spec.size, tuple(spec.scale), interpolation="area")
    return dataclasses.replace(
        data,
        source=WebDataset(path=spec.urls),
        train_transforms=(decode, crop, *texts),
        workers=spec.workers,
    )


def make(spec: TarSpec) -> Workloads:
    """Batches of uint8 images and ids; images are normalised later, on the device."""
    batches = train_batches(data_of(spec), seed=0, global_batch=spec.batch)

    def run() -> None:
        for _ in range(spec.batches):
            batch = next(batches)
            assert batch["valid"].all()
            assert batch["image"].shape == (spec.batch, spec.size, spec.size, 3)

    return {"vljax": run}


if __name__ == "__main__":
    serve(make, TarSpec)
