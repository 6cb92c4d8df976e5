"""`vision_cfg` and `preprocess_cfg` of open_clip, read and written as our ViT and transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vljax.config import suggest
from vljax.data.transforms import Resize, Transform
from vljax.interop.export_plan import ExportIssues
from vljax.interop.foreign_config import ForeignConfig
from vljax.interop.open_clip.timm_trunks import EPSILON, TRUNKS
from vljax.interop.transformers.images import only_resize, three
from vljax.models.encoders import ViT
from vljax.models.heads.embedding import Embedding
from vljax.models.layers.transformer import TransformerConfig

# Options of open_clip that vljax lacks, with the values that turn them off.
_UNSUPPORTED: dict[str, Any] = {
    "ls_init_value": None,
    "attentional_pool": False,
    "pos_embed_type": "learnable",
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
}
_NATIVE = {"pooling": "cls", "cls_position": True, "patch_bias": False}
_TIMM = {"pooling": "map", "input_norm": False, "patch_bias": True, "norm_epsilon": EPSILON}
_MODES = {"shortest": "shortest", "squash": "squash", "longest": "pad"}
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


def read(fields: ForeignConfig, *, quick: bool) -> tuple[dict[str, Any], str]:
    """The fields of our ViT, and its projection in the embedding head."""
    for name, value in _UNSUPPORTED.items():
        fields.must(name, value, value)
    if "timm_model_name" in fields:
        return _read_timm(fields)
    fields.must("pool_type", "tok", "tok")
    width, head_width = fields.get("width", 768), fields.get("head_width", 64)
    if not isinstance(fields.raw("layers", 12), int):
        fields.fail("layers", "a list means a ResNet, which vljax lacks")
    tower = {
        "image_size": fields.side("image_size", 224),
        "patch_size": fields.side("patch_size", 16),
        "width": width,
        "depth": fields.get("layers", 12),
        "heads": width // head_width,
        "mlp_dim": int(width * fields.get("mlp_ratio", 4.0)),
        "input_norm": not fields.get("no_ln_pre", False),
        **read_layers(fields, quick=quick),
        **_NATIVE,
    }
    return tower, "linear"


def _read_timm(fields: ForeignConfig) -> tuple[dict[str, Any], str]:
    name = fields.get("timm_model_name", "")
    if name not in TRUNKS:
        near = suggest(name, TRUNKS)
        fields.fail("timm_model_name", f"vljax does not know the sizes of {name!r}{near}")
    fields.must("timm_pool", "map", "avg")
    biased = "affine" if fields.get("timm_proj_bias", False) else "linear"
    kinds = {"none": "none", "": "none", "linear": biased}
    projection: str = fields.one_of("timm_proj", kinds, "linear")
    trunk = TRUNKS[name]
    if fields.side("image_size", trunk.image) != trunk.image:
        fields.fail("image_size", f"is not {trunk.image}, the size of {name}")
    return {**trunk.fields(), "scan": False, **_TIMM}, projection


def read_layers(fields: ForeignConfig, *, quick: bool) -> dict[str, Any]:
    """The activation and layer norm fields of one of open_clip's own towers."""
    approximate = fields.part("act_kwargs").raw("approximate", "none")
    if approximate not in ("none", "tanh") or (quick and approximate != "none"):
        fields.fail("act_kwargs", f"approximate = {approximate!r} is unknown here")
    gelu = {"none": "gelu", "tanh": "gelu_tanh"}[approximate]
    return {
        "activation": "quick_gelu" if quick else gelu,
        "norm_epsilon": fields.part("norm_kwargs").get("eps", 1e-5),
        "scan": False,
    }


def write_layers(tower: TransformerConfig) -> dict[str, Any]:
    """The inverse of `read_layers`."""
    fields: dict[str, Any] = {"mlp_ratio": mlp_ratio(tower)}
    if tower.activation == "gelu_tanh":
        fields["act_kwargs"] = {"approximate": "tanh"}
    if tower.norm_epsilon != 1e-5:
        fields["norm_kwargs"] = {"eps": tower.norm_epsilon}
    return fields


def mlp_ratio(tower: TransformerConfig) -> float:
    """The ratio for which open_clip's `int(width * ratio)` gives our MLP size."""
    ratio = tower.mlp_dim / tower.width
    # Rounding may leave the product slightly below the integer.
    return ratio if int(tower.width * ratio) == tower.mlp_dim else ratio + 1e-6


