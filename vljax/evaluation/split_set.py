"""An evaluation set of which each process reads its own part."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int32, UInt8

from vljax.data.evaluation_set import EvaluationSet
from vljax.evaluation.evaluator import Batch, of_images
from vljax.parallel import rows
from vljax.parallel.rules import batch_sharding, replicated


class SplitSet:
    """Like the `EvaluationSet` it is made of, row by row.

    Images of a batch are global arrays, of which a process decodes the rows that its devices hold.
    All processes iterate at the same time.
    """

    def __init__(self, whole: EvaluationSet, mesh: Mesh) -> None:
        self._whole, self._sharding = whole, batch_sharding(mesh)
        self._gather = jax.jit(lambda array: array, out_shardings=replicated(mesh))

    @property
    def captions(self) -> list[str]:
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

    def tokenizer(
        self, texts: list[str]
    ) -> tuple[Int32[np.ndarray, "texts length"], Bool[np.ndarray, "texts length"]]:
        """See `EvaluationSet`."""
        return self._whole.tokenizer(texts)

    def thumbnail(self, index: int, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
        """See `EvaluationSet`."""
        return self._whole.thumbnail(index, size)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """What there is of images on the devices, and `valid` of all rows on the host."""
        wanted = rows.own_parts(self._sharding, batch_size)

        def open_part(part: int, count: int) -> Iterator[dict[str, np.ndarray]]:
            return self._whole.batches(batch_size, part, count)

        for batch in rows.read(open_part, wanted):
            own = {**of_images(batch), "valid": batch["valid"]}
            split = rows.place(own, self._sharding, batch_size)
            yield {**of_images(split), "valid": np.asarray(self._gather(split["valid"]))}
