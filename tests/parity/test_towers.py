"""CLIP and SigLIP towers against those of Hugging Face (`make_towers.py` made the references).

The references are float64; the towers here compute in float32. Measured maxima of the absolute
deviation, over scanned and unrolled models and both levels of XLA optimisation: 1.2e-6 (clip_32 and
siglip_32) and 9.6e-7 (siglip_30) in tokens and pooled vectors of up to 4.7, 1.8e-7 in embeddings,
1.9e-6 in logits of up to 7.2. That is the last few bits of float32; the tolerance leaves room for
another order of summation.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from vljax.models.assembly import ModelConfig, Outputs, Variables, build
from vljax.models.compute import Compute
from vljax.models.encoders import TextTransformer, ViT
from vljax.models.heads.embedding import Embedding
from vljax.models.parameters import leaves, roll

TOLERANCE = 5e-6
MODELS = ["clip_32", "siglip_32", "siglip_30"]
IMAGE_HEADS, TEXT_HEADS = 4, 3

Tree = dict[str, Any]


def config(model: str, *, scan: bool, mask_padding: bool) -> ModelConfig:
    image: Tree = {"width": 32, "depth": 3, "heads": IMAGE_HEADS, "mlp_dim": 56, "patch_size": 8}
    text: Tree = {"width": 24, "depth": 2, "heads": TEXT_HEADS, "mlp_dim": 40}
    image |= {"image_size": int(model[-2:]), "scan": scan}
    text |= {"vocab_size": 50, "context_length": 9, "scan": scan}
    text["mask_padding"] = mask_padding
    if model.startswith("clip"):
        shared: Tree = {"activation": "quick_gelu", "norm_epsilon": 1e-5}
        image |= {"pooling": "cls", "input_norm": True, "patch_bias": False}
        image["pixel_mean"] = (0.48145466, 0.4578275, 0.40821073)
        image["pixel_std"] = (0.26862954, 0.26130258, 0.27577711)
        text |= {"causal": True, "pooling": "eos"}
        head = Embedding(20, {"image": "linear", "text": "linear"})
    else:
        shared = {"activation": "gelu_tanh", "norm_epsilon": 1e-6}
        image |= {"pooling": "map"}
        text |= {"pooling": "last"}
        head = Embedding(32, {"image": "none", "text": "affine"})
    encoders = {"image": ViT(**image, **shared), "text": TextTransformer(**text, **shared)}
    return ModelConfig({**encoders, "head": head})


@functools.cache
def reference(model: str) -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "data" / f"{model}.npz") as stored:
        return dict(stored)


class Weights:
    """The weights of a PyTorch model in vljax's unrolled layout; records which were read."""

    def __init__(self, model: str) -> None:
        stored = reference(model)
        self.arrays = {
            k.removeprefix("weights/"): v.astype(np.float32)
            for k, v in stored.items()
            if k.startswith("weights/")
        }
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        self.read.add(name)
        return self.arrays[name]

    def linear(self, name: str) -> Tree:
        return {"kernel": self[f"{name}.weight"].T, "bias": self[f"{name}.bias"]}

    def norm(self, name: str) -> Tree:
        return {"scale": self[f"{name}.weight"], "bias": self[f"{name}.bias"]}

    def mlp(self, name: str) -> Tree:
        return {"up": self.linear(f"{name}.fc1"), "down": self.linear(f"{name}.fc2")}

    def block(self, name: str, heads: int) -> Tree:
        projections = {
            ours: (
                self[f"{name}.self_attn.{theirs}.weight"],
                self[f"{name}.self_attn.{theirs}.bias"],
            )
            for ours, theirs in {
                "query": "q_proj",
                "key": "k_proj",
                "value": "v_proj",
                "output": "out_proj",
            }.items()
        }
        return {
            "attention_norm": self.norm(f"{name}.layer_norm1"),
            "attention": attention(projections, heads),
            "mlp_norm": self.norm(f"{name}.layer_norm2"),
            "mlp": self.mlp(f"{name}.mlp"),
        }

    def blocks(self, tower: str, depth: int, heads: int) -> Tree:
        return {str(i): self.block(f"{tower}.encoder.layers.{i}", heads) for i in range(depth)}

    def text(self) -> Tree:
        embeddings = "text_model.embeddings"
        return {
            "embedding": self[f"{embeddings}.token_embedding.weight"],
            "positions": self[f"{embeddings}.position_embedding.weight"],
            "blocks": self.blocks("text_model", 2, TEXT_HEADS),
            "norm": self.norm("text_model.final_layer_norm"),
        }

    def image(self) -> Tree:
        embeddings = "vision_model.embeddings"
        return {
            "patch_embedding": self[f"{embeddings}.patch_embedding.weight"].transpose(2, 3, 1, 0),
            "positions": self[f"{embeddings}.position_embedding.weight"],
            "blocks": self.blocks("vision_model", 3, IMAGE_HEADS),
            "norm": self.norm("vision_model.post_layernorm"),
        }

    def attention_pooling(self) -> Tree:
        name = "vision_model.head"
        kernels = np.split(self[f"{name}.attention.in_proj_weight"], 3)
        biases = np.split(self[f"{name}.attention.in_proj_bias"], 3)
        projections = dict(
            zip(("query", "key", "value"), zip(kernels, biases, strict=True), strict=True)
        )
        out = f"{name}.attention.out_proj"
        projections["output"] = (self[f"{out}.weight"], self[f"{out}.bias"])
        return {
            "probe": self[f"{name}.probe"][0],
            "attention": attention(projections, IMAGE_HEADS),
            "norm": self.norm(f"{name}.layernorm"),
            "mlp": self.mlp(f"{name}.mlp"),
        }


