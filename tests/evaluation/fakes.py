"""A data set and a model with given embeddings, so that results can be computed by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vljax.data.records import Annotation, Source


@dataclass(frozen=True)
class FakeSource(Source):
    split: str = "test"

    @property
    def full_name(self) -> str:
        return f"fake:{self.split}"

    @property
    def split_name(self) -> str:
        return self.split

    def open(self):
        raise AssertionError("evaluators read the data that they are given")


FakeSource.type_name = "fake"


@dataclass
class FakeData:
    """A pixel holds the index of its image; a token id is the index of its text in `vocabulary`.

    `captions` has one text or several texts for each example.
    """

    captions: list
    vocabulary: list[str]
    labels: np.ndarray = None
    class_names: tuple[str, ...] = ()
    unreadable: tuple[int, ...] = ()
    others: dict[str, FakeData] = field(default_factory=dict)
    """The examples of other sources, by their split."""
    first: int = 0
    """The index of the first image."""
    tags: tuple[tuple[str, ...], ...] = ()
    asked: list[str] = field(default_factory=list)

    def __post_init__(self):
        given = [(one,) if isinstance(one, str) else one for one in self.captions]
        self.captions = [tuple(text for text in one if text.strip()) for one in given]
        if self.labels is None:
            self.labels = np.full(len(self.captions), -1, np.int32)

    @property
    def images(self) -> np.ndarray:
        return np.arange(len(self.captions))

    @property
    def annotations(self) -> list[Annotation]:
        tags = self.tags or [()] * len(self.captions)
        return [Annotation(*pair) for pair in zip(self.captions, tags, strict=True)]

    def batches(self, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        count = len(self.captions)
        for start in range(0, count, batch_size):
            index = np.arange(start, start + batch_size)
            valid = (index < count) & ~np.isin(index, self.unreadable)
            image = np.zeros((batch_size, 2, 2, 3), np.uint8)
            # Rows that must not count show image 0, which would change results if they did.
            image[:, 0, 0, 0] = np.where(valid, self.first + index, 0)
            yield {
                "image": image,
                "text": np.zeros((batch_size, 1), np.int32),
                "text_mask": np.ones((batch_size, 1), bool),
                "valid": valid,
                "label": np.where(valid, self.labels[np.minimum(index, count - 1)], -1),
                "example_id": np.stack([np.zeros_like(index), index], axis=1),
            }

    def tokenizer(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        self.asked.extend(texts)
        ids = np.array([[self.vocabulary.index(text)] for text in texts], np.int32)
        return ids, np.ones_like(ids, bool)

    def thumbnail(self, index: int, size: int) -> np.ndarray:
        return np.full((size, size, 3), index, np.uint8)

    def other(self, source: FakeSource) -> FakeData:
        return self.others[source.split]


@dataclass
class FakePredictor:
    """Looks up embeddings; refuses batches of another size."""

    images: np.ndarray
    texts: np.ndarray
    batch_size: int

    def run(self, want: Sequence[str], batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert {len(array) for array in batch.values()} == {self.batch_size}
        (output,) = want
        if output in ("image/embedding", "image/pooled"):
            return {output: self.images[batch["image"][:, 0, 0, 0]]}
        assert output == "text/embedding"
        assert batch["text_mask"].any(axis=1).all()
        return {output: self.texts[batch["text"][:, 0]]}
