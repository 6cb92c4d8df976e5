"""Weights of other software as the initial values of a run."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vljax.config import UserError, suggest
from vljax.interop import big_vision, efficientnet_lite
from vljax.interop.files.read import read_tensors, split_path
from vljax.interop.files.tensors import Lazy, Tensor
from vljax.interop.foreign_model import unprefixed
from vljax.interop.mapping import BATCHED, Pair, Rule, pair, rule, to_own
from vljax.interop.transformers import bert, resnet, vit
from vljax.models.assembly import ModelConfig, Variables
from vljax.models.encoders import EfficientNetLite, ResNet, TextTransformer, ViT
from vljax.models.heads.embedding import Embedding
from vljax.models.low_rank import without_factors
from vljax.models.node import Encoder
from vljax.models.parameters import filled, unrolled_shapes
from vljax.models.pretrained import Pretrained
from vljax.run import Prepared, Run

Shape = tuple[int, ...]

_Source = tuple[Sequence[Rule], Mapping[str, Tensor], Sequence[str]]
"""Rules, arrays, and regular expressions of names to leave out."""

_POOLER, _MASK_TOKEN = r"pooler\..*", r"embeddings\.mask_token"
_ENCODERS: dict[str, tuple[type[Encoder], ...]] = {
    "efficientnet_lite": (EfficientNetLite,),
    "resnet": (ResNet,),
    "bit": (ResNet,),
    "bert": (TextTransformer,),
    "roberta": (TextTransformer,),
    "vit": (ViT,),
    "dinov2": (ViT,),
    "big_vision": (ViT, TextTransformer),
}


def pinned(run: Run) -> Run:
    """The run with the digests of its weights files, so that they belong to its identity.

    A file that does not exist here is left without a digest.

    Raises:
      UserError: if a file has another digest than the recipe states.
    """
    pretrained = {}
    for name, source in run.pretrained.items():
        digest = None if source.path is None else _digest(source.path)
        if digest and source.sha256 and digest != source.sha256:
            raise UserError(
                f"pretrained.{name}.sha256: {source.path} has the digest {digest}, not"
                f" {source.sha256}: it is another file"
            )
        pretrained[name] = dataclasses.replace(source, sha256=source.sha256 or digest)
    return dataclasses.replace(run, pretrained=pretrained)


def _digest(path: str) -> str | None:
    file, _ = split_path(path)
    if not os.path.isfile(file):  # also for a name that no system allows
        return None
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def check(prepared: Prepared) -> None:
    """Raises UserError if weights are missing or do not fit the model. Reads no arrays."""
    for name, source in prepared.run.pretrained.items():
        if source.path is None:
            continue
        file, _ = split_path(source.path)
        if not file.is_file():
            raise UserError(f"pretrained.{name}.path: no such file: {file}")
        map_file(prepared, name, source)


def load(prepared: Prepared) -> Variables | None:
    """The variables with pretrained values, in the model's scan layout; None if there are none.

    Raises:
      UserError: if a file is unset, missing, damaged, or does not fit the model.
    """
    return variables(prepared, arrays(prepared))


def arrays(prepared: Prepared) -> dict[str, Lazy]:
    """Pretrained values by unrolled path; no array is read yet. Raises UserError as `load` does."""
    made: dict[str, Lazy] = {}
    for name, source in prepared.run.pretrained.items():
        if source.path is None:
            field = f"pretrained.{name}.path"
            joined = ", or" if source.install else ";"
            raise UserError(f"{field}: {source.unset_message}{joined} add --{field} PATH")
        made |= map_file(prepared, name, source)[1]
    return made


def variables(prepared: Prepared, made: Mapping[str, Lazy]) -> Variables | None:
    """Values by unrolled path, read into memory in the model's scan layout; None without any.

    Raises:
      UserError: if a file is damaged.
    """
    if not made:
        return None
    params = filled(prepared.shapes.params, reader(made))
    state = {kind: filled(tree, reader(made)) for kind, tree in prepared.shapes.state.items()}
    return Variables(params, {kind: tree for kind, tree in state.items() if tree})


def reader(made: Mapping[str, Lazy]) -> Callable[[str, Any], np.ndarray | None]:
    """A function for `parameters.filled`: the array at a path in the model's data type, or None."""

    def read(path: str, leaf: Any) -> np.ndarray | None:
        return made[path].read().astype(leaf.dtype, copy=False) if path in made else None

    return read


