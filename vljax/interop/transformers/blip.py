"""BLIP in transformers (Li et al. 2022): `BlipForImageTextRetrieval`, with both of its heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vljax.config import UserError
from vljax.interop.export_plan import (
    ExportIssues,
    TrainedModel,
    refuse_filters,
    refuse_gated_mlp,
)
from vljax.interop.files.tensors import Tensor
from vljax.interop.foreign_config import ForeignConfig
from vljax.interop.foreign_model import ForeignModel, imported_run
from vljax.interop.mapping import (
    BATCHED,
    CONVOLUTION,
    LINEAR_OUT,
    STACKED_BATCHED,
    STACKED_FLAT,
    STACKED_LINEAR,
    Rule,
    rule,
)
from vljax.interop.transformers import images
from vljax.interop.transformers import tokenizer as texts
from vljax.interop.transformers.bert import attention_rules, layer_rules
from vljax.interop.transformers.towers import linear, norm, read_tower, write_stack
from vljax.models.assembly import ModelConfig
from vljax.models.encoders import GroundedText, ViT
from vljax.models.encoders.grounded_text import GROUNDED
from vljax.models.heads import Classifier, Embedding

KIND = "blip"
IGNORED = (r"text_encoder\.embeddings\.position_ids",)
"""A table of 0, 1, 2, ..., which older versions saved."""

_IMAGE: dict[str, Any] = {
    "pooling": "cls",
    "cls_position": True,
    "positions": "learned",
    "input_norm": False,
    "patch_bias": True,
    "post_norm": False,
    "layer_scale": None,
    "registers": 0,
    "mask_token": False,
    "table_size": None,
}
_TEXT: dict[str, Any] = {
    "causal": False,
    "mask_padding": True,
    "pooling": "first",
    "post_norm": True,
    "embedding_norm": True,
    "token_types": 0,
    "position_offset": 0,
    "layer_scale": None,
    "cross_attention": "after_self",
    "cross_every": 1,
}
_PROJECTIONS: Any = {"image": "affine", "text": "affine"}
_MATCH: dict[str, Any] = {"classes": 2, "features": "pooled", "hidden": None}
"""Scores that the text does not match the image, and that it does."""


def rules(head: str, match: str) -> list[Rule]:
    """The rules of a model for retrieval.

    Args:
      head: the name of our embedding head.
      match: the name of our classifier of pairs.
    """
    here, there = "image/blocks/{i}", "vision_model.encoder.layers.{i}"
    packed = [f"{here}/attention/{part}" for part in ("query", "key", "value")]
    kernels, biases = ([f"{path}/{kind}" for path in packed] for kind in ("kernel", "bias"))
    image, text, layer = "vision_model.embeddings", "text_encoder", "text_encoder.encoder.layer.{i}"
    block = "text/blocks/{i}"
    return [
        rule("image/cls", f"{image}.class_embedding", BATCHED),
        rule(
            ("image/cls_position", "image/positions"),
            f"{image}.position_embedding",
            STACKED_BATCHED,
        ),
        rule("image/patch_embedding", f"{image}.patch_embedding.weight", CONVOLUTION),
        rule("image/patch_bias", f"{image}.patch_embedding.bias"),
        rule(kernels, f"{there}.self_attn.qkv.weight", STACKED_LINEAR),
        rule(biases, f"{there}.self_attn.qkv.bias", STACKED_FLAT),
        rule(f"{here}/attention/output/kernel", f"{there}.self_attn.projection.weight", LINEAR_OUT),
        rule(f"{here}/attention/output/bias", f"{there}.self_attn.projection.bias"),
        *norm(f"{here}/attention_norm", f"{there}.layer_norm1"),
        *norm(f"{here}/mlp_norm", f"{there}.layer_norm2"),
        *linear(f"{here}/mlp/up", f"{there}.mlp.fc1"),
        *linear(f"{here}/mlp/down", f"{there}.mlp.fc2"),
        *norm("image/norm", "vision_model.post_layernorm"),
        rule("text/embedding", f"{text}.embeddings.word_embeddings.weight"),
        rule("text/positions", f"{text}.embeddings.position_embeddings.weight"),
        *norm("text/embedding_norm", f"{text}.embeddings.LayerNorm"),
        *layer_rules(block, layer),
        *attention_rules(f"{block}/cross_attention", f"{layer}.crossattention"),
        *linear(f"{head}/image", "vision_proj"),
        *linear(f"{head}/text", "text_proj"),
        *linear(f"{match}/logits", "itm_head"),
    ]


def read(folder: Path, content: Any, tensors: Mapping[str, Tensor]) -> ForeignModel:
    """A folder whose `config.json` says `blip`."""
    config = ForeignConfig(content, str(folder / "config.json"))
    if "itm_head.weight" not in tensors:
        stated = ", ".join(map(str, config.get("architectures", []))) or "the model"
        raise UserError(
            f"{folder}: {stated} has no head for matching (itm_head); of blip, vljax imports"
            " BlipForImageTextRetrieval"
        )
    vision, text = config.part("vision_config"), config.part("text_config")
    # In transformers only layers of a "decoder" have cross-attention, in this encoder too.
    text.must("is_decoder", True, True)
    context = text.get("max_position_embeddings", 512)
    tokenizer = texts.read(folder, context, config)
    size = vision.side("image_size", 384)
    resize, pixels = images.read(folder, size, KIND)
    tower = ViT(
        image_size=size,
        patch_size=vision.side("patch_size", 16),
        **read_tower(vision, activation="gelu", epsilon=1e-5, text=False),
        **pixels,
        **{name: value for name, value in _IMAGE.items() if name != "post_norm"},
    )
    sizes = read_tower(text, activation="gelu", epsilon=1e-12, text=True)
    sizes["heads"] = text.get("num_attention_heads", 8)
    encoder = GroundedText(
        vocab_size=text.get("vocab_size", 30524), context_length=context, **sizes, **_TEXT
    )
    head = Embedding(config.get("image_text_hidden_size", 256), _PROJECTIONS)
    run = imported_run(tower, encoder, head, (resize,), tokenizer.loaded, None)
    match = Classifier(stream=f"text.{GROUNDED}", **_MATCH)
    run = dataclasses.replace(run, model=ModelConfig({**run.model.nodes, "match": match}))
    return ForeignModel(
        f"transformers {KIND}",
        run,
        tokenizer.loaded,
        tensors,
        rules("embedding", "match"),
        IGNORED,
    )


def write(trained: TrainedModel, issues: ExportIssues) -> tuple[list[Rule], dict[str, Any]]:
    """The rules, and all files except the arrays."""
    with issues.part("model"):
        image, text, head, names = _parts(trained, issues)
        issues.require(_IMAGE, image, "model.nodes.image")
        issues.require({**_TEXT, "context": "image"}, text, "model.nodes.text")
        issues.require(
            {"projections": _PROJECTIONS, "normalize": True}, head, f"model.nodes.{names[0]}"
        )
        match = trained.run.model.nodes[names[1]]
        issues.require({**_MATCH, "stream": f"text.{GROUNDED}"}, match, f"model.nodes.{names[1]}")
        refuse_filters(trained.run.model, issues)
        refuse_gated_mlp(image, issues, "model.nodes.image")
        refuse_gated_mlp(text, issues, "model.nodes.text")
        if scalars := sorted(path for path in trained.parameters if "/" not in path):
            issues.refuse("objectives", scalars, "no learned scalar, such as a temperature")
    with issues.part(trained.tokenizer_path):
        inputs = ["input_ids", "attention_mask"]
        tokenizer = texts.write(trained, issues, inputs, bert_names=True)
    with issues.part("data.eval_transforms"):
        processor = images.write(trained.run.data.eval_transforms, issues, "Blip")
    issues.stop()
    sides = {"image_size": image.image_size, "patch_size": image.patch_size}
    sizes = {"vocab_size": text.vocab_size, "max_position_embeddings": text.context_length}
    ids = tokenizer.ids
    config = {
        "architectures": ["BlipForImageTextRetrieval"],
        "model_type": KIND,
        "dtype": trained.dtype,
        "image_text_hidden_size": head.dim,
        "vision_config": {
            "model_type": "blip_vision_model",
            **write_stack(image),
            **sides,
            "attention_dropout": 0.0,
        },
        "text_config": {
            "model_type": "blip_text_model",
            **write_stack(text),
            **sizes,
            **ids,
            "sep_token_id": ids["eos_token_id"],
            "encoder_hidden_size": image.width,
            "hidden_dropout_prob": text.dropout,
            "attention_probs_dropout_prob": 0.0,
            "is_decoder": True,
        },
    }
    processor |= images.written_normalisation(image)
    files = {"config.json": config, "preprocessor_config.json": processor, **tokenizer.files}
    return rules(*names), files


def _parts(
    trained: TrainedModel, issues: ExportIssues
) -> tuple[ViT, GroundedText, Embedding, tuple[str, str]]:
    """The image and the text encoder, the embedding head, and the names of both heads.

    Raises:
      ExportRefused: if the model has other parts.
    """
    nodes = trained.run.model.nodes
    kinds: dict[type, str] = {type(node): name for name, node in nodes.items()}
    if set(kinds) != {ViT, GroundedText, Embedding, Classifier} or len(nodes) != 4:
        wanted = (
            "an image tower (vit), a grounded_text, an embedding head and a classifier of pairs"
        )
        issues.refuse("model", [*nodes], wanted)
        issues.stop()
    for kind, wanted in ((ViT, "image"), (GroundedText, "text")):
        if kinds[kind] != wanted:
            issues.refuse(f"model.nodes.{kinds[kind]}", kinds[kind], f"the name {wanted!r}")
    issues.stop()
    image, text, head = nodes["image"], nodes["text"], nodes[kinds[Embedding]]
    assert isinstance(image, ViT)
    assert isinstance(text, GroundedText)
    assert isinstance(head, Embedding)
    return image, text, head, (kinds[Embedding], kinds[Classifier])
