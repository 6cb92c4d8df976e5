"""SigLIP in transformers (`SiglipModel`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vljax.data.tokenizers import LoadedTokenizer
from vljax.interop.export_plan import ExportIssues, TrainedModel, require_objective, two_towers
from vljax.interop.files.tensors import Tensor
from vljax.interop.foreign_config import ForeignConfig
from vljax.interop.foreign_model import ForeignModel, imported_run
from vljax.interop.mapping import (
    BATCHED,
    CONVOLUTION,
    LINEAR_OUT,
    STACKED_FLAT,
    STACKED_LINEAR,
    Change,
    Rule,
    rule,
)
from vljax.interop.transformers import images
from vljax.interop.transformers import tokenizer as texts
from vljax.interop.transformers.towers import (
    IGNORED,
    blocks,
    embeddings,
    linear,
    norm,
    read_tower,
    write_image,
    write_text,
)
from vljax.models.encoders import TextTransformer, ViT
from vljax.models.heads.embedding import Embedding
from vljax.objectives import SigmoidContrastive

KIND = "siglip"
_IMAGE = {"pooling": "map", "input_norm": False, "patch_bias": True}
_TEXT = {"causal": False, "mask_padding": False, "pooling": "last"}
_PROJECTIONS: Any = {"image": "none", "text": "affine"}


def rules(head: str, patches: Change = CONVOLUTION) -> list[Rule]:
    """The rules of a SigLIP.

    Args:
      head: the name of our embedding head.
      patches: how the layout of the patch embedding changes.
    """
    image, pool = "vision_model.embeddings", "vision_model.head"
    packed = [f"image/pooling/attention/{name}" for name in ("query", "key", "value")]
    kernels, biases = ([f"{path}/{kind}" for path in packed] for kind in ("kernel", "bias"))
    output = "image/pooling/attention/output"
    return [
        rule("logit_scale", "logit_scale", BATCHED),
        rule("logit_bias", "logit_bias", BATCHED),
        *embeddings(patches),
        rule("image/patch_bias", f"{image}.patch_embedding.bias"),
        rule("image/positions", f"{image}.position_embedding.weight"),
        *blocks("image", "vision_model"),
        *norm("image/norm", "vision_model.post_layernorm"),
        rule("image/pooling/probe", f"{pool}.probe", BATCHED),
        rule(kernels, f"{pool}.attention.in_proj_weight", STACKED_LINEAR),
        rule(biases, f"{pool}.attention.in_proj_bias", STACKED_FLAT),
        rule(f"{output}/kernel", f"{pool}.attention.out_proj.weight", LINEAR_OUT),
        rule(f"{output}/bias", f"{pool}.attention.out_proj.bias"),
        *norm("image/pooling/norm", f"{pool}.layernorm"),
        *linear("image/pooling/mlp/up", f"{pool}.mlp.fc1"),
        *linear("image/pooling/mlp/down", f"{pool}.mlp.fc2"),
        *blocks("text", "text_model"),
        *norm("text/norm", "text_model.final_layer_norm"),
        *linear(f"{head}/text", "text_model.head"),
    ]


def read(folder: Path, content: Any, tensors: Mapping[str, Tensor]) -> ForeignModel:
    """A folder whose `config.json` says `siglip`."""
    config = ForeignConfig(content, str(folder / "config.json"))
    vision, text = config.part("vision_config"), config.part("text_config")
    vision.must("vision_use_head", True, True)
    context = text.get("max_position_embeddings", 64)
    tokenizer = texts.read(folder, context, config)
    size = vision.side("image_size", 224)
    resize, pixels = images.read(folder, size, KIND)
    defaults: Any = {"activation": "gelu_pytorch_tanh", "epsilon": 1e-6}
    tower = ViT(
        image_size=size,
        patch_size=vision.side("patch_size", 16),
        **read_tower(vision, text=False, **defaults),
        **pixels,
        **_IMAGE,  # type: ignore[arg-type]
    )
    encoder = TextTransformer(
        vocab_size=text.get("vocab_size", 32000),
        context_length=context,
        **read_tower(text, text=True, **defaults),
        **_TEXT,  # type: ignore[arg-type]
    )
    dim = text.get("projection_size", encoder.width)
    if dim != tower.width:
        text.fail("projection_size", f"is {dim}, but image embeddings have {tower.width} values")
    objective = SigmoidContrastive()
    head = Embedding(dim, _PROJECTIONS)
    run = imported_run(tower, encoder, head, (resize,), tokenizer.loaded, objective)
    what, notes = "transformers siglip", _notes(tokenizer.loaded)
    return ForeignModel(what, run, tokenizer.loaded, tensors, rules("embedding"), IGNORED, notes)


def _notes(tokenizer: LoadedTokenizer) -> list[str]:
    """Warns if texts keep upper case.

    Released SigLIPs were trained on lower case, but in transformers only a SiglipTokenizer
    lower-cases.
    """
    upper, lower = tokenizer(["A", "a"])[0]
    if np.array_equal(upper, lower):
        return []
    return [
        "texts keep upper case, as in transformers; released SigLIPs were trained on lower case, so"
        " lower-case texts for them"
    ]


def write(trained: TrainedModel, issues: ExportIssues) -> tuple[list[Rule], dict[str, Any]]:
    """The rules, and all files except the arrays."""
    with issues.part("model"):
        image, text, head, name = two_towers(trained, issues)
        issues.require(_IMAGE, image, "model.nodes.image")
        issues.require(_TEXT, text, "model.nodes.text")
        require_siglip_head(image, head, f"model.nodes.{name}", issues)
        require_objective(trained, issues, "sigmoid")
    with issues.part(trained.tokenizer_path):
        # No attention mask, since the model is trained to read padding.
        tokenizer = texts.write(trained, issues, inputs=["input_ids"])
    with issues.part("data.eval_transforms"):
        processor = images.write(trained.run.data.eval_transforms, issues, "Siglip")
    issues.stop()
    config = {
        "architectures": ["SiglipModel"],
        "model_type": KIND,
        "dtype": trained.dtype,
        "initializer_factor": 1.0,
        "text_config": {
            "model_type": "siglip_text_model",
            **write_text(text, tokenizer.ids),
            "projection_size": head.dim,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            **write_image(image),
            "vision_use_head": True,
        },
    }
    processor |= images.written_normalisation(image)
    files = {"config.json": config, "preprocessor_config.json": processor, **tokenizer.files}
    return rules(name), files


def require_siglip_head(image: ViT, head: Embedding, path: str, issues: ExportIssues) -> None:
    """Refuses an embedding head that is not SigLIP's: image features as they are."""
    issues.require({"projections": _PROJECTIONS}, head, path)
    if head.dim != image.width:
        issues.refuse(f"{path}.dim", head.dim, f"{image.width}, the width", image.width)