def check(tower: ViT, head: Embedding, path: str, issues: ExportIssues) -> None:
    """Refuses what neither open_clip's own image tower nor one of timm has.

    Args:
      tower: the image tower.
      head: the embedding head.
      path: the recipe field of the head.
      issues: collects export issues.
    """
    field, projection = "model.nodes.image", head.projections.get("image")
    if tower.pooling != "map":
        issues.require(_NATIVE, tower, field)
        if projection != "linear":
            issues.refuse(f"{path}.projections.image", projection, "'linear'", "linear")
        return
    trunks = [*_trunks(tower), *_trunks(tower, "activation")]
    if trunks:
        # The name of a trunk determines its activation too.
        activation = TRUNKS[trunks[0]].activation
        issues.require({**_TIMM, "activation": activation}, tower, field)
    else:
        sizes = f"{tower.width} wide, {tower.depth} deep, {tower.activation}"
        found = f"map over {sizes}, patch {tower.patch_size} at {tower.image_size} pixels"
        known = f"cls, and map in the sizes of timm: {', '.join(TRUNKS)}"
        issues.refuse(f"{field}.pooling", found, known, "cls")


def _trunks(tower: ViT, *ignored: str) -> list[str]:
    """The names of timm's image towers that equal a tower in all fields but the ignored ones."""
    return [
        name
        for name, trunk in TRUNKS.items()
        if all(
            getattr(tower, field) == value
            for field, value in trunk.fields().items()
            if field not in ignored
        )
    ]


def write(tower: ViT, head: Embedding) -> dict[str, Any]:
    """`vision_cfg`."""
    if tower.pooling == "map":
        return _write_timm(tower, str(head.projections["image"]))
    fields = {
        "image_size": tower.image_size,
        "patch_size": tower.patch_size,
        "width": tower.width,
        "layers": tower.depth,
        "head_width": tower.width // tower.heads,
        **write_layers(tower),
    }
    return fields | ({} if tower.input_norm else {"no_ln_pre": True})


def _write_timm(tower: ViT, projection: str) -> dict[str, Any]:
    return {
        "image_size": tower.image_size,
        "timm_model_name": _trunks(tower)[0],
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none" if projection == "none" else "linear",
        "timm_proj_bias": projection == "affine",
    }


def read_preprocessing(
    fields: ForeignConfig, image: dict[str, Any]
) -> tuple[Resize, dict[str, Any]]:
    """The resize transform, and our fields for pixel normalisation."""
    size = fields.side("size", image["image_size"])
    if size != image["image_size"]:
        fields.fail("size", f"is {size}, but the model is made for {image['image_size']} pixels")
    fields.must("mode", "RGB", "RGB")
    grey = fields.get("fill_color", 0)
    names = {"bicubic": "bicubic", "bilinear": "bilinear"}
    resize = Resize(
        size,
        mode=fields.one_of("resize_mode", _MODES, "shortest"),
        interpolation=fields.one_of("interpolation", names, "bicubic"),
        background=(grey, grey, grey),
    )
    return resize, {
        "pixel_mean": three(fields, "mean", _MEAN),
        "pixel_std": three(fields, "std", _STD),
    }


def write_preprocessing(transforms: Sequence[Transform], issues: ExportIssues) -> dict[str, Any]:
    """`preprocess_cfg` without mean and deviation of pixels, which the image tower has.

    Raises:
      ExportRefused: if the transforms are not a decode and a resize.
    """
    resize, path = only_resize(transforms, issues)
    if resize.mode == "shortest" and resize.centre == "floor":
        message = "a centre crop that is rounded down rather than to even pixels"
        issues.record(f"{path}.centre", "round", "resize", message)
    if resize.mode == "pad" and len(set(resize.background)) > 1:
        grey = (round(sum(resize.background) / 3),) * 3
        issues.refuse(f"{path}.background", resize.background, "greys", grey)
    modes = {ours: theirs for theirs, ours in _MODES.items()}
    return {
        "size": resize.size,
        "mode": "RGB",
        "interpolation": resize.interpolation,
        "resize_mode": modes[resize.mode],
        "fill_color": resize.background[0],
    }
