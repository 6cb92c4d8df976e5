"""Where the first values of a part of a model come from, if they are not random."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vljax.config import setting

Layout = Literal["efficientnet_lite", "bert", "roberta", "vit", "dinov2", "big_vision"]


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Weights of other software, from a file. They are read when a run starts anew, and only then.

    A run that is resumed, and whoever loads a checkpoint, needs no such file.
    """

    path: str | None = setting(None, identity=False)
    """The file; behind a colon, a part of what it holds, as in siglip.npz:img."""
    layout: Layout
    """Whose names the file uses."""
    sha256: str | None = None
    """Digest of the file, as `sha256sum` prints it; a file with another one is refused. None takes
    any file, and the digest of the one that was read becomes part of the run."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            yield "sha256", f"must be 64 hexadecimal digits in lower case, not {self.sha256!r}"

    def notes(self) -> Iterator[tuple[str, str]]:
        if self.path is None:
            yield "path", "unset"
