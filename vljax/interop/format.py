"""What a foreign format is: a file of its own that reads, writes, or both."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vljax.config import UserError
from vljax.data.pipeline.pipeline import Data
from vljax.data.sources import JsonLines
from vljax.data.tokenizers import HuggingFace, LoadedTokenizer, SentencePiece
from vljax.data.transforms import ChooseText, Decode, Transform
from vljax.interop.export_issues import Losses
from vljax.interop.mapping import Rule
from vljax.interop.safetensors_files import Progress
from vljax.interop.stored import StoredParameter
from vljax.interop.tensors import Lazy, Tensor
from vljax.models.assembly import ModelConfig
from vljax.models.encoder import Encoder
from vljax.models.encoders import TextTransformer, ViT
from vljax.models.heads.embedding import Embedding
from vljax.models.layers.transformer import TransformerConfig
from vljax.models.precision import Precision
from vljax.objectives.objective import Objective
from vljax.run import Run


@dataclass(frozen=True)
class Reading:
    """A foreign model in terms of vljax; no array is read yet."""

    what: str
    """The foreign format, for people."""
    run: Run
    tokenizer: LoadedTokenizer
    tensors: Mapping[str, Tensor]
    rules: Sequence[Rule]
    ignored: Sequence[str] = ()
    """Expressions of foreign names that hold no parameters."""
    notes: Sequence[str] = ()
    """What a person should know."""


@dataclass(frozen=True)
class Trained:
    """A vljax checkpoint that is to leave; no array is read yet."""

    run: Run
    tokenizer: LoadedTokenizer
    parameters: Mapping[str, StoredParameter]
    """By their unrolled paths."""
    statistics: Mapping[str, StoredParameter]
    """What the model has beside its parameters (batch statistics), by paths."""
    files: Mapping[str, bytes]
    """What stands beside the arrays."""
    vocabulary: Path | None
    """A `tokenizer.json` in place of a vocabulary that is built in."""
    dtype: str
    """What the arrays are written in."""
    step: int = 0
    """Of the checkpoint."""
    quantize: str | None = None
    """How kernels are quantized, one of `quantization.FORMS`."""


WriteTensors = Callable[[Path, Mapping[str, Lazy], Progress], Sequence[Path]]


@dataclass(frozen=True)
class Writing:
    """A vljax model in terms of a foreign format."""

    rules: Sequence[Rule]
    files: Mapping[str, bytes]
    """Everything but the arrays, by name."""
    write: WriteTensors
    """Writes arrays into a folder; returns the files."""


@dataclass(frozen=True)
class Format:
    """A foreign format."""

    what: str
    """In a few words."""
    recognises: Callable[[Path], bool]
    """Whether a path looks like it; reads little."""
    read: Callable[[Path], Reading] | None = None
    """Raises UserError for what is damaged or has no counterpart here."""
    write: Callable[[Trained, Losses], Writing] | None = None
    """Raises UserError for what has no counterpart there."""
    takes_statistics: bool = False
    """Whether what is written has a place for batch statistics."""
    takes_vocabulary: bool = False
    """Whether it holds vocabularies that are built in here."""


# What image towers have in the formats of one kind of model only.
PLAIN_IMAGE = {
    "positions": "learned",
    "registers": 0,
    "mask_token": False,
    "table_size": None,
    "position_filter": "bilinear",
}
PLAIN_STACK = {"layer_scale": None, "post_norm": False}


def two_towers(
    trained: Trained, losses: Losses, image_kind: type[ViT] = ViT
) -> tuple[ViT, TextTransformer, Embedding, str]:
    """The parts of a model with an image and a text tower, and the name of its head.

    Args:
      trained: the checkpoint.
      losses: is asked where something cannot be expressed.
      image_kind: what the image tower is.

    Raises:
      UserError: if the model is made of anything else.
    """
    model = trained.run.model
    image, text = model.encoders.get("image"), model.encoders.get("text")
    heads = list(model.heads.items())
    if set(model.encoders) != {"image", "text"} or len(heads) != 1:
        parts = [*model.encoders, *model.heads]
        losses.refuse("model", parts, "an image tower, a text tower and an embedding head")
    name, head = heads[0]
    for path, part, kind in (
        ("encoders.image", image, image_kind),
        ("encoders.text", text, TextTransformer),
        (f"heads.{name}", head, Embedding),
    ):
        if type(part) is not kind:
            losses.refuse(f"model.{path}", getattr(part, "type_name", part), kind.type_name)
    assert isinstance(image, ViT)
    assert isinstance(text, TextTransformer)
    assert isinstance(head, Embedding)
    losses.require({**PLAIN_IMAGE, **PLAIN_STACK}, image, "model.encoders.image")
    losses.require({**PLAIN_STACK, "position_offset": 0}, text, "model.encoders.text")
    for tower, path in ((image, "model.encoders.image"), (text, "model.encoders.text")):
        require_activation(tower, losses, path)
    for stream, projection in head.projections.items():
        if projection == "tanh":
            path = f"model.heads.{name}.projections.{stream}"
            losses.refuse(path, projection, "none, linear and affine")
    losses.require({"normalize": True}, head, f"model.heads.{name}")
    for label, objective in trained.run.objectives.items():
        similarity = getattr(objective, "similarity", "cosine")
        if similarity != "cosine":
            losses.refuse(f"objectives.{label}.similarity", similarity, "'cosine'")
    return image, text, head, name


def require_activation(tower: TransformerConfig, losses: Losses, path: str) -> None:
    """Raises UserError for MLPs with a gate."""
    if tower.activation == "swiglu":
        losses.refuse(f"{path}.activation", tower.activation, "gelu, gelu_tanh and quick_gelu")


def imported_run(
    image: ViT | None,
    text: TextTransformer | None,
    head: Embedding,
    images: Sequence[Transform],
    tokenizer: LoadedTokenizer,
    objective: Objective | None,
) -> Run:
    """A recipe around an imported model: what it is is known, how to go on training is not.

    Data and steps have to be set by whoever trains it; images and texts go in as the foreign
    pipeline takes them. A single tower has no objective.
    """
    config = tokenizer.config
    if isinstance(config, HuggingFace | SentencePiece):
        config = dataclasses.replace(config, path=None)
    transforms = (Decode(), *images)
    towers: dict[str, Encoder | None] = {"image": image, "text": text}
    encoders = {name: tower for name, tower in towers.items() if tower is not None}
    return Run(
        model=ModelConfig(encoders, {"embedding": head}),
        data=Data(
            source=JsonLines(),
            tokenizer=config,
            train_transforms=(*transforms, ChooseText("random")),
            eval_transforms=(*transforms, ChooseText()),
        ),
        objectives={} if objective is None else {"contrastive": objective},
        precision=Precision("float32"),
        steps=1,
        global_batch=1,
    )


def read_json(file: Path) -> Any:
    """The content of a JSON file. Raises UserError if it is missing or none."""
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except ValueError as error:
        raise UserError(f"{file}: no JSON ({error})") from error


def to_json(data: Any) -> bytes:
    """Data as the content of a JSON file."""
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
