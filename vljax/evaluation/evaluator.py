"""The evaluator interface: a model and a data set in, named numbers out."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, Int32, UInt8

from vljax.config import Component, UserError, setting
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.records import Annotation, Source
from vljax.data.sources import Mixture
from vljax.data.vocabulary import Vocabulary
from vljax.evaluation.predictor import Batch, Predictor
from vljax.models.numerics import Similarity
from vljax.parallel import rows
from vljax.parallel.rules import batch_sharding, replicated

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[], "Figure"]
"""Draws a figure from data that is already computed."""


@runtime_checkable
class EvaluationData(Protocol):
    """N examples in a fixed order, each seen once. `EvaluationSet` is the usual implementation."""

    @property
    def captions(self) -> list[tuple[str, ...]]:
        """All captions of each example that are not blank, in the order of the data set."""
        ...

    @property
    def labels(self) -> Int[np.ndarray, " examples"]:
        """The class index of each example, -1 where it has no class."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes."""
        ...

    def vocabulary(self, array: str, /) -> Vocabulary:
        """The texts that the indices of a batch entry stand for, such as answers."""
        ...

    @property
    def annotations(self) -> list[Annotation]:
        """All but the image of each example: captions, questions, regions, ..."""
        ...

    @property
    def images(self) -> Int[np.ndarray, " examples"]:
        """A number for the image of each example; examples about the same image have the same."""
        ...

    def batches(self, batch_size: int, /) -> Iterator[Batch]:
        """All examples in order, with the arrays of `eval_transforms`.

        `valid` is False for unreadable images and for padding rows.
        """
        ...

    def tokenizer(
        self, texts: list[str], /
    ) -> tuple[Int[np.ndarray, "texts length"], Bool[np.ndarray, "texts length"]]:
        """Token ids and the token mask of texts."""
        ...

    def thumbnail(self, index: int, size: int, /) -> UInt8[np.ndarray, "size size 3"]:
        """The image of an example, for plots."""
        ...

    def other(self, source: Source, /) -> EvaluationData:
        """The examples of another source, such as training examples, read in the same way.

        The same source gives the same object, so that labels are read once.
        """
        ...


