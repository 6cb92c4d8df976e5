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
    """The task of the peers: an endless stream of training batches from the shards in a folder."""

    folder: str
    """Folder of the shards `00000.tar`, ..."""
    shards: int
    """Number of shards."""
    workers: int
    """Processes that prepare batches; 0 stands for threads."""
    batch: int
    """Examples in a batch."""
    batches: int
    """Batches that a run of the workload takes."""
    size: int = 224
    """Height and width of an image, pixels."""
    scale: tuple[float, float] = (0.9, 1.0)
    """Range of the area of the random resized crop; open_clip's default."""

    @property
    def urls(self) -> str:
        """The pattern of all shards, as users of both sides write it."""
        return f"{self.folder}/{{00000..{self.shards - 1:05d}}}.tar"


def write(sources: list[Path], folder: Path, quality: int, shards: int, examples: int) -> float:
    """Writes shards; every example has its own caption and one of a few photographs.

    Repeated photographs do not matter, because neither side caches decoded images of this size.

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
    """Distinct texts of about 15 words, composed of titles of the built-in pictures."""
    from vljax.datasets.builtin.vocabulary import HERE

    items = (HERE / "items.jsonl").read_text(encoding="utf-8").splitlines()
    titles = sorted({json.loads(item)["caption"] for item in items})
    draws = random.Random(0)
    found: dict[str, None] = {}
    while len(found) < count:
        first, second, *others = draws.sample(titles, 5)
        found[f"A photo of {first} and {second}, with {', '.join(others)}"] = None
    return list(found)
