"""Image towers of transformers: ViT (Dosovitskiy et al. 2021), DINOv2 (Oquab et al. 2023).

The models are `ViTModel`, `Dinov2Model` and `Dinov2WithRegistersModel`. `rules` and `check` also
serve `Run.pretrained`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vljax.config import UserError
from vljax.interop.export_plan import ExportIssues, TrainedModel, refuse_gated_mlp, single_tower
from vljax.interop.files.tensors import Tensor
from vljax.interop.foreign_config import ForeignConfig
from vljax.interop.foreign_model import (
    ForeignModel,
    image_run,
    placeholder_tokenizer,
    read_head,
    unprefixed,
)
from vljax.interop.mapping import (
    BATCHED,
    CONVOLUTION,
    FLAT,
    LINEAR,
    LINEAR_OUT,
    SAME,
    STACKED,
    STACKED_BATCHED,
    STACKED_LINEAR,
    Rule,
    rule,
)
from vljax.interop.transformers import images
from vljax.interop.transformers.towers import linear, norm, read_tower, write_stack
from vljax.models.encoders import ViT
from vljax.models.layers.transformer import TransformerConfig

PREFIXES = ("vit.", "dinov2.", "dinov2_with_registers.")
HEADS = r"(classifier|decoder)\..*"
IGNORED = (HEADS,)
"""Heads for tasks, which import leaves out."""

FORM = {
    "pooling": "cls",
    "cls_position": True,
    "positions": "learned",
    "input_norm": False,
    "patch_bias": True,
    "post_norm": False,
}
"""Fields that are the same for all of these towers."""
_VIT = {
    "norms": ("layernorm_before", "layernorm_after"),
    "mlp": ("intermediate.dense", "output.dense"),
}
_DINOV2 = {"norms": ("norm1", "norm2"), "mlp": ("mlp.fc1", "mlp.fc2")}


def check(name: str, encoder: ViT, layout: str) -> None:
    """Raises UserError if an encoder does not fit a layout, "vit" or "dinov2"."""
    form = {**FORM, **({} if layout == "dinov2" else {"layer_scale": None})}
    for field, wanted in form.items():
        if getattr(encoder, field) != wanted:
            path = f"model.nodes.{name}.{field}"
            raise UserError(f"{path}: must be {wanted} for weights of {layout}")


def rules(name: str, encoder: ViT, pooler: str | None = None) -> list[Rule]:
    """The rules of an encoder: of DINOv2 if it has layer scale, else of ViT.

    Args:
      name: the encoder's name in the model.
      encoder: its configuration.
      pooler: our path of the pooler, or None.
    """
    dinov2 = encoder.layer_scale is not None
    there = "embeddings"
    positions = (f"{name}/cls_position", f"{name}/positions")
    made = [
        rule(f"{name}/cls", f"{there}.cls_token", BATCHED),
        rule(positions, f"{there}.position_embeddings", STACKED_BATCHED),
        rule(f"{name}/patch_embedding", f"{there}.patch_embeddings.projection.weight", CONVOLUTION),
        rule(f"{name}/patch_bias", f"{there}.patch_embeddings.projection.bias"),
        *blocks(f"{name}/blocks/{{i}}", encoder),
        *norm(f"{name}/norm", "layernorm"),
    ]
    if encoder.mask_token:
        made.append(rule(f"{name}/mask_token", f"{there}.mask_token", SAME if dinov2 else BATCHED))
    if encoder.registers:
        made.append(rule(f"{name}/registers", f"{there}.register_tokens", BATCHED))
    return made if pooler is None else [*made, *linear(pooler, "pooler.dense")]


def blocks(here: str, encoder: TransformerConfig) -> list[Rule]:
    """The rules of a stack of blocks: of DINOv2 if it has layer scale, else of ViT."""
    there, names = "encoder.layer.{i}", _VIT if encoder.layer_scale is None else _DINOV2
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


# --- Folders ---

KINDS = ("vit", "dinov2", "dinov2_with_registers")
_CLASSES = dict(zip(KINDS, ("ViTModel", "Dinov2Model", "Dinov2WithRegistersModel"), strict=True))
_FILTERS: Any = {"dinov2": "bicubic_pytorch", "dinov2_with_registers": "bicubic"}
_MASK = "embeddings.mask_token"


def read(folder: Path, content: Any, tensors: Mapping[str, Tensor]) -> ForeignModel:
    """A folder whose `config.json` says one of `KINDS`."""
    config = ForeignConfig(content, str(folder / "config.json"))
    kind = str(config.raw("model_type"))
    config.must("qkv_bias", True, True)
    tensors, notes = unprefixed(tensors, PREFIXES, HEADS)
    dinov2 = kind != "vit"
    size = config.side("image_size", 224)
    fields = _read_stack(config, dinov2=dinov2)
    if dinov2:
        transforms, input_size, pixels = images.read_cropped(folder, kind)
        fields |= {"layer_scale": config.get("layerscale_value", 1.0)}
        fields |= {
            "position_filter": _FILTERS[kind],
            "table_size": size if input_size != size else None,
        }
        registers = kind == "dinov2_with_registers"
        fields |= {"registers": config.get("num_register_tokens", 4) if registers else 0}
    else:
        resize, pixels = images.read(folder, size, kind)
        transforms, input_size = (resize,), size
    encoder = ViT(
        image_size=input_size,
        patch_size=config.side("patch_size", 14 if kind == "dinov2" else 16),
        mask_token=_MASK in tensors,
        **{k: v for k, v in FORM.items() if k != "post_norm"},  # type: ignore[arg-type]
        **fields,
        **pixels,
    )
    if not dinov2 and "pooler.dense.weight" in tensors:
        config.must("pooler_act", "tanh", "tanh")
    head = read_head("image", encoder.width, tensors, config.get("pooler_output_size", 0))
    pooler = "embedding/image" if head.projections["image"] == "tanh" else None
    run = image_run(encoder, head, transforms)
    found = rules("image", encoder, pooler)
    return ForeignModel(
        f"transformers {kind}", run, placeholder_tokenizer(), tensors, found, IGNORED, notes
    )


def _read_stack(config: ForeignConfig, *, dinov2: bool) -> dict[str, Any]:
    """The sizes of the stack. DINOv2 stores the MLP size as a ratio of the width."""
    fields = read_tower(config, activation="gelu", epsilon=1e-6 if dinov2 else 1e-12, text=False)
    if dinov2:
        gated = config.get("use_swiglu_ffn", False)
        ratio = config.get("mlp_ratio", 4)
        fields["mlp_dim"] = _hidden(fields["width"], ratio, gated=gated)
        fields |= {"activation": "swiglu"} if gated else {}
    return fields


def _hidden(width: int, ratio: int, *, gated: bool) -> int:
    """The hidden size of an MLP; a gated one has two thirds, rounded up to a multiple of 8."""
    hidden = int(width * ratio)
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden


def write(trained: TrainedModel, issues: ExportIssues) -> tuple[list[Rule], dict[str, Any]]:
    """The rules, and all files except the arrays."""
    path = "model.nodes.image"
    with issues.part("model"):
        encoder, head, label = single_tower(trained, issues, "image", ViT)
        kind = kind_of(encoder)
        issues.require(FORM, encoder, path)
        if kind == "vit":
            issues.require({"mask_token": False, "table_size": None, "registers": 0}, encoder, path)
            refuse_gated_mlp(encoder, issues, path)
        else:
            _check_dinov2(encoder, kind, issues)
            if head.projections["image"] == "tanh":
                field = f"model.nodes.{label}.projections.image"
                issues.refuse(field, "tanh", "'none'", "none")
    with issues.part("data.eval_transforms"):
        plain = getattr(trained.run.model.encoders.get("image"), "layer_scale", None) is None
        family = "ViT" if plain else "Bit"
        processor = images.write(trained.run.data.eval_transforms, issues, family)
    issues.stop()
    content = {
        "architectures": [_CLASSES[kind]],
        "model_type": kind,
        "dtype": trained.dtype,
        "num_channels": 3,
        "image_size": encoder.table_size or encoder.image_size,
        "patch_size": encoder.patch_size,
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    pooler = f"{label}/image" if head.projections["image"] == "tanh" else None
    if kind == "vit":
        content |= {**write_stack(encoder), "pooler_output_size": head.dim, "pooler_act": "tanh"}
        if pooler is None:
            issues.notes.append(
                "without a pooler: ViTModel.from_pretrained(OUT, add_pooling_layer=False)"
            )
    else:
        content |= _write_dinov2(encoder, kind)
    processor |= images.written_normalisation(encoder)
    return rules("image", encoder, pooler), {
        "config.json": content,
        "preprocessor_config.json": processor,
    }


def kind_of(encoder: ViT) -> str:
    """The `model_type` of an encoder."""
    if encoder.layer_scale is None:
        return "vit"
    return "dinov2_with_registers" if encoder.registers else "dinov2"


def _mlp_ratio(encoder: ViT) -> int | None:
    """The MLP size as a ratio of the width, as DINOv2 stores it; None if there is none."""
    gated = encoder.activation == "swiglu"
    ratios = (r for r in range(1, 33) if _hidden(encoder.width, r, gated=gated) == encoder.mlp_dim)
    return next(ratios, None)


def _check_dinov2(encoder: ViT, kind: str, issues: ExportIssues) -> None:
    path = "model.nodes.image"
    if encoder.table_size is not None:
        issues.require({"position_filter": _FILTERS[kind]}, encoder, path)
    if _mlp_ratio(encoder) is None:
        usual = _hidden(encoder.width, 4, gated=encoder.activation == "swiglu")
        known = f"whole multiples of {encoder.width}"
        issues.refuse(f"{path}.mlp_dim", encoder.mlp_dim, known, usual)
    if kind == "dinov2_with_registers":
        issues.require({"mask_token": True}, encoder, path)


def _write_dinov2(encoder: ViT, kind: str) -> dict[str, Any]:
    """The fields of `config.json` that differ between DINOv2 and ViT."""
    gated = encoder.activation == "swiglu"
    sizes = {"num_hidden_layers": encoder.depth, "num_attention_heads": encoder.heads}
    made = {
        "hidden_size": encoder.width,
        **sizes,
        "mlp_ratio": _mlp_ratio(encoder),
        "layer_norm_eps": encoder.norm_epsilon,
        "layerscale_value": encoder.layer_scale,
        "drop_path_rate": 0.0,
        "use_swiglu_ffn": gated,
        "hidden_act": "gelu" if gated else write_stack(encoder)["hidden_act"],
    }
    if kind == "dinov2":
        return {**made, "use_mask_token": encoder.mask_token}
    return {**made, "num_register_tokens": encoder.registers}
