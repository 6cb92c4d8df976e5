"""`export.json`: what a folder that vljax wrote holds, with a digest of every other file in it.

Folders of plain safetensors and of programs have one. It is written last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import vljax
from vljax.config import UserError
from vljax.interop.folders import MARK
from vljax.interop.format import Trained, to_json

NAME = "export.json"
VERSION = 1
_REMEDY = "export the model again"


def write(folder: Path, kind: str, trained: Trained, more: Mapping[str, Any]) -> None:
    """Describes a folder that is complete but for this.

    Args:
      folder: what to describe.
      kind: a name of `formats.MODULES`.
      trained: the checkpoint.
      more: entries that only this kind has.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MARK)
    content = {
        "version": VERSION,
        "vljax": vljax.__version__,
        "format": kind,
        "step": trained.step,
        "dtype": trained.dtype,
        "quantized": trained.quantize,
        **more,
        "files": {file.relative_to(folder).as_posix(): _described(file) for file in files},
    }
    (folder / NAME).write_bytes(to_json(content))


def _described(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": _digest(file)}


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def recognises(folder: Path) -> bool:
    """Whether a folder is described."""
    return (folder / NAME).is_file()


def verified(folder: Path) -> dict[str, Any]:
    """The description, once every digest in it agrees.

    Raises:
      UserError: if a file is damaged or missing, or the version is unknown here.
    """
    file = folder / NAME
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
        version, files = content["version"], dict(content["files"])
        digests = {name: str(entry["sha256"]) for name, entry in files.items()}
        content["step"] = int(content["step"])
        content["quantized"] = content["quantized"] or None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error!r}); {_REMEDY}") from error
    if version != VERSION:
        raise UserError(f"{file}: version {version} is unknown to this vljax")
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder}: {name} is missing; {_REMEDY}")
        if _digest(folder / name) != digest:
            raise UserError(f"{folder}: {name} differs from its digest; {_REMEDY}")
    return content
