"""Plain safetensors of the parameters under our own unrolled names, and all that goes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vljax.interop import plain
from vljax.interop.expressible import Losses
from vljax.interop.format import Format, Reading, Trained, Writing
from vljax.interop.safetensors_files import SHARD_BYTES, read_folder, write_folder

BASE = "parameters"


def _recognises(path: Path) -> bool:
    weights = (path / f"{BASE}.safetensors{end}" for end in ("", ".index.json"))
    return plain.recognises(path) and any(file.exists() for file in weights)


def _read(folder: Path) -> Reading:
    return plain.read(folder, read_folder(folder, BASE))


def _write(trained: Trained, losses: Losses) -> Writing:
    def write(out: Path, tensors: Any, progress: Any) -> Any:
        return write_folder(out, BASE, tensors, progress, SHARD_BYTES)

    return Writing(plain.rules(trained.parameters), plain.files(trained), write)


FORMAT = Format("a folder with parameters.safetensors of vljax", _recognises, _read, _write)
