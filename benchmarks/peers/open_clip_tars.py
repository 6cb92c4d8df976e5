"""Batches of open_clip's training pipeline, which uses the `webdataset` package."""

from __future__ import annotations

from types import SimpleNamespace

from open_clip import get_tokenizer
from open_clip_train.data import get_wds_dataset

from benchmarks.peers.open_clip_images import training_transform
from benchmarks.peers.tars import TarSpec
from benchmarks.peers.worker import Workloads, serve

_EPOCH_EXAMPLES = 10**9  # more than a run takes: open_clip stops at the end of an epoch


def make(spec: TarSpec) -> Workloads:
    """Batches of normalised float32 images and ids, with open_clip's defaults."""
    arguments = SimpleNamespace(
        train_data=spec.urls,
        train_num_samples=_EPOCH_EXAMPLES,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        batch_size=spec.batch,
        workers=spec.workers,
        world_size=1,
    )
    transform = training_transform(spec.size, spec.scale)
    tokenizer = get_tokenizer("ViT-B-16")
    loader = get_wds_dataset(arguments, transform, is_train=True, tokenizer=tokenizer).dataloader
    batches = iter(loader)

    def run() -> None:
        for _ in range(spec.batches):
            images, texts = next(batches)
            assert images.shape == (spec.batch, 3, spec.size, spec.size)
            assert len(texts) == spec.batch

    return {"open_clip": run}


if __name__ == "__main__":
    serve(make, TarSpec)
