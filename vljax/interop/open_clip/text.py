"""`text_cfg` of open_clip, read and written as our text tower."""

from __future__ import annotations

from typing import Any

from vljax.interop.export_plan import ExportIssues
from vljax.interop.foreign_config import ForeignConfig
from vljax.interop.open_clip.image import read_layers, write_layers
from vljax.interop.open_clip.tokenizer import Ids
from vljax.models.encoders import TextTransformer
from vljax.models.heads.embedding import Embedding

# Options of open_clip that vljax lacks, with the values that turn them off.
_UNSUPPORTED: dict[str, Any] = {
    "hf_model_name": None,
    "ls_init_value": None,
    "embed_cls": False,
    "final_ln_after_pool": False,
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
}
_POOLINGS = {"argmax": "eos", "eos": "eos", "last": "last", "first": "first"}


def read(fields: ForeignConfig, tokenizer: Ids, *, quick: bool) -> tuple[TextTransformer, str]:
    """Our text tower, and its projection in the embedding head."""
    for name, value in _UNSUPPORTED.items():
        fields.must(name, value, value)
    pooling = fields.get("pool_type", "argmax")
    if pooling == "argmax" and tokenizer.eos_id != tokenizer.vocab_size - 1:
        fields.fail("pool_type", "is argmax, but the end token does not have the highest id")
    if pooling == "eos" and fields.get("eos_id", 2) != tokenizer.eos_id:
        fields.fail("eos_id", f"is not that of the tokenizer, {tokenizer.eos_id}")
    width = fields.get("width", 512)
    tower = TextTransformer(
        vocab_size=fields.get("vocab_size", 49408),
        context_length=fields.get("context_length", 77),
        width=width,
        depth=fields.get("layers", 12),
        heads=fields.get("heads", 8),
        mlp_dim=int(width * fields.get("mlp_ratio", 4.0)),
        causal=not fields.get("no_causal_mask", False),
        mask_padding=False,
        pooling=fields.one_of("pool_type", _POOLINGS, "argmax"),
        **read_layers(fields, quick=quick),
    )
    biased = "affine" if fields.get("proj_bias", False) else "linear"
    projection: str = fields.one_of("proj_type", {"linear": biased, "none": "none"}, "linear")
    return tower, projection


def check(tower: TextTransformer, issues: ExportIssues) -> None:
    """Refuses what open_clip's text tower lacks."""
    path, pooling = "model.nodes.text", tower.pooling
    if pooling not in _POOLINGS.values():
        issues.refuse(f"{path}.pooling", pooling, "first, last and eos", "eos")
        pooling = "eos"
    # Causal attention up to the end token never reaches padding.
    if tower.mask_padding and not (tower.causal and pooling == "eos"):
        issues.refuse(f"{path}.mask_padding", True, "False", False)


def write(tower: TextTransformer, head: Embedding, tokenizer: Ids) -> tuple[dict[str, Any], bool]:
    """`text_cfg`, and whether the tower is like CLIP's, which does not need `custom_text`."""
    pooling = tower.pooling
    if pooling == "eos" and tokenizer.eos_id == tokenizer.vocab_size - 1:
        pooling = "argmax"  # type: ignore[assignment]
    projection = head.projections.get("text")
    fields: dict[str, Any] = {
        "context_length": tower.context_length,
        "vocab_size": tower.vocab_size,
        **tokenizer.config,
        "width": tower.width,
        "heads": tower.heads,
        "layers": tower.depth,
        "pool_type": pooling,
        "eos_id": tokenizer.eos_id,
        "pad_id": tokenizer.pad_id,
        **write_layers(tower),
    }
    fields |= {} if tower.causal else {"no_causal_mask": True}
    fields |= {"proj_bias": True} if projection == "affine" else {}
    fields |= {"proj_type": "none"} if projection == "none" else {}
    return fields, tower.causal and tower.pooling == "eos" and projection == "linear"