def attention(projections: dict[str, tuple[np.ndarray, np.ndarray]], heads: int) -> Tree:
    """Query, key, value and output weights ([out, in] and [out]) split by heads."""
    result = {}
    for name, (weight, bias) in projections.items():
        width, size = len(weight), len(weight) // heads
        if name == "output":
            result[name] = {"kernel": weight.T.reshape(heads, size, width), "bias": bias}
        else:
            kernel = weight.T.reshape(width, heads, size)
            result[name] = {"kernel": kernel, "bias": bias.reshape(heads, size)}
    return result


def clip_parameters(weights: Weights) -> Tree:
    image = weights.image()
    # CLIP's class token has a position of its own; here the sum of both is the token.
    image["cls"] = weights["vision_model.embeddings.class_embedding"][None] + image["positions"][:1]
    image["positions"] = image["positions"][1:]
    image["input_norm"] = weights.norm("vision_model.pre_layrnorm")
    head = {
        "image": {"kernel": weights["visual_projection.weight"].T},
        "text": {"kernel": weights["text_projection.weight"].T},
    }
    scale = weights["logit_scale"]
    return {"image": image, "text": weights.text(), "head": head, "logit_scale": scale}


def siglip_parameters(weights: Weights) -> Tree:
    return {
        "image": weights.image()
        | {
            "patch_bias": weights["vision_model.embeddings.patch_embedding.bias"],
            "pooling": weights.attention_pooling(),
        },
        "text": weights.text(),
        "head": {"text": weights.linear("text_model.head")},
        "logit_scale": weights["logit_scale"][0],
        "logit_bias": weights["logit_bias"][0],
    }


@functools.cache
def parameters(model: str) -> Tree:
    """Unrolled parameters; checks that every weight of the reference is used."""
    weights = Weights(model)
    tree = clip_parameters(weights) if model.startswith("clip") else siglip_parameters(weights)
    assert weights.read == set(weights.arrays)
    return tree


@functools.cache
def outputs(model: str, *, scan: bool, mask_padding: bool = False) -> Outputs:
    params = parameters(model)
    scalars = {name: 0.0 for name in ("logit_scale", "logit_bias") if name in params}
    built = build(config(model, scan=scan, mask_padding=mask_padding), Compute(), scalars)
    params = roll(params) if scan else params
    assert {k for k, _ in leaves(params)} == {k for k, _ in leaves(built.axes)}
    batch = {name: reference(model)[name] for name in ("image", "text", "text_mask")}
    forward = jax.jit(lambda *args: built.apply(*args)[0])
    return jax.device_get(forward(Variables(params, {}), batch))


@pytest.mark.parametrize("scan", [True, False], ids=["scanned", "unrolled"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", ["image", "text"])
@pytest.mark.parametrize("name", ["tokens", "pooled", "embedding"])
def test_tower(model: str, stream: str, name: str, scan: bool) -> None:
    key = f"{stream}/{name}"
    ours, theirs = outputs(model, scan=scan)[key], reference(model)[key]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("scan", [True, False], ids=["scanned", "unrolled"])
@pytest.mark.parametrize("model", MODELS)
def test_logits(model: str, scan: bool) -> None:
    ours = outputs(model, scan=scan)
    logits = ours["image/embedding"] @ ours["text/embedding"].T * np.exp(ours["logit_scale"])
    logits += ours.get("logit_bias", 0)
    np.testing.assert_allclose(logits, reference(model)["logits"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("scan", [True, False], ids=["scanned", "unrolled"])
def test_a_padding_mask_does_not_change_causal_text_embeddings(scan: bool) -> None:
    """CLIP was trained without a padding mask; its causal mask hides the padding already."""
    theirs = reference("clip_32")
    ours = outputs("clip_32", scan=scan, mask_padding=True)
    real = theirs["text_mask"]
    assert not real.all()
    tokens = ours["text/tokens"][real], theirs["text/tokens"][real]
    np.testing.assert_allclose(*tokens, rtol=0, atol=TOLERANCE)
    pooled = ours["text/pooled"], theirs["text/pooled"]
    np.testing.assert_allclose(*pooled, rtol=0, atol=TOLERANCE)
