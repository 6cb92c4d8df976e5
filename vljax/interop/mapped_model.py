"""A foreign model whose arrays are mapped to our parameters, ready to be imported."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from vljax.config import UserError
from vljax.data.tokenizers.base import load_named
from vljax.interop import big_vision
from vljax.interop.files.read import read_tensors
from vljax.interop.files.tensors import Lazy
from vljax.interop.foreign_model import ForeignModel
from vljax.interop.formats import detect_format
from vljax.interop.mapping import Pair, pair, to_own
from vljax.interop.plain import without_paths
from vljax.interop.pretrained import map_file, reader
from vljax.models.assembly import Variables
from vljax.models.layers.transformer import TransformerConfig
from vljax.models.node import Node
from vljax.models.parameters import filled, unrolled_shapes
from vljax.models.pretrained import Pretrained
from vljax.parallel.mesh import MeshConfig, find_devices
from vljax.run import Prepared, Run, check_ids, prepare


@dataclass(frozen=True)
class MappedModel:
    """A foreign model with a source for each of our parameters. No array has been read yet."""

    foreign: ForeignModel
    prepared: Prepared
    """Its run, prepared for the first device."""
    pairs: Sequence[Pair]
    """Which foreign array holds which parameters."""
    parameters: Mapping[str, Lazy]
    """Our parameters by unrolled path."""

    def variables(self) -> Variables:
        """All parameters, read into memory. Raises UserError if a file is damaged."""
        return Variables(filled(self.prepared.shapes.params, reader(self.parameters)), {})


def read_model(source: str, recipe: Run | None = None, *, scan: bool = False) -> MappedModel:
    """The model in a folder of any known format, or in a file that holds only weights.

    Args:
      source: the folder or file.
      recipe: for a file of weights, the model, preprocessing and tokenizer that belong to it.
      scan: whether stacks of layers are scanned, which compiles faster. Imported checkpoints hold
        them unrolled.

    Raises:
      UserError: if the source is damaged or incomplete, or vljax has no such model.
    """
    if recipe is not None:
        return _read_by_recipe(source, with_scan(recipe, scan))
    path = Path(os.path.expanduser(source))
    chosen = detect_format(path)
    if chosen.read is None:
        raise UserError(f"{source}: vljax can write {chosen.title}, but not read it")
    foreign = chosen.read(path)
    foreign = replace(foreign, run=with_scan(foreign.run, scan))
    prepared = prepare(foreign.run, find_devices()[:1])
    check_ids(foreign.run, {"text": foreign.tokenizer})
    shapes = unrolled_shapes(prepared.shapes.params)
    pairs = pair(foreign.rules, shapes, foreign.format_title)
    parameters = to_own(pairs, foreign.tensors, foreign.ignored, source)
    return MappedModel(foreign, prepared, pairs, parameters)


def with_scan(run: Run, scan: bool) -> Run:
    """The run with all stacks scanned whose blocks are alike, or none."""
    nodes = {
        name: cast("Node", replace(node, scan=scan and node.cross_every == 1))
        if isinstance(node, TransformerConfig)
        else node
        for name, node in run.model.nodes.items()
    }
    return replace(run, model=replace(run.model, nodes=nodes))


def _read_by_recipe(source: str, recipe: Run) -> MappedModel:
    """A file of big_vision, mapped for each encoder and scalar of the recipe's model."""
    if "text" not in recipe.data.tokenizers:
        raise UserError("data.tokenizers: import needs the one named text")
    tokenizer = load_named("text", recipe.data.tokenizers["text"])
    run = replace(without_paths(recipe), pretrained={}, workdir=None)
    run = replace(run, mesh=MeshConfig(1, 1, 1), attention="auto")
    prepared = prepare(run, find_devices()[:1])
    check_ids(run, {"text": tokenizer})
    own = unrolled_shapes(prepared.shapes.params)
    pairs: list[Pair] = []
    parameters: dict[str, Lazy] = {}
    for name in (*run.model.encoders, *(path for path in own if "/" not in path)):
        found, arrays = map_file(prepared, name, Pretrained(path=source, layout="big_vision"))
        pairs += found
        parameters |= arrays
    parts = big_vision.parts(read_tensors(source))
    if left := parts - {*run.model.encoders, *parameters}:
        raise UserError(f"{source} holds {min(left)!r}, which the recipe's model lacks")
    if missing := sorted(own.keys() - parameters.keys()):
        raise UserError(f"{source} lacks {missing[0]!r}, which the recipe's model has")
    foreign = ForeignModel("a file of big_vision", run, tokenizer, {}, [])
    return MappedModel(foreign, prepared, pairs, parameters)
