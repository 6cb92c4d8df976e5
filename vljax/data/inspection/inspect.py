"""A data set looked through from end to end, or a sample of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vljax.data.accounting import Progress
from vljax.data.inspection import summary
from vljax.data.inspection.duplicates import duplicates
from vljax.data.inspection.measure import EXAMPLE, Measurer
from vljax.data.inspection.scan import drawn, scan
from vljax.data.source_base import Records, Source
from vljax.data.tokenizer_base import LoadedTokenizer


@dataclass(frozen=True)
class How:
    """How a data set is looked through.

    Attributes:
      sample: examples to draw; None for all.
      seed: of the draw.
      workers: processes; None for as many as there are cores.
      tokenizer: counts the tokens of captions; None counts none.
      max_pixels: images with more cannot be used.
      decodes: whether images are decoded, without which damage and likeness stay unknown.
    """

    sample: int | None
    seed: int
    workers: int | None
    tokenizer: LoadedTokenizer | None
    max_pixels: int
    decodes: bool


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
      records: the opened data set.
      examples: `EXAMPLE` rows of what was looked at.
      result: everything summed up, as JSON data.
    """

    records: Records
    examples: np.ndarray
    result: dict[str, Any]

    def __post_init__(self) -> None:
        assert self.examples.dtype == EXAMPLE


def inspect(source: Source, records: Records, how: How, progress: Progress) -> Inspection:
    """Looks through a data set.

    Args:
      source: for its name.
      records: the source opened.
      how: to go about it.
      progress: is told the examples done and all there are.

    Raises:
      UserError: if a process is killed.
    """
    measurer = Measurer(records, how.tokenizer, how.max_pixels, how.decodes)
    chosen = drawn(len(records), how.sample, how.seed)
    measured = scan(measurer, chosen, how.workers, progress)
    counted, tokenizer = records.accounting, how.tokenizer
    result = {
        "source": source.full_name,
        "type": source.type_name,
        "identity": records.identity,
        "examples": len(records),
        "examined": len(chosen),
        "seed": how.seed if len(chosen) < len(records) else None,
        "decoded": how.decodes,
        "files": counted.files if counted else None,
        "columns": counted.fields if counted else {},
        "left_out": counted.left_out if counted else {},
        "unusable": summary.unusable(measured),
        "captions": summary.captions(
            measured,
            records,
            None if tokenizer is None else tokenizer.config.type_name,
            0 if tokenizer is None else tokenizer.context_length,
        ),
        "images": summary.images(measured),
        "labels": summary.labels(measured, records.class_names),
        "duplicates": duplicates(measured),
    }
    return Inspection(records, measured.examples, result)
