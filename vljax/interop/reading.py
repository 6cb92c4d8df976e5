"""A foreign model as it is read: what import writes down, and what is used at once in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from vljax.config import UserError
from vljax.interop import formats, stored
from vljax.interop.format import Reading
from vljax.interop.mapping import Pair, pair, to_own
from vljax.interop.pretrained import reader
from vljax.interop.tensors import Lazy
from vljax.models.assembly import Variables
from vljax.models.layout import filled
from vljax.run import Prepared, check_ids, prepare


@dataclass(frozen=True)
class Mapped:
    """A foreign model whose arrays have their places here; none is read yet."""

    reading: Reading
    prepared: Prepared
    """Its run, on the first device."""
    pairs: Sequence[Pair]
    made: Mapping[str, Lazy]
    """Our parameters by their unrolled paths."""

    def variables(self) -> Variables:
        """All parameters, in memory. Raises UserError if a file is damaged."""
        return Variables(filled(self.prepared.shapes.params, reader(self.made)), {})


def read_model(source: str) -> Mapped:
    """The model of a folder of any known format.

    Raises:
      UserError: if the source is damaged, incomplete, or is something that vljax has nothing for.
    """
    path = Path(source).expanduser()
    chosen = formats.detect(path)
    if chosen.read is None:
        raise UserError(f"{source}: vljax writes {chosen.what}, and does not read it")
    reading = chosen.read(path)
    prepared = prepare(reading.run, jax.devices()[:1])
    check_ids(reading.run, reading.tokenizer)
    pairs = pair(reading.rules, stored.unrolled_shapes(prepared.shapes.params), reading.what)
    made = to_own(pairs, reading.tensors, reading.ignored, source)
    return Mapped(reading, prepared, pairs, made)
