"""The trained model to export, the export plan, and export issues."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vljax.config import UserError
from vljax.data.tokenizers import LoadedTokenizer, Tokenizer
from vljax.data.tokenizers.base import load_named
from vljax.data.transforms import Transform
from vljax.interop.files.safetensors import Progress
from vljax.interop.files.tensors import Lazy, Tensor
from vljax.interop.formats import ACCEPTABLE, FORMATS, find_format
from vljax.interop.mapping import Pair, Rule, pair
from vljax.models.assembly import ModelConfig
from vljax.models.encoders import TextTransformer, ViT
from vljax.models.heads.embedding import Embedding
from vljax.models.layers.transformer import TransformerConfig
from vljax.models.low_rank import LowRank, without_factors
from vljax.models.node import Encoder
from vljax.models.parameters import unrolled_shapes
from vljax.run import Prepared, Run

Tower = TypeVar("Tower", bound=Encoder)


@dataclass(frozen=True)
class TrainedModel:
    """A vljax checkpoint to export. No array has been read yet."""

    run: Run
    tokenizer: LoadedTokenizer | None
    """The tokenizer of texts; None if a recipe without a checkpoint leaves its path unset, or if
    the model has no tokenizer."""
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

    @property
    def tokenizer_config(self) -> Tokenizer:
        """The fields of the tokenizer, which are known even if its vocabulary is not.

        Raises:
          UserError: if the recipe has no tokenizer.
        """
        if self.tokenizer is not None:
            return self.tokenizer.config
        name, tokenizers = self.run.data.main_tokenizer, self.run.data.tokenizers
        if name not in tokenizers:
            raise UserError(
                f"{self.tokenizer_path}: no tokenizer; add one to data.tokenizers, and a transform"
                " tokenize that uses it"
            )
        return tokenizers[name]

    @property
    def tokenizer_path(self) -> str:
        """The path of the tokenizer in the recipe."""
        return f"data.tokenizers.{self.run.data.main_tokenizer}"


def of_recipe(prepared: Prepared) -> TrainedModel:
    """The model of a recipe as it would be exported after training. Its arrays are zeros.

    Args:
      prepared: the recipe with its shapes.

    Raises:
      UserError: if the tokenizer's path is set, but its vocabulary cannot be read.
    """
    # Low-rank factors are merged into their kernels.
    run, float32 = replace(prepared.run, low_rank=LowRank()), np.dtype(np.float32)
    name, shapes = run.data.main_tokenizer, prepared.shapes
    config = run.data.tokenizers.get(name)
    unset = config is None or getattr(config, "path", "") is None

    def arrays(tree: Any) -> dict[str, Tensor]:
        return {
            path: Lazy(shape, float32, lambda shape=shape: np.zeros(shape, np.float32))  # type: ignore[misc]
            for path, shape in unrolled_shapes(tree).items()
        }

    return TrainedModel(
        run=run,
        tokenizer=None if unset or config is None else load_named(name, config),
        parameters=arrays(without_factors(shapes.params)),
        statistics=arrays(shapes.state),
        files={},
        vocabulary=None,
        dtype="float32",
    )


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


@dataclass(frozen=True)
class ExportIssue:
    """Something that a foreign format cannot express."""

    field: str
    """The recipe field, such as `model.nodes.text.pooling`."""
    message: str
    """One line that names the field, and the remedies."""
    override: tuple[str, ...] = ()
    """The command-line arguments of the recipe that the format could express:
    `("--model.nodes.text.pooling", "eos")`. Empty if there are none."""
    flag: str | None = None
    """The flag of `vljax export` that settles the issue: `--accept resize`."""
    at_export: bool = False
    """Whether only the export can tell: a recipe is not at fault."""


class ExportRefused(UserError):
    """Everything that a format cannot express of a model, a line each."""

    def __init__(self, issues: Sequence[ExportIssue]) -> None:
        self.issues = tuple(issues)
        flags = [*dict.fromkeys(issue.flag for issue in issues)]
        lines = [issue.message for issue in issues]
        if len(flags) > 1 and None not in flags:
            lines.append(f"to export it anyway, add {' '.join(map(str, flags))}")
        super().__init__(*lines)


@dataclass
class ExportIssues:
    """Collects what the format cannot express, unless the user accepted that issue.

    >>> issues = ExportIssues("open_clip", accepted=["resize"])
    >>> issues.record("data.eval_transforms.1.antialias", True, "resize", "no antialiasing")
    >>> issues.notes
    ['no antialiasing (images are resized or cropped slightly differently)']
    >>> issues.refuse("model.nodes.text.pooling", "mean", "first, last and eos", "eos")
    >>> issues.refuse("model.nodes.image.registers", 4, "0", 0)
    >>> issues.stop()
    Traceback (most recent call last):
    vljax.interop.export_plan.ExportRefused: open_clip cannot express model.nodes.text.pooling = \
