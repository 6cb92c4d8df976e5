"""The shards of the benchmark of input pipelines, and vljax's side of it."""

import numpy as np
from PIL import Image

from benchmarks.peers import tars, vljax_tars
from vljax.data.sources import WebDataset


def test_captions_are_distinct_and_have_about_15_words():
    captions = tars.captions(500)
    lengths = [len(caption.split()) for caption in captions]
    assert len(set(captions)) == 500
    assert min(lengths) >= 8
    assert 13 <= np.mean(lengths) <= 20


def test_the_pipeline_of_the_recipe_reads_every_example_of_the_shards(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).resize((700, 500)).save(tmp_path / "photograph.png")
    kib = tars.write([tmp_path / "photograph.png"], tmp_path, quality=90, shards=2, examples=5)
    spec = tars.TarSpec(str(tmp_path), shards=2, workers=0, batch=4, batches=3)
    records = WebDataset(path=spec.urls).open()
    found = {records.annotation(index).captions[0] for index in range(len(records))}
    assert found == set(tars.captions(10))
    assert len(records.image(9)) / 1024 == kib
    data = vljax_tars.data_of(spec)
    assert [type(t).__name__ for t in data.train_transforms] == [
        "Decode",
        "RandomResizedCrop",
        "ChooseText",
        "Tokenize",
    ]
    assert data.train_transforms[0].scaled
    vljax_tars.make(spec)["vljax"]()  # more batches than an epoch; it checks each
