"""The formats by the names that the command takes; each is imported when it is asked for."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from vljax.config import UserError, suggest

if TYPE_CHECKING:
    from vljax.interop.format import Format

MODULES = {
    "transformers": "vljax.interop.transformers.format",
    "open_clip": "vljax.interop.open_clip.format",
    "safetensors": "vljax.interop.plain_safetensors",
    "npz": "vljax.interop.plain_npz",
    "stablehlo": "vljax.interop.programs.stablehlo",
    "onnx": "vljax.interop.programs.onnx",
}
"""Each defines FORMAT. On import they are asked in this order."""


def named(name: str) -> Format:
    """The format of that name. Raises UserError for an unknown one."""
    if name not in MODULES:
        raise UserError(f"--format: unknown format {name!r}{suggest(name, MODULES)}")
    found: Format = importlib.import_module(MODULES[name]).FORMAT
    return found


def detect(source: Path) -> Format:
    """The format that a path looks like. Raises UserError if it looks like none."""
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    known = [named(name) for name in MODULES]
    for candidate in known:
        if candidate.recognises(source):
            return candidate
    if source.suffix == ".npz":
        raise UserError(f"{source}: weights alone; add --recipe, which says of what")
    kinds = "; ".join(candidate.what for candidate in known)
    raise UserError(f"{source} is nothing that vljax can import; it knows: {kinds}")
