"""Folders of Hugging Face transformers, version 5: one file a kind of model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vljax.config import UserError, suggest
from vljax.interop import transformers_clip, transformers_siglip
from vljax.interop.expressible import Losses
from vljax.interop.format import Format, Reading, Trained, Writing, read_json, to_json, two_towers
from vljax.interop.safetensors_files import SHARD_BYTES, read_folder, write_folder
from vljax.interop.torch_file import state_dict

_READERS = {"clip": transformers_clip.read, "siglip": transformers_siglip.read}


def _recognises(path: Path) -> bool:
    file = path / "config.json"
    return file.is_file() and b'"model_type"' in file.read_bytes()


def _read(folder: Path) -> Reading:
    content = read_json(folder / "config.json")
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind not in _READERS:
        near = suggest(str(kind), _READERS)
        raise UserError(f"{folder / 'config.json'}: unknown model_type {kind!r}{near}")
    if not (folder / "model.safetensors").exists() and (folder / "pytorch_model.bin").exists():
        return _READERS[kind](folder, content, state_dict(folder / "pytorch_model.bin"))
    return _READERS[kind](folder, content, read_folder(folder, "model"))


def _write(trained: Trained, losses: Losses) -> Writing:
    image, *_ = two_towers(trained, losses)
    family = transformers_siglip if image.pooling == "map" else transformers_clip
    losses.target = f"transformers {family.KIND}"
    rules, files = family.write(trained, losses)

    def write(out: Path, tensors: Any, progress: Any) -> Any:
        return write_folder(out, "model", tensors, progress, SHARD_BYTES)

    content = {name: c if isinstance(c, bytes) else to_json(c) for name, c in files.items()}
    return Writing(rules, content, write)


FORMAT = Format("a folder of transformers", _recognises, _read, _write)
