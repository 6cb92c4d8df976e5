"""The foreign formats by the names that `--format` takes. Importing this file is cheap."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vljax.config import UserError, suggest

if TYPE_CHECKING:
    from vljax.interop.export_plan import ExportIssues, ExportPlan, TrainedModel
    from vljax.interop.foreign_model import ForeignModel


@dataclass(frozen=True)
class Format:
    """A foreign format: how it is recognised, read and written."""

    title: str
    """A short description for messages, such as "a folder of transformers"."""
    recognises: Callable[[Path], bool]
    """Whether a path looks like this format; reads at most a small file."""
    read: Callable[[Path], ForeignModel] | None = None
    """Reads a folder. Raises UserError if it is damaged or holds a model that vljax lacks."""
    write: Callable[[TrainedModel, ExportIssues], ExportPlan] | None = None
    """Plans an export without reading or compiling anything. Raises ExportRefused for what the
    format cannot express."""
    stores_statistics: bool = False
    """Whether the format can hold batch statistics."""
    takes_vocabulary: bool = False
    """Whether the format needs CLIP's built-in vocabulary as a file (`--tokenizer`)."""


@dataclass(frozen=True)
class Entry:
    """A format in the list: where its `Format` is defined, and a line for `--help`."""

    location: str
    """`module:attribute`, imported when the format is asked for."""
    help: str


FORMATS = {
    "transformers": Entry(
        "vljax.interop.transformers.format:FORMAT",
        "clip, siglip, siglip2, blip (matching), lxmert, vilt, visual_bert, or a single tower (vit,"
        " dinov2, bert, roberta)",
    ),
    "open_clip": Entry(
        "vljax.interop.open_clip.format:FORMAT",
        "CLIP, with or without custom_text, and SigLIP with an image tower of timm",
    ),
    "safetensors": Entry(
        "vljax.interop.plain:SAFETENSORS",
        "all parameters under vljax's names; vljax.load and import read it",
    ),
    "npz": Entry("vljax.interop.plain:NPZ", "the same in a NumPy file"),
    "stablehlo": Entry(
        "vljax.interop.programs.stablehlo:FORMAT",
        "encoders and the question-answering head as programs for any batch size on cpu, cuda and"
        " tpu; jax runs them",
    ),
    "onnx": Entry(
        "vljax.interop.programs.onnx:FORMAT",
        "the same as graphs for any batch size; onnxruntime runs them",
    ),
}
"""Every format by name. Import tries them in this order."""

ACCEPTABLE = {
    "text-cleaning": "texts are cleaned differently",
    "resize": "images are resized or cropped slightly differently",
}
"""The export issues that `--accept` takes, with their meaning."""


def find_format(name: str) -> Format:
    """The format of that name.

    >>> find_format("open_clip").title
    'a folder of open_clip'

    Raises:
      UserError: if the name is unknown.
    """
    if name not in FORMATS:
        raise UserError(f"--format: unknown format {name!r}{suggest(name, FORMATS)}")
    found: Format = pkgutil.resolve_name(FORMATS[name].location)
    return found


def recognised_format(source: Path) -> Format | None:
    """The first format that recognises a path; None if there is none.

    >>> print(recognised_format(Path("no/such/folder")))
    None
    """
    candidates = (find_format(name) for name in FORMATS)
    return next((each for each in candidates if each.recognises(source)), None)


def check_accepted(names: Iterable[str]) -> None:
    """Raises UserError for a name that is not one of `ACCEPTABLE`."""
    for name in names:
        if name not in ACCEPTABLE:
            raise UserError(f"--accept: unknown issue {name!r}{suggest(name, ACCEPTABLE)}")


def detect_format(source: Path) -> Format:
    """The first format that recognises a path.

    Raises:
      UserError: if the path does not exist, or no format recognises it.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    found = recognised_format(source)
    if found is not None:
        return found
    if source.suffix == ".npz":
        raise UserError(
            f"{source}: holds only weights; add --recipe (in Python recipe=), which describes the"
            " model"
        )
    from vljax.interop.files.read import WEIGHTS_FILES  # imports NumPy

    if source.suffix in WEIGHTS_FILES:
        raise UserError(
            f"{source}: holds only weights; put its model's config.json or"
            " open_clip_config.json beside it"
        )
    readable = [each for each in map(find_format, FORMATS) if each.read]
    titles = "; ".join(each.title for each in readable)
    raise UserError(f"{source}: vljax cannot import this; it reads: {titles}")