def map_file(
    prepared: Prepared, name: str, source: Pretrained
) -> tuple[Sequence[Pair], dict[str, Lazy]]:
    """The arrays of a file for one encoder or learned scalar. No array is read yet.

    Args:
      prepared: the run.
      name: the name of the encoder or scalar.
      source: the file and its layout.

    Returns:
      The pairs, and our arrays: parameters by unrolled path, statistics by module path.

    Raises:
      UserError: if the file is missing, or does not fit the model.
    """
    model, own, path = prepared.run.model, own_shapes(prepared), str(source.path)
    if name in model.encoders:
        rules, tensors, ignored = _encoder(model, name, source)
    else:
        rules, tensors, ignored = _scalar(name, source, own)
    tops = {each.own[0].partition("/")[0] for each in rules}
    wanted = {k: v for k, v in own.items() if k.partition("/")[0] in tops}
    if name in model.encoders:
        # A head also holds the projections of the other towers.
        parts = {f"{head}/{name}/" for head in model.heads} | {f"{name}/"}
        wanted = {k: v for k, v in wanted.items() if k.startswith(tuple(parts))}
    pairs = pair(rules, wanted, path)
    return pairs, to_own(pairs, tensors, ignored, path)


def _encoder(model: ModelConfig, name: str, source: Pretrained) -> _Source:
    encoder, path = model.encoders[name], str(source.path)
    if not isinstance(encoder, _ENCODERS[source.layout]):
        known = " or ".join(known.type_name for known in _ENCODERS[source.layout])
        raise UserError(
            f"pretrained.{name}.layout: {source.layout} is for {known}, but"
            f" model.nodes.{name} is {encoder.type_name}"
        )
    if isinstance(encoder, EfficientNetLite):
        found = read_tensors(path)
        return efficientnet_lite.rules(name, encoder), found, efficientnet_lite.IGNORED
    if isinstance(encoder, ResNet):
        resnet.check(name, encoder, source.layout)
        found, _ = unprefixed(read_tensors(path), resnet.PREFIXES, resnet.HEADS)
        return resnet.rules(name, encoder, source.layout), found, resnet.IGNORED
    if source.layout in ("bert", "roberta"):
        assert isinstance(encoder, TextTransformer)
        bert.check(name, encoder, source.layout)
        found = bert.adapted(read_tensors(path), encoder, path)
        return bert.rules(name), found, (*bert.IGNORED, _POOLER)
    if source.layout in ("vit", "dinov2"):
        assert isinstance(encoder, ViT)
        vit.check(name, encoder, source.layout)
        found, _ = unprefixed(read_tensors(path), vit.PREFIXES, vit.HEADS)
        ignored = (*vit.IGNORED, _POOLER, *(() if encoder.mask_token else (_MASK_TOKEN,)))
        return vit.rules(name, encoder), found, ignored
    assert isinstance(encoder, ViT | TextTransformer)
    return _big_vision(model, name, encoder, path)


def _big_vision(
    model: ModelConfig, name: str, encoder: ViT | TextTransformer, path: str
) -> _Source:
    """A single tower without its classifier, or one of two towers with its projection."""
    of_two = split_path(path)[1] is not None  # a part of the file is named
    tensors = read_tensors(path)
    if not of_two and big_vision.has_towers(tensors):
        of_two, tensors = True, read_tensors(f"{path}:{big_vision.SUBTREES.get(name, name)}")
    tensors = big_vision.adapted(tensors, encoder)
    heads = [
        head
        for head, part in model.heads.items()
        if isinstance(part, Embedding) and part.projections.get(name) in ("linear", "affine")
    ]
    projection = f"{heads[0]}/{name}" if heads and of_two and "head/kernel" in tensors else None
    ignored = () if of_two else ("head/(kernel|bias)",)
    return big_vision.rules(name, encoder, projection), tensors, ignored


def _scalar(name: str, source: Pretrained, own: Mapping[str, Shape]) -> _Source:
    """A learned scalar; only files of big_vision have those."""
    known = big_vision.SUBTREES.get(name)
    if known is None or own.get(name) != ():
        parts = [path for path in own if "/" not in path] + [*{p.partition("/")[0] for p in own}]
        raise UserError(
            f"pretrained: the model has no encoder or learned scalar {name!r}{suggest(name, parts)}"
        )
    if source.layout != "big_vision":
        raise UserError(f"pretrained.{name}.layout: {source.layout} has no learned scalars")
    path = str(source.path)
    tensors = read_tensors(path if split_path(path)[1] else f"{path}:{known}")
    return [rule(name, "", BATCHED)], tensors, ()


def own_shapes(prepared: Prepared) -> dict[str, Shape]:
    """The shapes of parameters by unrolled path, and of statistics by module path.

    Low-rank factors are left out: they begin with their initial values.
    """
    shapes = unrolled_shapes(without_factors(prepared.shapes.params))
    for tree in prepared.shapes.state.values():
        shapes |= unrolled_shapes(tree)
    return shapes