@dataclass(frozen=True)
class Evaluator(Component, abc.ABC):
    """Measures a model on the data of a source.

    A new evaluator implements `measure`, and `reads` if it needs outputs of the model. It may also
    override `check`, `figures`, `headline` and `similarity`. No other file knows an evaluator by
    its type.

    >>> from vljax.datasets import Builtin
    >>> @dataclass(frozen=True)
    ... class LogitScale(Evaluator, name="logit_scale"):
    ...     def reads(self):
    ...         return ("logit_scale",)
    ...     def measure(self, predictor, data):
    ...         return {"value": float(predictor.run(self.reads(), {})["logit_scale"])}
    >>> LogitScale(Builtin("test")).reads()
    ('logit_scale',)
    >>> del Evaluator.members["logit_scale"]
    """

    source: Source
    """Where the examples come from."""
    batch_size: int = setting(64, identity=False)
    """Examples encoded at a time. It does not change the results."""

    headline: ClassVar[tuple[str, ...]] = ()
    """Names of the metrics that training prints after each evaluation; if there are none, the first
    three."""

    @property
    def similarity(self) -> Similarity | None:
        """How embeddings are compared. None (the default) if the evaluator does not compare any.

        A recipe is refused if its objectives use another similarity.
        """
        return None

    @property
    def sources(self) -> dict[str, Source]:
        """The sources that it reads, by field: `source` and further fields that hold a source.

        `measure` gets the examples of `source`, whose `other` gives those of the further ones.
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Source)}

    def problems(self) -> Iterable[tuple[str, str]]:
        """What is wrong with the fields."""
        if self.batch_size < 1:
            yield "batch_size", f"must be at least 1, got {self.batch_size}"
        for name, source in self.sources.items():
            if isinstance(source, Mixture):
                yield name, "is a mixture, which is for training; name one of its sources"

    def reads(self) -> tuple[str, ...]:
        """The outputs of the model that it needs; a recipe whose model lacks one is refused."""
        return ()

    def check(self, data: EvaluationData) -> None:
        """Checks before any compute that the data can be measured.

        Images are not read here; `measure` reports if none can be read.

        Raises:
          UserError: if the data lacks what the metrics need.
        """
        if not len(data.labels):
            raise UserError(f"{self.source.full_name} has no examples")

    @abc.abstractmethod
    def measure(self, predictor: Predictor, data: EvaluationData) -> dict[str, float]:
        """The metrics by name. A run puts `EVALUATOR/DATASET/SPLIT/` before each name.

        A metric of single examples is a `Sampled`, so that `vljax eval` can tell how sure it is.

        Every process calls it at the same time, since the predictor runs on all devices.

        Raises:
          UserError: if the data holds nothing that can be measured.
        """

    def inputs(self, data: EvaluationData) -> int:
        """How many rows the model computes at most, images and texts, to show progress."""
        return len(data.labels)

    def figures(self, predictor: Predictor, data: EvaluationData) -> dict[str, Draw]:
        """Figures of the finished run, by name; none by default.

        Every process computes them together, as in `measure`. Only the first process calls the
        returned functions, so put the drawing there.
        """
        return {}


@dataclass(frozen=True)
class ImageEmbeddings:
    """The embeddings, or other features, of the images that could be read."""

    embedding: Float[np.ndarray, "images embed"]
    """One row per image, in the order of the data."""
    index: Int[np.ndarray, " images"]
    """The example index of each row."""
    unreadable: int
    """How many of the selected examples had no readable image."""


def embed_images(
    predictor: Predictor,
    data: EvaluationData,
    batch_size: int,
    *,
    where: Bool[np.ndarray, " examples"],
    output: str = "image/embedding",
) -> ImageEmbeddings:
    """Encodes the readable images of the selected examples.

    Args:
      predictor: the model.
      data: the examples.
      batch_size: examples encoded at a time.
      where: True for the examples to select.
      output: the output of the model that has a row for each image.

    Raises:
      ValueError: if the batches hold fewer rows than the data has examples.
    """
    embeddings, readable, total = [], np.zeros(len(where), bool), 0
    for batch in data.batches(batch_size):
        rows, valid = predictor.run([output], batch)[output], batch["valid"]
        here = slice(total, total + len(valid))
        total += len(valid)
        readable[here] = valid[: len(readable[here])]  # the rest is padding
        embeddings.append(rows[: len(readable[here])][where[here] & readable[here]])
    if total < len(where):
        raise ValueError(f"the batches hold {total} rows for {len(where)} examples")
    if not total:
        return ImageEmbeddings(np.zeros((0, 0), np.float32), np.zeros(0, np.int64), 0)
    index = np.flatnonzero(where & readable)
    unreadable = int(np.count_nonzero(where & ~readable))
    return ImageEmbeddings(np.concatenate(embeddings), index, unreadable)


def embed_texts(
    predictor: Predictor, data: EvaluationData, texts: list[str], batch_size: int
) -> Float[np.ndarray, "texts embed"]:
    """Encodes at least one text with the tokenizer of the data."""
    ids, mask = data.tokenizer(texts)
    embeddings = []
    for start in range(0, len(texts), batch_size):
        # Padding makes all batches equally long, which compiles once. It repeats the last text: a
        # row without any token could divide by zero in the model.
        take = np.minimum(np.arange(start, start + batch_size), len(texts) - 1)
        batch = {"text": ids[take], "text_mask": mask[take]}
        output = predictor.run(["text/embedding"], batch)["text/embedding"]
        embeddings.append(output[: len(texts) - start])
    return np.concatenate(embeddings)


class ShardedEvaluationSet:
    """An `EvaluationSet` whose batches are read in parts, by the processes that hold their rows.

    The entries of a batch are global arrays with the sharding of a training batch. All processes
    must iterate at the same time. All other members are those of the whole set.

    Args:
      whole: the set to read.
      mesh: the devices of all processes.
    """

    def __init__(self, whole: EvaluationSet, mesh: Mesh) -> None:
        self._whole, self._mesh, self._sharding = whole, mesh, batch_sharding(mesh)
        self._others: dict[int, ShardedEvaluationSet] = {}
        self._gather = jax.jit(lambda array: array, out_shardings=replicated(mesh))

    @property
    def captions(self) -> list[tuple[str, ...]]:
        """See `EvaluationSet`."""
        return self._whole.captions

    @property
    def labels(self) -> Int32[np.ndarray, " examples"]:
        """See `EvaluationSet`."""
        return self._whole.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """See `EvaluationSet`."""
        return self._whole.class_names

    def vocabulary(self, array: str) -> Vocabulary:
        """See `EvaluationSet`."""
        return self._whole.vocabulary(array)

    @property
    def annotations(self) -> list[Annotation]:
        """See `EvaluationSet`."""
        return self._whole.annotations

    @property
    def images(self) -> Int[np.ndarray, " examples"]:
        """See `EvaluationSet`."""
        return self._whole.images

    def tokenizer(
        self, texts: list[str]
    ) -> tuple[Int32[np.ndarray, "texts length"], Bool[np.ndarray, "texts length"]]:
        """See `EvaluationSet`."""
        return self._whole.tokenizer(texts)

    def thumbnail(self, index: int, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
        """See `EvaluationSet`."""
        return self._whole.thumbnail(index, size)

    def other(self, source: Source) -> ShardedEvaluationSet:
        """See `EvaluationSet`."""
        whole = self._whole.other(source)
        if id(whole) not in self._others:
            self._others[id(whole)] = ShardedEvaluationSet(whole, self._mesh)
        return self._others[id(whole)]

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All entries as global arrays, but `valid` of all rows as a host array."""
        wanted = rows.local_parts(self._sharding, batch_size)

        def open_part(part: int, count: int) -> Iterator[dict[str, np.ndarray]]:
            return self._whole.batches(batch_size, part, count)

        for batch in rows.read_parts(open_part, wanted):
            split = rows.global_arrays(batch, self._sharding, batch_size)
            yield {**split, "valid": np.asarray(self._gather(split["valid"]))}
