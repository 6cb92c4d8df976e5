"""open_clip's parameters as vljax lays them out, unrolled: for `test_trajectory.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.parity import trajectory as of
from tests.parity.test_towers import attention

Tree = dict[str, Any]
Arrays = Mapping[str, np.ndarray]


class Weights:
    """Arrays by open_clip's names; records which were read."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        self.read.add(name)
        return self.arrays[name]

    def linear(self, name: str) -> Tree:
        return {"kernel": self[f"{name}.weight"].T, "bias": self[f"{name}.bias"]}

    def norm(self, name: str) -> Tree:
        return {"scale": self[f"{name}.weight"], "bias": self[f"{name}.bias"]}

    def mlp(self, up: str, down: str) -> Tree:
        return {"up": self.linear(up), "down": self.linear(down)}

    def attention(self, packs: Mapping[str, str], output: str, heads: int) -> Tree:
        """Attention; `packs` names what is stored as one array: `{"key value": "pool.kv."}`."""
        projections = {"output": (self[f"{output}.weight"], self[f"{output}.bias"])}
        for members, prefix in packs.items():
            names = members.split()
            weights, biases = (
                np.split(self[f"{prefix}{kind}"], len(names)) for kind in ("weight", "bias")
            )
            projections |= dict(zip(names, zip(weights, biases, strict=True), strict=True))
        return attention(projections, heads)

    def native_blocks(self, prefix: str, depth: int, heads: int) -> Tree:
        """The blocks of open_clip's own transformers."""

        def block(name: str) -> Tree:
            packs = {"query key value": f"{name}.attn.in_proj_"}
            return {
                "attention_norm": self.norm(f"{name}.ln_1"),
                "attention": self.attention(packs, f"{name}.attn.out_proj", heads),
                "mlp_norm": self.norm(f"{name}.ln_2"),
                "mlp": self.mlp(f"{name}.mlp.c_fc", f"{name}.mlp.c_proj"),
            }

        return {str(i): block(f"{prefix}transformer.resblocks.{i}") for i in range(depth)}

    def timm_blocks(self, prefix: str, depth: int, heads: int) -> Tree:
        def block(name: str) -> Tree:
            packs = {"query key value": f"{name}.attn.qkv."}
            return {
                "attention_norm": self.norm(f"{name}.norm1"),
                "attention": self.attention(packs, f"{name}.attn.proj", heads),
                "mlp_norm": self.norm(f"{name}.norm2"),
                "mlp": self.mlp(f"{name}.mlp.fc1", f"{name}.mlp.fc2"),
            }

        return {str(i): block(f"{prefix}blocks.{i}") for i in range(depth)}

    def native_image(self) -> Tree:
        positions = self["visual.positional_embedding"]
        return {
            "patch_embedding": self["visual.conv1.weight"].transpose(2, 3, 1, 0),
            "cls": self["visual.class_embedding"][None],
            "cls_position": positions[:1],
            "positions": positions[1:],
            "input_norm": self.norm("visual.ln_pre"),
            "blocks": self.native_blocks("visual.", of.IMAGE["depth"], of.IMAGE["heads"]),
            "norm": self.norm("visual.ln_post"),
        }

    def timm_image(self) -> Tree:
        trunk, pool = "visual.trunk.", "visual.trunk.attn_pool"
        packs = {"query": f"{pool}.q.", "key value": f"{pool}.kv."}
        return {
            "patch_embedding": self[f"{trunk}patch_embed.proj.weight"].transpose(2, 3, 1, 0),
            "patch_bias": self[f"{trunk}patch_embed.proj.bias"],
            "positions": self[f"{trunk}pos_embed"][0],
            "blocks": self.timm_blocks(trunk, of.IMAGE["depth"], of.IMAGE["heads"]),
            "norm": self.norm(f"{trunk}norm"),
            "pooling": {
                "probe": self[f"{pool}.latent"][0],
                "attention": self.attention(packs, f"{pool}.proj", of.IMAGE["heads"]),
                "norm": self.norm(f"{pool}.norm"),
                "mlp": self.mlp(f"{pool}.mlp.fc1", f"{pool}.mlp.fc2"),
            },
        }

    def text(self, prefix: str) -> Tree:
        return {
            "embedding": self[f"{prefix}token_embedding.weight"],
            "positions": self[f"{prefix}positional_embedding"],
            "blocks": self.native_blocks(prefix, of.TEXT["depth"], of.TEXT["heads"]),
            "norm": self.norm(f"{prefix}ln_final"),
        }


def parameters(family: str, arrays: Arrays) -> Tree:
    """The parameters of a model of that family; every array has a place in them."""
    weights = Weights(arrays)
    if family == "clip":
        head = {
            "image": {"kernel": weights["visual.proj"]},
            "text": {"kernel": weights["text_projection"]},
        }
        tree = {"image": weights.native_image(), "text": weights.text(""), "head": head}
    else:
        head = {"text": weights.linear("text.text_projection")}
        tree = {"image": weights.timm_image(), "text": weights.text("text."), "head": head}
        tree["logit_bias"] = weights["logit_bias"]
    tree["logit_scale"] = weights["logit_scale"]
    assert weights.read == set(arrays)
    return tree
