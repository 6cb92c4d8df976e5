"""CLIP in transformers (`CLIPModel`), with its ViT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vljax.interop.export_plan import ExportIssues, TrainedModel, require_objective, two_towers
from vljax.interop.files.tensors import Tensor
from vljax.interop.foreign_config import ForeignConfig
from vljax.interop.foreign_model import ForeignModel, imported_run
from vljax.interop.mapping import LINEAR, ROW, STACKED, Rule, rule
from vljax.interop.transformers import images
from vljax.interop.transformers import tokenizer as texts
from vljax.interop.transformers.towers import (
    IGNORED,
    blocks,
    embeddings,
    norm,
    read_tower,
    write_image,
    write_text,
)
from vljax.models.encoders import TextTransformer, ViT
from vljax.models.heads.embedding import Embedding
from vljax.objectives import SoftmaxContrastive

KIND = "clip"
_IMAGE = {
    "pooling": "cls",
    "cls_position": True,
    "input_norm": True,
    "patch_bias": False,
}
_TEXT = {"causal": True, "pooling": "eos"}
# Before version 4.31, configurations stated 2 whatever the tokenizer used. For such a configuration
# the model pools at the token with the highest id, not at the end token.
_OLD_EOS = 2


def rules(head: str) -> list[Rule]:
    """The rules of a CLIP; `head` is the name of our embedding head."""
    image = "vision_model.embeddings"
    positions = ("image/cls_position", "image/positions")
    return [
        rule("logit_scale", "logit_scale"),
        *embeddings(),
        rule("image/cls", f"{image}.class_embedding", ROW),
        rule(positions, f"{image}.position_embedding.weight", STACKED),
        *norm("image/input_norm", "vision_model.pre_layrnorm"),
        *blocks("image", "vision_model"),
        *norm("image/norm", "vision_model.post_layernorm"),
        *blocks("text", "text_model"),
        *norm("text/norm", "text_model.final_layer_norm"),
        rule(f"{head}/image/kernel", "visual_projection.weight", LINEAR),
        rule(f"{head}/text/kernel", "text_projection.weight", LINEAR),
    ]


def read(folder: Path, content: Any, tensors: Mapping[str, Tensor]) -> ForeignModel:
    """A folder whose `config.json` says `clip`."""
    config = ForeignConfig(content, str(folder / "config.json"))
    # In transformers a `text_config_dict` overrides all of `text_config`: fields that it lacks have
    # the defaults of the class there, not the values of `text_config` (CLIPConfig.__init__).
    vision = config.part("vision_config", override="vision_config_dict")
    text = config.part("text_config", override="text_config_dict")
    context = text.get("max_position_embeddings", 77)
    tokenizer = texts.read(folder, context, config)
    _check_end(text, tokenizer.eos_id, text.get("vocab_size", 49408), tokenizer.vocab_size)
    size = vision.side("image_size", 224)
    resize, pixels = images.read(folder, size, KIND)
    defaults: Any = {"activation": "quick_gelu", "epsilon": 1e-5}
    tower = ViT(
        image_size=size,
        patch_size=vision.side("patch_size", 32),
        **read_tower(vision, text=False, **defaults),
        **pixels,
        **_IMAGE,  # type: ignore[arg-type]
    )
    encoder = TextTransformer(
        vocab_size=text.get("vocab_size", 49408),
        context_length=context,
        mask_padding=False,
        **read_tower(text, text=True, **defaults),
        **_TEXT,  # type: ignore[arg-type]
    )
    run = imported_run(
        tower,
        encoder,
        Embedding(config.get("projection_dim", 512)),
        (resize,),
        tokenizer.loaded,
        SoftmaxContrastive(),
    )
    return ForeignModel(
        "transformers clip",
        run,
        tokenizer.loaded,
        tensors,
        rules("embedding"),
        IGNORED,
        _overridden(config),
    )


def _overridden(config: ForeignConfig) -> list[str]:
    """Says which values of `text_config` and `vision_config` have no effect."""
    notes = []
    for name in ("text_config", "vision_config"):
        differing = config.part(name, f"{name}_dict").differing(config.part(name))
        if differing:
            notes.append(
                f"{name}_dict overrides {name}, as in transformers, with other values of:"
                f" {', '.join(differing)}"
            )
    return notes


def _check_end(text: ForeignConfig, eos: int, vocab_size: int, tokens: int) -> None:
    stated = text.get("eos_token_id", 49407)
    if stated == eos and eos != _OLD_EOS:
        return
    if stated != _OLD_EOS:
        text.fail("eos_token_id", f"is {stated}, but the tokenizer ends texts with id {eos}")
    if eos != tokens - 1:
        text.fail(
            "eos_token_id",
            f"is 2, for which transformers pools at the highest id, {tokens - 1}; but the tokenizer"
            f" ends texts with id {eos}",
        )


def write(trained: TrainedModel, issues: ExportIssues) -> tuple[list[Rule], dict[str, Any]]:
    """The rules, and all files except the arrays."""
    with issues.part("model"):
        image, text, head, name = two_towers(trained, issues)
        issues.require(_IMAGE, image, "model.nodes.image")
        issues.require(_TEXT, text, "model.nodes.text")
        linear = {"image": "linear", "text": "linear"}
        issues.require({"projections": linear}, head, f"model.nodes.{name}")
        require_objective(trained, issues, "softmax")
    with issues.part(trained.tokenizer_path):
        tokenizer = texts.write(trained, issues, inputs=["input_ids", "attention_mask"])
        if tokenizer.ids["eos_token_id"] == _OLD_EOS:
            issues.add(
                trained.tokenizer_path,
                f"{trained.tokenizer_path}: the end token has the id 2, for which transformers clip"
                " pools at the token with the highest id instead; train with another id for the end"
                " token",
            )
    with issues.part("data.eval_transforms"):
        processor = images.write(trained.run.data.eval_transforms, issues, "CLIP")
    issues.stop()
    projection = {"projection_dim": head.dim}
    config = {
        "architectures": ["CLIPModel"],
        "model_type": KIND,
        "dtype": trained.dtype,
        **projection,
        "logit_scale_init_value": 2.6592,
        "initializer_factor": 1.0,
        "text_config": {
            "model_type": "clip_text_model",
            **write_text(text, tokenizer.ids),
            **projection,
        },
        "vision_config": {"model_type": "clip_vision_model", **write_image(image), **projection},
    }
    processor |= images.written_normalisation(image)
    files = {"config.json": config, "preprocessor_config.json": processor, **tokenizer.files}
    return rules(name), files
