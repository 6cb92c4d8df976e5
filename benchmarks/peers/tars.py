"""WebDataset shards of photographs with captions, as the `webdataset` package writes them."""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import photographs


@dataclass(frozen=True)
class TarSpec:
    """What the peers make: batches of training examples from the shards in a folder, without end.

    Attributes:
      folder: of the shards `00000.tar`, ...
      shards: how many there are.
      workers: processes that prepare batches; 0 stands for threads.
      batch: examples in each.
      batches: how many a run of the workload takes.
      size: pixels of an image.
      scale: of the random resized crop: open_clip's default.
    """

    folder: str
    shards: int
    workers: int
    batch: int
    batches: int
    size: int = 224
    scale: tuple[float, float] = (0.9, 1.0)

    @property
    def urls(self) -> str:
        """All shards, as both sides' users write them."""
        return f"{self.folder}/{{00000..{self.shards - 1:05d}}}.tar"


def write(sources: list[Path], folder: Path, quality: int, shards: int, examples: int) -> float:
    """Shards of `examples` each; every example has its own caption and one of a few photographs.

    Neither side keeps decoded images of this size, so it does not matter that these come again.

    Returns:
      Mean size of an image, KiB.
    """
    import webdataset

    with tempfile.TemporaryDirectory() as images:
        photographs.write(sources, Path(images), quality)
        contents = [file.read_bytes() for file in sorted(Path(images).iterdir())]
    texts = captions(shards * examples)
    for shard in range(shards):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as writer:
            for index in range(shard * examples, (shard + 1) * examples):
                content = contents[index % len(contents)]
                writer.write({"__key__": f"{index:09d}", "jpg": content, "txt": texts[index]})
    return sum(map(len, contents)) / len(contents) / 1024


def captions(count: int) -> list[str]:
    """Distinct texts of about 15 words: titles of the built-in pictures, put together."""
    from vljax.datasets.builtin.vocabulary import HERE

    items = (HERE / "items.jsonl").read_text(encoding="utf-8").splitlines()
    titles = sorted({json.loads(item)["caption"] for item in items})
    draws = random.Random(0)
    found: dict[str, None] = {}
    while len(found) < count:
        first, second, *others = draws.sample(titles, 5)
        found[f"A photo of {first} and {second}, with {', '.join(others)}"] = None
    return list(found)
