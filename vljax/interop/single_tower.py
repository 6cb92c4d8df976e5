"""A model that is one tower, with or without a pooler: an encoder of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from vljax.data.tokenizers import Clip, LoadedTokenizer
from vljax.data.transforms import Resize, Transform
from vljax.interop.export_issues import Losses
from vljax.interop.format import Trained, imported_run
from vljax.interop.tensors import Tensor
from vljax.models.encoder import Encoder
from vljax.models.encoders import TextTransformer, ViT
from vljax.models.heads.embedding import Embedding
from vljax.run import Run

Tower = TypeVar("Tower", bound=Encoder)

# What a run has to hold for the modality that the tower does not read.
_NO_IMAGES = Resize(224)


def image_run(tower: ViT, head: Embedding, transforms: Sequence[Transform]) -> Run:
    """A recipe around an image tower; its tokenizer is one that needs no file."""
    return imported_run(tower, None, head, transforms, no_texts(), None)


def text_run(tower: TextTransformer, head: Embedding, tokenizer: LoadedTokenizer) -> Run:
    """A recipe around a text tower; its images are never looked at."""
    return imported_run(None, tower, head, (_NO_IMAGES,), tokenizer, None)


def no_texts() -> LoadedTokenizer:
    """The tokenizer of a model that reads no texts."""
    return Clip().load()


def one_tower(
    trained: Trained, losses: Losses, name: str, kind: type[Tower]
) -> tuple[Tower, Embedding, str]:
    """The tower of a model that is one, its head, and the name of the head.

    Raises:
      UserError: if the model is made of anything else, or its head is no pooler.
    """
    model = trained.run.model
    tower, heads = model.encoders.get(name), list(model.heads.items())
    if set(model.encoders) != {name} or len(heads) != 1:
        losses.refuse("model", [*model.encoders, *model.heads], f"the tower {name!r} and a head")
    if type(tower) is not kind:
        losses.refuse(f"model.encoders.{name}", getattr(tower, "type_name", tower), kind.type_name)
    label, head = heads[0]
    path = f"model.heads.{label}"
    if not isinstance(head, Embedding):
        losses.refuse(path, head.type_name, "embedding")
    assert isinstance(head, Embedding)
    assert isinstance(tower, kind)
    losses.require({"normalize": False}, head, path)
    if head.projections.get(name) not in ("none", "tanh"):
        losses.refuse(f"{path}.projections", head.projections, "none, or tanh as a pooler")
    return tower, head, label


def read_head(
    name: str, width: int, tensors: Mapping[str, Tensor], pooled: int | None = None
) -> Embedding:
    """The head of a tower: a pooler where the file has one.

    Args:
      name: of the tower.
      width: of the tower.
      tensors: of the file.
      pooled: the size of what comes out of a pooler; that of the tower if None.
    """
    if "pooler.dense.weight" not in tensors:
        return Embedding(width, {name: "none"}, normalize=False)
    return Embedding(pooled or width, {name: "tanh"}, normalize=False)


def unprefixed(
    tensors: Mapping[str, Tensor], prefixes: Sequence[str], heads: str
) -> tuple[dict[str, Tensor], list[str]]:
    """A tower's tensors by the names that it has alone, and a note on what is left out.

    Args:
      tensors: of the tower, or of a model with a head for some task around it.
      prefixes: the name of the tower in such models: `bert.`.
      heads: a description of the names of heads, for `ignored`.
    """
    found = dict(tensors)
    for prefix in prefixes:
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    left = sorted(name for name in found if re.fullmatch(heads, name))
    note = f"left out, being heads of tasks: {', '.join(left)}"
    return found, [note] if left else []
