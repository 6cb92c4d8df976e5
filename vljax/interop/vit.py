"""The names of image towers in transformers: ViT (Dosovitskiy et al. 2021) and DINOv2."""

from __future__ import annotations

from vljax.config import UserError
from vljax.interop.axes import (
    BATCHED,
    CONVOLUTION,
    FLAT,
    LINEAR,
    LINEAR_OUT,
    SAME,
    STACKED,
    STACKED_BATCHED,
    STACKED_LINEAR,
)
from vljax.interop.mapping import Rule, rule
from vljax.interop.transformers_towers import linear, norm
from vljax.models.vit import ViT

PREFIXES = ("vit.", "dinov2.", "dinov2_with_registers.")
HEADS = r"(classifier|decoder)\..*"
IGNORED = (HEADS,)
"""Heads of the tasks that a tower was trained on."""

FORM = {
    "pooling": "cls",
    "cls_position": True,
    "positions": "learned",
    "input_norm": False,
    "patch_bias": True,
    "post_norm": False,
}
"""What all of these towers are; the rest are sizes and options."""
_VIT = {
    "norms": ("layernorm_before", "layernorm_after"),
    "mlp": ("intermediate.dense", "output.dense"),
}
_DINOV2 = {"norms": ("norm1", "norm2"), "mlp": ("mlp.fc1", "mlp.fc2")}


def check(name: str, encoder: ViT, layout: str) -> None:
    """Raises UserError if an encoder is none of a layout, "vit" or "dinov2"."""
    form = {**FORM, **({} if layout == "dinov2" else {"layer_scale": None})}
    for field, wanted in form.items():
        if getattr(encoder, field) != wanted:
            path = f"model.encoders.{name}.{field}"
            raise UserError(f"{path}: must be {wanted} for weights of {layout}")


def rules(name: str, encoder: ViT, pooler: str | None = None) -> list[Rule]:
    """The rules of an encoder: those of DINOv2 where it has layer scale, else of ViT.

    Args:
      name: of the encoder in the model.
      encoder: its form.
      pooler: our path of the pooler; None for none.
    """
    dinov2 = encoder.layer_scale is not None
    there = "embeddings"
    positions = (f"{name}/cls_position", f"{name}/positions")
    made = [
        rule(f"{name}/cls", f"{there}.cls_token", BATCHED),
        rule(positions, f"{there}.position_embeddings", STACKED_BATCHED),
        rule(f"{name}/patch_embedding", f"{there}.patch_embeddings.projection.weight", CONVOLUTION),
        rule(f"{name}/patch_bias", f"{there}.patch_embeddings.projection.bias"),
        *_blocks(f"{name}/blocks/{{i}}", _DINOV2 if dinov2 else _VIT, encoder),
        *norm(f"{name}/norm", "layernorm"),
    ]
    if encoder.mask_token:
        made.append(rule(f"{name}/mask_token", f"{there}.mask_token", SAME if dinov2 else BATCHED))
    if encoder.registers:
        made.append(rule(f"{name}/registers", f"{there}.register_tokens", BATCHED))
    return made if pooler is None else [*made, *linear(pooler, "pooler.dense")]


def _blocks(here: str, names: dict[str, tuple[str, str]], encoder: ViT) -> list[Rule]:
    there = "encoder.layer.{i}"
    attention = f"{there}.attention.output.dense"
    made = [
        rule(f"{here}/attention/output/kernel", f"{attention}.weight", LINEAR_OUT),
        rule(f"{here}/attention/output/bias", f"{attention}.bias"),
    ]
    for part in ("query", "key", "value"):
        ours, theirs = f"{here}/attention/{part}", f"{there}.attention.attention.{part}"
        made.append(rule(f"{ours}/kernel", f"{theirs}.weight", LINEAR))
        made.append(rule(f"{ours}/bias", f"{theirs}.bias", FLAT))
    for ours, theirs in zip(("attention_norm", "mlp_norm"), names["norms"], strict=True):
        made += norm(f"{here}/{ours}", f"{there}.{theirs}")
    if encoder.layer_scale is not None:
        made.append(rule(f"{here}/attention_scale", f"{there}.layer_scale1.lambda1"))
        made.append(rule(f"{here}/mlp_scale", f"{there}.layer_scale2.lambda1"))
    if encoder.activation != "swiglu":
        up, down = names["mlp"]
        made += linear(f"{here}/mlp/up", f"{there}.{up}")
        return [*made, *linear(f"{here}/mlp/down", f"{there}.{down}")]
    kernels, biases = ([f"{here}/mlp/{m}/{k}" for m in ("gate", "up")] for k in ("kernel", "bias"))
    packed = f"{there}.mlp.weights_in"
    return [
        *made,
        rule(kernels, f"{packed}.weight", STACKED_LINEAR),
        rule(biases, f"{packed}.bias", STACKED),
        *linear(f"{here}/mlp/down", f"{there}.mlp.weights_out"),
    ]
