"""The trained model to export, the export plan, and export issues."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from vljax.config import UserError
from vljax.data.tokenizers import LoadedTokenizer
from vljax.interop.files.safetensors import Progress
from vljax.interop.files.tensors import Lazy, Tensor
from vljax.interop.formats import ACCEPTABLE
from vljax.interop.mapping import Rule
from vljax.models.encoders import TextTransformer, ViT
from vljax.models.heads.embedding import Embedding
from vljax.models.layers.transformer import TransformerConfig
from vljax.models.node import Encoder
from vljax.run import Run

Tower = TypeVar("Tower", bound=Encoder)


@dataclass(frozen=True)
class TrainedModel:
    """A vljax checkpoint to export. No array has been read yet."""

    run: Run
    tokenizer: LoadedTokenizer
    parameters: Mapping[str, Tensor]
    """By unrolled path; EMA parameters where the run kept them."""
    statistics: Mapping[str, Tensor]
    """State beside the parameters (batch statistics), by path."""
    files: Mapping[str, bytes]
    """The checkpoint's other files: recipe, preprocessing, tokenizer."""
    vocabulary: Path | None
    """A `tokenizer.json` to use in place of a built-in vocabulary."""
    dtype: str
    """The data type to write arrays in."""
    step: int = 0
    """The step of the checkpoint."""
    quantize: str | None = None
    """How to quantize kernels, one of `quantization.FORMS`."""


WriteTensors = Callable[[Path, Mapping[str, Lazy], Progress], Sequence[Path]]


@dataclass(frozen=True)
class ExportPlan:
    """A vljax model in terms of a foreign format, ready to be written."""

    rules: Sequence[Rule]
    """How our names and layouts map to foreign ones."""
    files: Mapping[str, bytes]
    """All files except the arrays, by name."""
    write: WriteTensors
    """Writes arrays into a folder, and returns the files that hold them."""


@dataclass
class ExportIssues:
    """Stops an export at what the format cannot express, unless the user accepted that issue.

    >>> issues = ExportIssues("open_clip", accepted=["resize"])
    >>> issues.record("resize", "resizing without antialiasing")
    >>> issues.notes
    ['resizing without antialiasing (images are resized or cropped slightly differently)']
    >>> issues.refuse("model.nodes.text.pooling", "mean", "first, last and eos")
    Traceback (most recent call last):
    vljax.config.UserError: open_clip cannot express model.nodes.text.pooling = 'mean'; it has \
first, last and eos
    """

    target: str
    """The foreign format, for messages."""
    accepted: Collection[str] = ()
    """Names from `ACCEPTABLE`."""
    notes: list[str] = field(default_factory=list)
    """The accepted issues that came up, and other advice for the user."""

    def refuse(self, path: str, value: Any, supported: str) -> None:
        """Raises UserError that says which recipe field the format cannot express."""
        raise UserError(f"{self.target} cannot express {path} = {value!r}; it has {supported}")

    def require(self, wanted: Mapping[str, Any], part: Any, path: str) -> None:
        """Raises UserError for the first field of a recipe part that differs from `wanted`."""
        for name, value in wanted.items():
            found = getattr(part, name)
            if found != value:
                self.refuse(f"{path}.{name}", found, repr(value))

    def record(self, issue: str, message: str) -> None:
        """Notes an issue that the user accepted.

        Args:
          issue: one of `ACCEPTABLE`.
          message: what cannot be expressed, and what the format does instead.

        Raises:
          UserError: if the user did not accept this issue.
        """
        if issue not in self.accepted:
            raise UserError(
                f"{self.target} cannot express {message}; --accept {issue} exports it anyway"
            )
        self.notes.append(f"{message} ({ACCEPTABLE[issue]})")


# Image tower fields that only some formats can express, with the values that all can.
_COMMON_IMAGE = {
    "positions": "learned",
    "registers": 0,
    "mask_token": False,
    "table_size": None,
    "position_filter": "bilinear",
}
_COMMON_STACK = {"layer_scale": None, "post_norm": False}


def two_towers(
    trained: TrainedModel, issues: ExportIssues, image_type: type[ViT] = ViT
) -> tuple[ViT, TextTransformer, Embedding, str]:
    """The image tower, text tower and embedding head of a CLIP-like model, and the head's name.

    Raises:
      UserError: if the model has other parts, or fields that two-tower formats cannot express.
    """
    model = trained.run.model
    image, text = model.encoders.get("image"), model.encoders.get("text")
    heads = list(model.heads.items())
    if set(model.encoders) != {"image", "text"} or len(heads) != 1 or len(model.nodes) != 3:
        issues.refuse("model", [*model.nodes], "an image tower, a text tower and an embedding head")
    name, head = heads[0]
    for path, part, kind in (
        ("nodes.image", image, image_type),
        ("nodes.text", text, TextTransformer),
        (f"nodes.{name}", head, Embedding),
    ):
        if type(part) is not kind:
            issues.refuse(f"model.{path}", getattr(part, "type_name", part), kind.type_name)
    assert isinstance(image, ViT)
    assert isinstance(text, TextTransformer)
    assert isinstance(head, Embedding)
    issues.require({**_COMMON_IMAGE, **_COMMON_STACK}, image, "model.nodes.image")
    issues.require({**_COMMON_STACK, "position_offset": 0}, text, "model.nodes.text")
    for tower, path in ((image, "model.nodes.image"), (text, "model.nodes.text")):
        refuse_gated_mlp(tower, issues, path)
    for stream, projection in head.projections.items():
        if projection == "tanh":
            path = f"model.nodes.{name}.projections.{stream}"
            issues.refuse(path, projection, "none, linear and affine")
    issues.require({"normalize": True}, head, f"model.nodes.{name}")
    for label, objective in trained.run.objectives.items():
        similarity = getattr(objective, "similarity", "cosine")
        if similarity != "cosine":
            issues.refuse(f"objectives.{label}.similarity", similarity, "'cosine'")
    return image, text, head, name


def single_tower(
    trained: TrainedModel, issues: ExportIssues, name: str, kind: type[Tower]
) -> tuple[Tower, Embedding, str]:
    """The tower of a model with one encoder, its head, and the head's name.

    Raises:
      UserError: if the model has other parts, or a head with another projection than a pooler.
    """
    model = trained.run.model
    tower, heads = model.encoders.get(name), list(model.heads.items())
    if set(model.encoders) != {name} or len(heads) != 1 or len(model.nodes) != 2:
        issues.refuse("model", [*model.nodes], f"the tower {name!r} and a head")
    if type(tower) is not kind:
        issues.refuse(f"model.nodes.{name}", getattr(tower, "type_name", tower), kind.type_name)
    label, head = heads[0]
    path = f"model.nodes.{label}"
    if not isinstance(head, Embedding):
        issues.refuse(path, head.type_name, "embedding")
    assert isinstance(head, Embedding)
    assert isinstance(tower, kind)
    issues.require({"normalize": False}, head, path)
    if head.projections.get(name) not in ("none", "tanh"):
        issues.refuse(f"{path}.projections", head.projections, "none, or tanh as a pooler")
    return tower, head, label


def refuse_gated_mlp(tower: TransformerConfig, issues: ExportIssues, path: str) -> None:
    """Raises UserError if the tower's MLPs are gated (swiglu)."""
    if tower.activation == "swiglu":
        issues.refuse(f"{path}.activation", tower.activation, "gelu, gelu_tanh and quick_gelu")
