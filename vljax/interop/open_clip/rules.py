"""Parameter names of open_clip: its own towers, and timm's image tower."""

from __future__ import annotations

from vljax.interop.mapping import (
    BATCHED,
    CONVOLUTION,
    LINEAR,
    LINEAR_OUT,
    ROW,
    SAME,
    STACKED,
    STACKED_FLAT,
    STACKED_LINEAR,
    Change,
    Rule,
    rule,
)
from vljax.interop.transformers.towers import linear, norm


def attention(own: str, packs: dict[str, str], output: str) -> list[Rule]:
    """The rules of an attention.

    Args:
      own: our path of the attention.
      packs: which of our kernels share a foreign array: `{"query key value": "attn.qkv."}`.
      output: the foreign name of the output projection.
    """
    rules = [
        rule(f"{own}/output/kernel", f"{output}.weight", LINEAR_OUT),
        rule(f"{own}/output/bias", f"{output}.bias"),
    ]
    for members, prefix in packs.items():
        for kind, ending, change in (
            ("kernel", "weight", STACKED_LINEAR),
            ("bias", "bias", STACKED_FLAT),
        ):
            paths = [f"{own}/{name}/{kind}" for name in members.split()]
            rules.append(rule(paths, f"{prefix}{ending}", change))
    return rules


def _blocks(own: str, foreign: str, names: dict[str, str]) -> list[Rule]:
    here, there = f"{own}/blocks/{{i}}", f"{foreign}.{{i}}"
    packed = {"query key value": f"{there}.{names['packed']}"}
    return [
        *norm(f"{here}/attention_norm", f"{there}.{names['attention_norm']}"),
        *attention(f"{here}/attention", packed, f"{there}.{names['output']}"),
        *norm(f"{here}/mlp_norm", f"{there}.{names['mlp_norm']}"),
        *linear(f"{here}/mlp/up", f"{there}.{names['up']}"),
        *linear(f"{here}/mlp/down", f"{there}.{names['down']}"),
    ]


_NATIVE = {
    "attention_norm": "ln_1",
    "packed": "attn.in_proj_",
    "output": "attn.out_proj",
    "mlp_norm": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}
_TIMM = {
    "attention_norm": "norm1",
    "packed": "attn.qkv.",
    "output": "attn.proj",
    "mlp_norm": "norm2",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}


def native_image(head: str, *, input_norm: bool) -> list[Rule]:
    """open_clip's own image tower with its projection, which is (in, out) there too."""
    return [
        rule("image/patch_embedding", "visual.conv1.weight", CONVOLUTION),
        rule("image/cls", "visual.class_embedding", ROW),
        rule(("image/cls_position", "image/positions"), "visual.positional_embedding", STACKED),
        *(norm("image/input_norm", "visual.ln_pre") if input_norm else []),
        *_blocks("image", "visual.transformer.resblocks", _NATIVE),
        *norm("image/norm", "visual.ln_post"),
        rule(f"{head}/image/kernel", "visual.proj"),
    ]


def timm_image(head: str, projection: str) -> list[Rule]:
    """A ViT of timm with attention pooling, followed by open_clip's projection."""
    trunk, pool = "visual.trunk", "visual.trunk.attn_pool"
    packs = {"query": f"{pool}.q.", "key value": f"{pool}.kv."}
    return [
        rule("image/patch_embedding", f"{trunk}.patch_embed.proj.weight", CONVOLUTION),
        rule("image/patch_bias", f"{trunk}.patch_embed.proj.bias"),
        rule("image/positions", f"{trunk}.pos_embed", BATCHED),
        *_blocks("image", f"{trunk}.blocks", _TIMM),
        *norm("image/norm", f"{trunk}.norm"),
        rule("image/pooling/probe", f"{pool}.latent", BATCHED),
        *attention("image/pooling/attention", packs, f"{pool}.proj"),
        *norm("image/pooling/norm", f"{pool}.norm"),
        *linear("image/pooling/mlp/up", f"{pool}.mlp.fc1"),
        *linear("image/pooling/mlp/down", f"{pool}.mlp.fc2"),
        *_projection(f"{head}/image", "visual.head.proj", projection, LINEAR, ".weight"),
    ]


def text(head: str, projection: str, prefix: str) -> list[Rule]:
    """The text tower; `prefix` is `text.` in models with `custom_text`."""
    # Without a bias the projection is an array (in, out); with a bias it is a Linear module.
    plain = projection == "linear"
    change, ending = (SAME, "") if plain else (LINEAR, ".weight")
    return [
        rule("text/embedding", f"{prefix}token_embedding.weight"),
        rule("text/positions", f"{prefix}positional_embedding"),
        *_blocks("text", f"{prefix}transformer.resblocks", _NATIVE),
        *norm("text/norm", f"{prefix}ln_final"),
        *_projection(f"{head}/text", f"{prefix}text_projection", projection, change, ending),
    ]


def _projection(own: str, name: str, projection: str, change: Change, ending: str) -> list[Rule]:
    if projection == "none":
        return []
    bias = [rule(f"{own}/bias", f"{name}.bias")] if projection == "affine" else []
    return [rule(f"{own}/kernel", f"{name}{ending}", change), *bias]
