"""The evaluator interface: an encoder and a data set in, named numbers out."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, UInt8

from vljax.config import Component, UserError, setting
from vljax.data.sources import Mixture, Source

Batch = Mapping[str, Any]
"""Whole arrays of the host (NumPy), or global ones that are on the devices already (JAX)."""


@runtime_checkable
class Encode(Protocol):
    """A model with its variables bound.

    Takes a batch with some modalities, `image` uint8[B,H,W,3] (or patches, with `image_mask` and
    what else `Patchify` makes) or `text` int32[B,L] with `text_mask`
    bool[B,L], and returns host arrays for these: `image/embedding` or `text/embedding`
    float32[B,D]. B is the evaluator's `batch_size` in every call: one compile a modality.
    """

    def __call__(self, batch: Batch, /) -> dict[str, np.ndarray]: ...


def of_images(batch: Batch) -> dict[str, Any]:
    """The arrays of a batch that images are: `image`, and of patches `image_mask` and the like."""
    return {k: v for k, v in batch.items() if k == "image" or k.startswith("image_")}


@runtime_checkable
class EvaluationData(Protocol):
    """N examples in a fixed order, each seen once."""

    @property
    def captions(self) -> list[str]:
        """The first caption of each example."""
        ...

    @property
    def labels(self) -> Int[np.ndarray, " examples"]:
        """The class of each example, -1 where it has none."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes."""
        ...

    def batches(self, batch_size: int, /) -> Iterator[Batch]:
        """All examples in order; `valid` is False for unreadable images and the last padding."""
        ...

    def tokenizer(
        self, texts: list[str], /
    ) -> tuple[Int[np.ndarray, "texts length"], Bool[np.ndarray, "texts length"]]:
        """Token ids and which of them are tokens."""
        ...

    def thumbnail(self, index: int, size: int, /) -> UInt8[np.ndarray, "size size 3"]:
        """The image of an example for people to look at."""
        ...


@dataclass(frozen=True)
class Evaluator(Component, abc.ABC):
    """Measures a model on the data of a source; a member implements `measure`.

    Attributes:
      source: where the examples come from.
      batch_size: examples encoded at a time; no result depends on it.
    """

    source: Source
    batch_size: int = setting(64, identity=False)

    def problems(self) -> Iterable[tuple[str, str]]:
        """What is wrong with the fields."""
        if self.batch_size < 1:
            yield "batch_size", f"must be at least 1, got {self.batch_size}"
        if isinstance(self.source, Mixture):
            yield "source", "is a mixture, which is for training; evaluate on one of its sources"

    @property
    def prefix(self) -> str:
        """`EVALUATOR/DATASET/SPLIT`, how metric names begin."""
        return f"{self.type_name}/{self.source.dataset}/{self.source.split_name}"

    def check(self, data: EvaluationData) -> None:
        """Looks whether the data can be measured at all, before anything is computed.

        Images are not read: that none is readable shows only in `measure`.

        Raises:
          UserError: if the data lacks what the metrics are about.
        """
        if not len(data.labels):
            raise UserError(f"{self.prefix}: {self.source.full_name} has no examples")

    def __call__(self, encode: Encode, data: EvaluationData) -> dict[str, float]:
        """The metrics of a model, named `EVALUATOR/DATASET/SPLIT/METRIC`.

        Raises:
          UserError: if the data holds nothing that can be measured.
        """
        return {
            f"{self.prefix}/{name}": value for name, value in self.measure(encode, data).items()
        }

    @abc.abstractmethod
    def measure(self, encode: Encode, data: EvaluationData) -> dict[str, float]:
        """The metrics by their names without the prefix."""
