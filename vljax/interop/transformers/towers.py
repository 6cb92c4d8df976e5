"""Parameter names and configuration fields that the towers of transformers share."""

from __future__ import annotations

from typing import Any

from vljax.interop.foreign_config import ForeignConfig
from vljax.interop.mapping import CONVOLUTION, FLAT, LINEAR, LINEAR_OUT, Change, Rule, rule
from vljax.models.layers.transformer import TransformerConfig

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
_NAMES = {ours: theirs for theirs, ours in ACTIVATIONS.items() if theirs != "gelu_new"}
_SIZES = {
    "width": ("hidden_size", 768),
    "depth": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 12),
    "mlp_dim": ("intermediate_size", 3072),
}


def linear(own: str, foreign: str) -> list[Rule]:
    """The rules of a linear map with a bias."""
    weight = rule(f"{own}/kernel", f"{foreign}.weight", LINEAR)
    return [weight, rule(f"{own}/bias", f"{foreign}.bias")]


def norm(own: str, foreign: str) -> list[Rule]:
    """The rules of a layer norm."""
    return [rule(f"{own}/scale", f"{foreign}.weight"), rule(f"{own}/bias", f"{foreign}.bias")]


def blocks(own: str, foreign: str) -> list[Rule]:
    """The rules of a stack of blocks, such as `image` and `vision_model`."""
    here, there = f"{own}/blocks/{{i}}", f"{foreign}.encoder.layers.{{i}}"
    rules = [
        *norm(f"{here}/attention_norm", f"{there}.layer_norm1"),
        *norm(f"{here}/mlp_norm", f"{there}.layer_norm2"),
        *linear(f"{here}/mlp/up", f"{there}.mlp.fc1"),
        *linear(f"{here}/mlp/down", f"{there}.mlp.fc2"),
        rule(f"{here}/attention/output/kernel", f"{there}.self_attn.out_proj.weight", LINEAR_OUT),
        rule(f"{here}/attention/output/bias", f"{there}.self_attn.out_proj.bias"),
    ]
    for name, letter in (("query", "q"), ("key", "k"), ("value", "v")):
        ours, theirs = f"{here}/attention/{name}", f"{there}.self_attn.{letter}_proj"
        rules.append(rule(f"{ours}/kernel", f"{theirs}.weight", LINEAR))
        rules.append(rule(f"{ours}/bias", f"{theirs}.bias", FLAT))
    return rules


def embeddings(patches: Change = CONVOLUTION) -> list[Rule]:
    """The rules of patch, token and text position embeddings.

    Args:
      patches: how the layout of the patch embedding changes.
    """
    image, text = "vision_model.embeddings", "text_model.embeddings"
    return [
        rule("image/patch_embedding", f"{image}.patch_embedding.weight", patches),
        rule("text/embedding", f"{text}.token_embedding.weight"),
        rule("text/positions", f"{text}.position_embedding.weight"),
    ]


IGNORED = (r"(vision_model|text_model)\.embeddings\.position_ids",)
"""Tables of 0, 1, 2, ..., which older versions saved."""


def read_tower(
    fields: ForeignConfig, *, activation: str, epsilon: float, text: bool
) -> dict[str, Any]:
    """The fields of our tower; the defaults are those of transformers."""
    sizes = dict(_SIZES)
    if text and activation == "quick_gelu":  # CLIP's text tower is smaller by default
        sizes |= {
            "width": ("hidden_size", 512),
            "heads": ("num_attention_heads", 8),
            "mlp_dim": ("intermediate_size", 2048),
        }
    tower: dict[str, Any] = {own: fields.get(name, value) for own, (name, value) in sizes.items()}
    tower["activation"] = fields.one_of("hidden_act", ACTIVATIONS, activation)
    tower["norm_epsilon"] = fields.get("layer_norm_eps", epsilon)
    tower["scan"] = False
    if not text:
        fields.must("num_channels", 3, 3)
    return tower


def write_tower(tower: TransformerConfig) -> dict[str, Any]:
    """The inverse of `read_tower`."""
    return {**write_stack(tower), "attention_dropout": 0.0}


def write_stack(tower: TransformerConfig) -> dict[str, Any]:
    """The sizes of a stack, under the field names that all families share."""
    return {
        **{name: getattr(tower, own) for own, (name, _) in _SIZES.items()},
        "hidden_act": _NAMES[tower.activation],
        "layer_norm_eps": tower.norm_epsilon,
    }


def write_image(tower: Any) -> dict[str, Any]:
    """The fields of `vision_config` that CLIP and SigLIP share."""
    sides = {"image_size": tower.image_size, "patch_size": tower.patch_size}
    return {**write_tower(tower), **sides, "num_channels": 3}


def write_text(tower: Any, ids: dict[str, int | None]) -> dict[str, Any]:
    """The fields of `text_config` that CLIP and SigLIP share."""
    sizes = {"vocab_size": tower.vocab_size, "max_position_embeddings": tower.context_length}
    return {**write_tower(tower), **sizes, **ids}
