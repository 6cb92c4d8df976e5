"""Pretrained weights as the initial values of a part of a model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vljax.config import setting

Layout = Literal["efficientnet_lite", "bert", "roberta", "vit", "dinov2", "big_vision"]


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
