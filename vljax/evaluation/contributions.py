"""How much each modality contributes to answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Int

from vljax.config import UserError
from vljax.data.records import Annotation, Records, Source
from vljax.evaluation.evaluator import EvaluationData
from vljax.evaluation.predictor import Batch, Predictor
from vljax.evaluation.questions import Questions


@dataclass(frozen=True, kw_only=True)
class Contributions(Questions, name="contributions"):
    """Accuracy of answers with each stream zeroed, and with each shuffled over the examples.

    Shuffled means that each question gets the stream of a random example about another image, so
    that the model sees inputs as in training which say nothing about the answer. Zeroed inputs may
    be unlike any that it was trained on. If the image of that example cannot be read, the question
    does not count.

    Metrics and figures: those of `Questions`. Also `zeroed/STREAM/METRIC` and
    `shuffled/STREAM/METRIC` for `accuracy` and `accuracy/KIND`; and `contribution/STREAM`, the
    accuracy that is lost by shuffling the stream.

    >>> from vljax.datasets import Scenes
    >>> from vljax.recipes import Expand
    >>> Contributions(source=Expand(Scenes(), by="question"), streams=("image", "question")).streams
    ('image', 'question')
    """

    streams: tuple[str, ...] = ("image", "question")
    """The streams to measure."""
    seed: int = 0
    """Seed of the shuffling."""

    def reads(self) -> tuple[str, ...]:
        return (*super().reads(), *(f"{stream}/tokens" for stream in self.streams))

    def problems(self) -> Iterable[tuple[str, str]]:
        """What is wrong with the fields."""
        yield from super().problems()
        if not self.streams or len(set(self.streams)) < len(self.streams):
            yield "streams", f"must name different streams, got {self.streams}"

    def check(self, data: EvaluationData) -> None:
        """See `Evaluator.check`. Raises UserError if most rows are about one image."""
        super().check(data)
        _partners(data.images, self.seed, self.source.full_name)

    def inputs(self, data: EvaluationData) -> int:
        """See `Evaluator.inputs`: every example is computed once, and twice for each stream."""
        return super().inputs(data) * (1 + 2 * len(self.streams))

    def measure(self, predictor: Predictor, data: EvaluationData) -> dict[str, float]:
        """See the class. Raises UserError if no image can be read."""
        metrics = super().measure(predictor, data)
        plain = dataclasses.replace(self, attention=None)
        shuffled = data.other(_Shuffled(self.source, self.seed))
        for stream in self.streams:
            for way, other in (("zeroed", None), ("shuffled", shuffled)):
                replacing = cast(Predictor, _Replacing(predictor, stream))
                paired = cast(EvaluationData, _Paired(data, other))
                found = super(Contributions, plain).measure(replacing, paired)
                metrics |= {
                    f"{way}/{stream}/{name}": value
                    for name, value in found.items()
                    if name.split("/")[0] == "accuracy"
                }
            lost = float(metrics["accuracy"]) - float(metrics[f"shuffled/{stream}/accuracy"])
            metrics[f"contribution/{stream}"] = lost
        return metrics


class _PairedBatch(Mapping[str, Any]):
    """A batch with the one whose streams take the place of its own; None for zeros.

    A row counts if both can be read.
    """

    def __init__(self, own: Batch, other: Batch | None):
        self.own, self.other = own, other

    def __getitem__(self, name: str) -> Any:
        if name == "valid" and self.other is not None:
            return np.asarray(self.own[name]) & np.asarray(self.other[name])
        return self.own[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)


class _Paired:
    """Data whose batches come with those of other data in the same order."""

    def __init__(self, whole: EvaluationData, other: EvaluationData | None):
        self._whole, self._other = whole, other

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def batches(self, batch_size: int) -> Iterator[_PairedBatch]:
        """See `EvaluationData`."""
        if self._other is None:
            for batch in self._whole.batches(batch_size):
                yield _PairedBatch(batch, None)
            return
        both = self._whole.batches(batch_size), self._other.batches(batch_size)
        for own, other in zip(*both, strict=True):
            yield _PairedBatch(own, other)


@dataclass(frozen=True)
class _Replacing:
    """A predictor that replaces one stream of each paired batch."""

    predictor: Predictor
    stream: str

    def run(self, want: Sequence[str], batch: _PairedBatch) -> dict[str, np.ndarray]:
        """See `Predictor.run`."""
        return self.predictor.run(want, batch.own, streams={self.stream: batch.other})


# --- Shuffling ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shuffled(Source):
    """For each row of a source, a random row about another image."""

    source: Source
    seed: int

    @property
    def full_name(self) -> str:
        return f"shuffled:{self.source.full_name}"

    def open(self) -> Records:
        return _ShuffledRecords(self.source.open(), self.seed, self.source.full_name)


class _ShuffledRecords(Records):
    def __init__(self, records: Records, seed: int, name: str):
        self._records = records
        self._partners = _partners(records.image_numbers(), seed, name)
        self.class_names, self.image_count = records.class_names, records.image_count
        self.identity = f"shuffled {seed} {records.identity}"

    def __len__(self) -> int:
        return len(self._partners)

    def annotation(self, index: int) -> Annotation:
        return self._records.annotation(int(self._partners[index]))

    def image(self, index: int) -> bytes:
        return self._records.image(int(self._partners[index]))

    def more_images(self, index: int) -> tuple[bytes, ...]:
        return self._records.more_images(int(self._partners[index]))

    def masks(self, index: int) -> bytes | None:
        return self._records.masks(int(self._partners[index]))


def _partners(images: Int[np.ndarray, " rows"], seed: int, name: str) -> Int[np.ndarray, " rows"]:
    """A permutation of the rows that gives each row one about another image.

    Rows are put in the order of their images, which is random, and moved by the largest number of
    rows of an image.

    Raises:
      UserError: if more than half of the rows are about one image.
    """
    rng = np.random.default_rng(seed)
    _, image, counts = np.unique(images, return_inverse=True, return_counts=True)
    if not len(images) or 2 * counts.max() > len(images):
        raise UserError(
            f"{name}: more than half of the rows are about one image; there is nothing to shuffle"
        )
    order = np.lexsort((rng.random(len(images)), rng.permutation(len(counts))[image]))
    partners = np.empty(len(images), np.int64)
    partners[order] = np.roll(order, counts.max())
    return partners
