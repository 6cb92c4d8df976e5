"""Initial values from files: of a whole model (`InitFrom`), or of a part of it (`Pretrained`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vljax.config import setting

Layout = Literal[
    "efficientnet_lite", "resnet", "bit", "bert", "roberta", "vit", "dinov2", "big_vision"
]


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Initial weights from a file of other software.

    The file is read only when a new run starts. Resumed runs and checkpoints do not need it.

    >>> Pretrained(path="vit_base_patch16_224.npz", layout="vit").layout
    'vit'
    """

    path: str | None = setting(None, identity=False)
    """Path of the file; after a colon, a part of its arrays, as in siglip.npz:img."""
    layout: Layout
    """Family of models whose array names the file uses."""
    sha256: str | None = None
    """Digest of the file, as `sha256sum` prints it; a file with another digest is refused. With
    None any file is read, and its digest becomes part of the run."""

    install: str = setting("", identity=False)
    """How to get the file, for messages while `path` is unset: `pip install PACKAGE`."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            yield "sha256", f"must be 64 hexadecimal digits in lower case, not {self.sha256!r}"

    def notes(self) -> Iterator[tuple[str, str]]:
        if self.path is None:
            yield "path", self.unset_message

    @property
    def unset_message(self) -> str:
        """What is wrong if `path` is unset, and the remedy if the recipe names one."""
        return f"unset; run `{self.install}`" if self.install else "unset"


@dataclass(frozen=True)
class InitFrom:
    """First values of a new run from another model: parameters by path, and batch statistics.

    The model is read only when a new run starts. Resumed runs and checkpoints do not need it.

    >>> InitFrom("runs/clip", skip=("embedding/.*",)).resize
    False
    """

    path: str | None = setting(None, identity=False)
    """A checkpoint, a workdir (its newest intact checkpoint), a folder that `vljax export` wrote as
    safetensors or npz, or a folder of other software that `vljax import` reads."""
    skip: tuple[str, ...] = ()
    """Patterns of parameters that are left out and keep their random initial values."""
    resize: bool = False
    """Whether to fit learned positions to another image size or a shorter context, and the rows of
    token embeddings to a longer vocabulary."""
    sha256: str | None = None
    """Digest of the model's files; another model is refused. With None any is read, and its digest
    becomes part of the run."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.path is None:
            for field, default in (("skip", ()), ("resize", False), ("sha256", None)):
                if (value := getattr(self, field)) != default:
                    message = f"is {value!r}, and does nothing without a model; set init.path"
                    yield field, f"{message}, or leave it at {default!r}"
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            yield "sha256", f"must be 64 hexadecimal digits in lower case, not {self.sha256!r}"
