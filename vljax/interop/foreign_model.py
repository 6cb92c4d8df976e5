"""A foreign model as it is read: what import writes down, and what is used at once in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import jax

from vljax.config import UserError
from vljax.interop import big_vision, formats, plain
from vljax.interop.files import read_tensors
from vljax.interop.format import Reading
from vljax.interop.mapping import Pair, pair, to_own
from vljax.interop.pretrained import mapped, reader
from vljax.interop.tensors import Lazy
from vljax.models.assembly import Variables
from vljax.models.encoder import Encoder
from vljax.models.layers.transformer import TransformerConfig
from vljax.models.parameters import filled, unrolled_shapes
from vljax.models.pretrained import Pretrained
from vljax.parallel.mesh import MeshConfig
from vljax.run import Prepared, Run, check_ids, prepare


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


def read_model(source: str, recipe: Run | None = None) -> Mapped:
    """The model of a folder of any known format, or of a file of weights alone.

    Args:
      source: the folder or file.
      recipe: for a file, which says nothing of the model or of how texts and images are made its
        input.

    Raises:
      UserError: if the source is damaged, incomplete, or is something that vljax has nothing for.
    """
    if recipe is not None:
        return _by_recipe(source, recipe)
    path = Path(source).expanduser()
    chosen = formats.detect(path)
    if chosen.read is None:
        raise UserError(f"{source}: vljax writes {chosen.what}, and does not read it")
    reading = chosen.read(path)
    reading = replace(reading, run=_unrolled(reading.run))
    prepared = prepare(reading.run, jax.devices()[:1])
    check_ids(reading.run, reading.tokenizer)
    pairs = pair(reading.rules, unrolled_shapes(prepared.shapes.params), reading.what)
    made = to_own(pairs, reading.tensors, reading.ignored, source)
    return Mapped(reading, prepared, pairs, made)


def _unrolled(run: Run) -> Run:
    """The run with stacks as imported checkpoints hold them: each layer apart."""
    encoders = {
        name: cast("Encoder", replace(encoder, scan=False))
        if isinstance(encoder, TransformerConfig)
        else encoder
        for name, encoder in run.model.encoders.items()
    }
    return replace(run, model=replace(run.model, encoders=encoders))


def _by_recipe(source: str, recipe: Run) -> Mapped:
    """A file of big_vision, of whose parts each of the model's gets its own."""
    tokenizer = recipe.data.tokenizer.load()
    run = replace(_unrolled(plain.without_paths(recipe)), pretrained={}, workdir=None)
    run = replace(run, mesh=MeshConfig(1, 1, 1), attention="auto")
    prepared = prepare(run, jax.devices()[:1])
    check_ids(run, tokenizer)
    own = unrolled_shapes(prepared.shapes.params)
    pairs: list[Pair] = []
    made: dict[str, Lazy] = {}
    for name in (*run.model.encoders, *(path for path in own if "/" not in path)):
        found, arrays = mapped(prepared, name, Pretrained(path=source, layout="big_vision"))
        pairs += found
        made |= arrays
    if left := big_vision.parts(read_tensors(source)) - {*run.model.encoders, *made}:
        raise UserError(f"{source}: the recipe's model has no place for {min(left)!r}")
    if missing := sorted(own.keys() - made.keys()):
        raise UserError(f"{source} has nothing for {missing[0]!r}, which the recipe's model has")
    return Mapped(Reading("a file of big_vision", run, tokenizer, {}, []), prepared, pairs, made)