'mean'; it has first, last and eos; train with --model.nodes.text.pooling eos
    open_clip cannot express model.nodes.image.registers = 4; it has 0; train with \
--model.nodes.image.registers 0
    """

    target: str
    """The foreign format, for messages."""
    accepted: Collection[str] = ()
    """Names from `ACCEPTABLE`."""
    notes: list[str] = field(default_factory=list)
    """The accepted issues that came up, and other advice for the user."""
    found: list[ExportIssue] = field(default_factory=list)
    """The issues that stop the export."""
    _begin: int = 0
    """The number of issues before the part that is being planned."""

    def add(
        self,
        path: str,
        message: str,
        *,
        override: tuple[str, ...] = (),
        flag: str | None = None,
        at_export: bool = False,
    ) -> None:
        """Adds an issue; the arguments are the fields of `ExportIssue`."""
        issue = ExportIssue(path, message, override, flag, at_export)
        if issue not in self.found:
            self.found.append(issue)

    def refuse(self, path: str, value: Any, supported: str, *instead: Any) -> None:
        """Adds a recipe field that the format cannot express.

        Args:
          path: the field.
          value: its value.
          supported: the values that the format has, in words.
          *instead: the value of the field to train with, if one can be named.
        """
        message = f"{self.target} cannot express {path} = {value!r}; it has {supported}"
        override = _arguments(path, instead[0]) if instead else ()
        if override:
            message += f"; train with {shlex.join(override)}"
        self.add(path, message, override=override)

    def require(self, wanted: Mapping[str, Any], part: Any, path: str) -> None:
        """Refuses each field of a recipe part that differs from `wanted`."""
        for name, value in wanted.items():
            found = getattr(part, name)
            if isinstance(found, dict) and isinstance(value, dict) and found.keys() == value.keys():
                for key in found:
                    if found[key] != value[key]:
                        self.refuse(
                            f"{path}.{name}.{key}", found[key], repr(value[key]), value[key]
                        )
            elif found != value:
                instead = () if isinstance(value, dict) else (value,)
                self.refuse(f"{path}.{name}", found, repr(value), *instead)

    def record(self, path: str, instead: Any, issue: str, message: str) -> None:
        """Notes an issue that the user accepted, or adds it.

        Args:
          path: the recipe field.
          instead: its value in a recipe without the issue; None if there is none.
          issue: one of `ACCEPTABLE`.
          message: what cannot be expressed, and what the format does instead.
        """
        if issue in self.accepted:
            self.notes.append(f"{message} ({ACCEPTABLE[issue]})")
            return
        flag = f"--accept {issue}"
        override = () if instead is None else _arguments(path, instead)
        line = f"{self.target} cannot express {message}; {flag} exports it anyway"
        if override:
            line += f", and training with {shlex.join(override)} avoids it"
        self.add(path, line, override=override, flag=flag)

    def stop(self) -> None:
        """Raises ExportRefused if anything was found: in a part, anything in that part."""
        if len(self.found) > self._begin:
            raise ExportRefused(self.found[self._begin :])

    @contextmanager
    def part(self, path: str) -> Iterator[None]:
        """Plans one part of an export. What stops it does not keep the others from being planned.

        Args:
          path: the recipe field of errors that name none.
        """
        outside, self._begin = self._begin, len(self.found)
        try:
            yield
        except ExportRefused:
            pass  # Its issues are among those found.
        except UserError as error:
            self.add(path, str(error))
        finally:
            self._begin = outside


def _arguments(path: str, value: Any) -> tuple[str, ...]:
    """A recipe field as arguments of the command line.

    >>> _arguments("model.nodes.image.layer_scale", None)
    ('--model.nodes.image.layer_scale', 'None')
    >>> _arguments("data.eval_transforms.1.background", (9, 9, 9))
    ('--data.eval_transforms.1.background', '9', '9', '9')
    """
    values = value if isinstance(value, tuple) else (value,)
    return (f"--{path}", *map(str, values))


def plan_export(
    trained: TrainedModel, format_name: str, accept: Collection[str] = ()
) -> tuple[ExportPlan, list[Pair], list[str]]:
    """How a model is written in a format; no array is read, and nothing is compiled.

    `vljax export` and `vljax check --for` both call this.

    Args:
      trained: a checkpoint, or a recipe (`of_recipe`).
      format_name: a key of `formats.FORMATS`.
      accept: export issues to accept, keys of `formats.ACCEPTABLE`.

    Returns:
      The plan, the mapped arrays, and notes for the user.

    Raises:
      ExportRefused: for what the format cannot express. All parts of the model are planned, but an
        issue may hide others: in a tower of another kind, no field is compared.
    """
    chosen = find_format(format_name)
    if chosen.write is None:
        raise UserError(f"--format: vljax can read {chosen.title}, but not write it")
    issues = ExportIssues(format_name, accept)
    if trained.statistics and not chosen.stores_statistics:
        kinds = ", ".join(sorted({name.split("/")[0] for name in trained.statistics}))
        able = [name for name in FORMATS if find_format(name).stores_statistics]
        issues.add(
            "model",
            f"model: has state beside its parameters ({kinds}), which {format_name} cannot store;"
            f" use {' or '.join(able)}",
        )
    with issues.part("model"):
        plan = chosen.write(trained, issues)
    issues.stop()
    shapes = {**trained.parameters, **trained.statistics}
    pairs = pair(plan.rules, {name: a.shape for name, a in shapes.items()}, chosen.title)
    return plan, pairs, issues.notes


# Image tower fields that only some formats can express, with the values that all can.
_COMMON_IMAGE = {
    "positions": "learned",
    "registers": 0,
    "mask_token": False,
    "table_size": None,
    "position_filter": "bilinear",
}
_COMMON_STACK = {"layer_scale": None, "post_norm": False}
_COMMON_TEXT = {"position_offset": 0, "token_types": 0, "embedding_norm": False}


def two_towers(
    trained: TrainedModel, issues: ExportIssues, image_type: type[ViT] = ViT
) -> tuple[ViT, TextTransformer, Embedding, str]:
    """The image tower, text tower and embedding head of a CLIP-like model, and the head's name.

    Collects fields that two-tower formats cannot express.

    Raises:
      ExportRefused: if the model has other parts.
    """
    model = trained.run.model
    image, text = model.encoders.get("image"), model.encoders.get("text")
    heads = list(model.heads.items())
    refuse_filters(model, issues)
    if set(model.encoders) != {"image", "text"} or len(heads) != 1 or len(model.nodes) != 3:
        issues.refuse("model", [*model.nodes], "an image tower, a text tower and an embedding head")
        issues.stop()
    name, head = heads[0]
    for path, part, kind in (
        ("nodes.image", image, image_type),
        ("nodes.text", text, TextTransformer),
        (f"nodes.{name}", head, Embedding),
    ):
        if type(part) is not kind:
            issues.refuse(f"model.{path}", getattr(part, "type_name", part), kind.type_name)
    issues.stop()
    assert isinstance(image, ViT)
    assert isinstance(text, TextTransformer)
    assert isinstance(head, Embedding)
    issues.require({**_COMMON_IMAGE, **_COMMON_STACK}, image, "model.nodes.image")
    issues.require({**_COMMON_STACK, **_COMMON_TEXT}, text, "model.nodes.text")
    for tower, path in ((image, "model.nodes.image"), (text, "model.nodes.text")):
        refuse_gated_mlp(tower, issues, path)
    for stream, projection in head.projections.items():
        if projection == "tanh":
            path = f"model.nodes.{name}.projections.{stream}"
            issues.refuse(path, projection, "none, linear and affine", "linear")
    issues.require({"normalize": True}, head, f"model.nodes.{name}")
    for label, objective in trained.run.objectives.items():
        similarity = getattr(objective, "similarity", "cosine")
        if similarity != "cosine":
            issues.refuse(f"objectives.{label}.similarity", similarity, "'cosine'", "cosine")
    return image, text, head, name


def refuse_filters(model: ModelConfig, issues: ExportIssues) -> None:
    """Records filters that change what a trained model computes; no other software has them."""
    for stream, each in model.filters.items():
        if each.learned:
            issues.refuse(f"model.filters.{stream}", each.type_name, "no filter with parameters")


def require_objective(trained: TrainedModel, issues: ExportIssues, *known: str) -> None:
    """Refuses objectives whose learned scalars a format lacks.

    Args:
      trained: the model.
      issues: collects export issues.
      known: names of objectives: "softmax", which learns a logit scale, or "sigmoid", which learns
        a logit bias too. The first one is suggested.
    """
    scalars = {path for path in trained.parameters if "/" not in path}
    learned = {"softmax": {"logit_scale"}, "sigmoid": {"logit_scale", "logit_bias"}}
    if scalars in [learned[name] for name in known]:
        return
    objectives = trained.run.objectives
    for label, objective in objectives.items():
        if objective.type_name not in known:
            issues.refuse(f"objectives.{label}", objective.type_name, " and ".join(known), known[0])
    if all(objective.type_name in known for objective in objectives.values()):
        issues.refuse("objectives", sorted(scalars), f"the learned scalars of {known[0]}")


def single_tower(
    trained: TrainedModel, issues: ExportIssues, name: str, kind: type[Tower]
) -> tuple[Tower, Embedding, str]:
    """The tower of a model with one encoder, its head, and the head's name.

    Collects what a head has besides a pooler.

    Raises:
      ExportRefused: if the model has other parts.
    """
    model = trained.run.model
    tower, heads = model.encoders.get(name), list(model.heads.items())
    refuse_filters(model, issues)
    if set(model.encoders) != {name} or len(heads) != 1 or len(model.nodes) != 2:
        issues.refuse("model", [*model.nodes], f"the tower {name!r} and a head")
        issues.stop()
    if type(tower) is not kind:
        issues.refuse(f"model.nodes.{name}", getattr(tower, "type_name", tower), kind.type_name)
    label, head = heads[0]
    path = f"model.nodes.{label}"
    if not isinstance(head, Embedding):
        issues.refuse(path, head.type_name, "embedding")
    issues.stop()
    assert isinstance(head, Embedding)
    assert isinstance(tower, kind)
    issues.require({"normalize": False}, head, path)
    if head.projections.get(name) not in ("none", "tanh"):
        width = getattr(tower, "width", None)
        issues.refuse(
            f"{path}.projections.{name}",
            head.projections.get(name),
            "none, or tanh as a pooler",
            "none" if head.dim == width else "tanh",
        )
    return tower, head, label


def refuse_gated_mlp(tower: TransformerConfig, issues: ExportIssues, path: str) -> None:
    """Refuses gated MLPs (swiglu) of a tower."""
    if tower.activation == "swiglu":
        issues.refuse(
            f"{path}.activation", tower.activation, "gelu, gelu_tanh and quick_gelu", "gelu"
        )


def transform_path(transforms: Sequence[Transform], wanted: Transform) -> str:
    """The recipe path of one of the evaluation transforms."""
    return f"data.eval_transforms.{[*transforms].index(wanted)}"
