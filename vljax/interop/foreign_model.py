"""A foreign model as a format's reader returns it, and the recipes that readers build for it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vljax.data.pipeline.pipeline import Data
from vljax.data.sources import JsonLines
from vljax.data.tokenizers import Clip, HuggingFace, LoadedTokenizer, SentencePiece
from vljax.data.transforms import ChooseText, Decode, Resize, Tokenize, Transform
from vljax.interop.files.tensors import Tensor
from vljax.interop.mapping import Rule
from vljax.models.assembly import ModelConfig
from vljax.models.encoders import TextTransformer, ViT
from vljax.models.heads.embedding import Embedding
from vljax.models.node import Encoder
from vljax.models.numerics import Precision
from vljax.objectives.objective import Objective
from vljax.run import Run


@dataclass(frozen=True)
class ForeignModel:
    """A foreign model described in vljax's terms. No array has been read yet."""

    format_title: str
    """The foreign format, for messages."""
    run: Run
    """A recipe for the same model, preprocessing and tokenizer."""
    tokenizer: LoadedTokenizer
    tensors: Mapping[str, Tensor]
    """The foreign arrays by their foreign names."""
    rules: Sequence[Rule]
    """How foreign names and layouts map to ours."""
    ignored: Sequence[str] = ()
    """Regular expressions of foreign names that do not hold parameters."""
    notes: Sequence[str] = ()
    """What the user should know."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Files of a checkpoint, such as vocabularies, that the recipe alone cannot make again."""


def imported_run(
    image: ViT | None,
    text: TextTransformer | None,
    head: Embedding,
    images: Sequence[Transform],
    tokenizer: LoadedTokenizer,
    objective: Objective | None,
) -> Run:
    """A recipe around an imported model.

    It describes the model and its preprocessing. Data and steps are placeholders, to
    be set before training. A single tower has no objective.
    """
    config = tokenizer.config
    if isinstance(config, HuggingFace | SentencePiece):
        config = dataclasses.replace(config, path=None)
    transforms = (Decode(), *images)
    towers: dict[str, Encoder | None] = {"image": image, "text": text}
    encoders = {name: tower for name, tower in towers.items() if tower is not None}
    return Run(
        model=ModelConfig({**encoders, "embedding": head}),
        data=Data(
            source=JsonLines(),
            tokenizers={"text": config},
            train_transforms=(*transforms, ChooseText("random"), Tokenize()),
            eval_transforms=(*transforms, ChooseText(), Tokenize()),
        ),
        objectives={} if objective is None else {"contrastive": objective},
        precision=Precision("float32"),
        steps=1,
        global_batch=1,
    )


# --- Single towers: models with one encoder, with or without a pooler ---


def image_run(tower: ViT, head: Embedding, transforms: Sequence[Transform]) -> Run:
    """A recipe around a single image tower."""
    return imported_run(tower, None, head, transforms, placeholder_tokenizer(), None)


def text_run(tower: TextTransformer, head: Embedding, tokenizer: LoadedTokenizer) -> Run:
    """A recipe around a single text tower."""
    # A recipe needs image transforms; this model never reads an image.
    return imported_run(None, tower, head, (Resize(224),), tokenizer, None)


def placeholder_tokenizer() -> LoadedTokenizer:
    """The tokenizer of a model that reads no texts. A recipe needs one; CLIP's needs no file."""
    return Clip().load()


def read_head(
    name: str, width: int, tensors: Mapping[str, Tensor], pooled: int | None = None
) -> Embedding:
    """The head of a single tower: a pooler if the file has one, else no projection.

    Args:
      name: the encoder's name, `image` or `text`.
      width: the encoder's width.
      tensors: the arrays of the file.
      pooled: the output size of the pooler; the encoder's width if None or 0.
    """
    if "pooler.dense.weight" not in tensors:
        return Embedding(width, {name: "none"}, normalize=False)
    return Embedding(pooled or width, {name: "tanh"}, normalize=False)


def unprefixed(
    tensors: Mapping[str, Tensor], prefixes: Sequence[str], task_heads: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a tower, without the prefixes of the model that contains it.

    Args:
      tensors: a tower, or a model for some task that contains the tower.
      prefixes: the tower's prefixes in such models, such as `bert.`.
      task_heads: a regular expression of the names of task heads.

    Returns:
      The tensors, and a note that names the task heads that import leaves out.
    """
    found = dict(tensors)
    for prefix in prefixes:
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    left_out = sorted(name for name in found if re.fullmatch(task_heads, name))
    note = f"left out, since they are heads for tasks: {', '.join(left_out)}"
    return found, [note] if left_out else []
