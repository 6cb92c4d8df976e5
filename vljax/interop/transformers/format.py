"""Folders of Hugging Face transformers, version 5. Each `model_type` has a file here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vljax.config import UserError, suggest
from vljax.files import parse_json
from vljax.interop.export_plan import ExportIssues, ExportPlan, TrainedModel
from vljax.interop.files.read import holder, read_weights
from vljax.interop.files.safetensors import SHARD_BYTES, write_folder
from vljax.interop.foreign_config import read_json, to_json
from vljax.interop.foreign_model import ForeignModel
from vljax.interop.formats import Format
from vljax.interop.historical import WEIGHTS
from vljax.interop.transformers import (
    bert,
    blip,
    clip,
    lxmert,
    siglip,
    siglip2,
    vilt,
    visual_bert,
    vit,
)
from vljax.models.encoders import GroundedText, NaFlexViT, RegionFeatures, TextTransformer, ViT
from vljax.models.fusion import CoAttention, SingleStream

_READERS = {
    blip.KIND: blip.read,
    lxmert.KIND: lxmert.read,
    "clip": clip.read,
    "siglip": siglip.read,
    "siglip2": siglip2.read,
    vilt.KIND: vilt.read,
    visual_bert.KIND: visual_bert.read,
    **dict.fromkeys(vit.KINDS, vit.read),
    **dict.fromkeys(bert.KINDS, bert.read),
}


def _recognises(path: Path) -> bool:
    file = holder(path) / "config.json"
    if not file.is_file():
        return False
    content = file.read_bytes()
    # A damaged file is recognised too, so that reading it fails with an error about the damage.
    return b'"model_type"' in content or not _is_json(content)


def _is_json(content: bytes) -> bool:
    try:
        parse_json(content)
    except ValueError:
        return False
    return True


def _read(path: Path) -> ForeignModel:
    folder = holder(path)
    content = read_json(folder / "config.json")
    kind = content.get("model_type") if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind not in _READERS:
        near = suggest(str(kind), _READERS)
        raise UserError(f"{folder / 'config.json'}: unknown model_type {kind!r}{near}")
    return _READERS[kind](folder, content, read_weights(path, WEIGHTS["transformers"]))


def _write(trained: TrainedModel, issues: ExportIssues) -> ExportPlan:
    kind, family = _family(trained)
    issues.target = f"transformers {kind}"
    rules, files = family(trained, issues)

    def write(out: Path, tensors: Any, progress: Any) -> Any:
        return write_folder(out, "model", tensors, progress, SHARD_BYTES)

    content = {name: c if isinstance(c, bytes) else to_json(c) for name, c in files.items()}
    return ExportPlan(rules, content, write)


def _family(trained: TrainedModel) -> tuple[str, Any]:
    """The closest `model_type`, and the function that writes it."""
    encoders = trained.run.model.encoders
    if any(isinstance(node, CoAttention) for node in trained.run.model.nodes.values()):
        return lxmert.KIND, lxmert.write
    if any(isinstance(node, SingleStream) for node in trained.run.model.nodes.values()):
        regions = any(isinstance(encoder, RegionFeatures) for encoder in encoders.values())
        family = visual_bert if regions else vilt
        return family.KIND, family.write
    if any(isinstance(encoder, GroundedText) for encoder in encoders.values()):
        return blip.KIND, blip.write
    image, text = encoders.get("image"), encoders.get("text")
    if len(encoders) == 1 and isinstance(image, ViT):
        return vit.kind_of(image), vit.write
    if len(encoders) == 1 and isinstance(text, TextTransformer):
        return bert.kind_of(text), bert.write
    if isinstance(image, NaFlexViT):
        return siglip2.KIND, siglip2.write
    if getattr(image, "pooling", None) == "map":
        return siglip.KIND, siglip.write
    return clip.KIND, clip.write


FORMAT = Format("a folder of transformers", _recognises, _read, _write, takes_vocabulary=True)
