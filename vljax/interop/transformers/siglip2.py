"""SigLIP 2 with images in their own aspect ratio (NaFlex) in transformers (`Siglip2Model`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vljax.data.transforms import Patchify, Transform
from vljax.interop.export_plan import (
    ExportIssues,
    TrainedModel,
    require_objective,
    transform_path,
    two_towers,
)
from vljax.interop.files.tensors import Tensor
from vljax.interop.foreign_config import ForeignConfig
from vljax.interop.foreign_model import ForeignModel, imported_run
from vljax.interop.mapping import PATCHES, Rule
from vljax.interop.transformers import gemma_tokenizer as gemma
from vljax.interop.transformers import images, siglip
from vljax.interop.transformers.towers import IGNORED, read_tower, write_text, write_tower
from vljax.models.encoders import NaFlexViT, TextTransformer
from vljax.models.heads.embedding import Embedding
from vljax.objectives import SigmoidContrastive

KIND = "siglip2"
_IMAGE = {"pooling": "map", "input_norm": False, "patch_bias": True}
_TEXT = {"causal": False, "pooling": "last"}
_PROJECTIONS: Any = {"image": "none", "text": "affine"}


def read(folder: Path, content: Any, tensors: Mapping[str, Tensor]) -> ForeignModel:
    """A folder whose `config.json` says `siglip2`."""
    config = ForeignConfig(content, str(folder / "config.json"))
    vision, text = config.part("vision_config"), config.part("text_config")
    vision.must("vision_use_head", True, True)
    defaults: Any = {"activation": "gelu_pytorch_tanh", "epsilon": 1e-6}
    patch, entries = vision.side("patch_size", 16), vision.get("num_patches", 256)
    side = math.isqrt(entries)
    if side**2 != entries:
        vision.fail("num_patches", f"is {entries}, which is not a square number")
    patchify, pixels = _read_processor(folder, patch)
    tower = NaFlexViT(
        image_size=side * patch,
        patch_size=patch,
        **read_tower(vision, text=False, **defaults),
        **pixels,
        **_IMAGE,  # type: ignore[arg-type]
    )
    context = text.get("max_position_embeddings", 64)
    tokenizer, masks = gemma.read(folder, context)
    encoder = TextTransformer(
        vocab_size=text.get("vocab_size", 32000),
        context_length=context,
        mask_padding=masks,
        **read_tower(text, text=True, **defaults),
        **_TEXT,  # type: ignore[arg-type]
    )
    dim = text.get("projection_size", encoder.width)
    if dim != tower.width:
        text.fail("projection_size", f"is {dim}, but image embeddings have {tower.width} values")
    head, objective = Embedding(dim, _PROJECTIONS), SigmoidContrastive()
    run = imported_run(tower, encoder, head, (patchify,), tokenizer.loaded, objective)
    rules = siglip.rules("embedding", PATCHES)
    return ForeignModel("transformers siglip2", run, tokenizer.loaded, tensors, rules, IGNORED)


def _read_processor(folder: Path, patch: int) -> tuple[Patchify, dict[str, Any]]:
    """The transform from images to patches, and our fields for pixel normalisation."""
    fields = images.processor(folder)
    kind = images.processor_class(fields, KIND)
    if not kind.startswith("Siglip2"):
        fields.fail("image_processor_type", f"is {kind!r}; siglip2 has Siglip2ImageProcessor")
    images.check_steps(fields)
    fields.must("patch_size", patch, 16)
    budget = fields.get("max_num_patches", 256)
    name: Any = images.interpolation(fields, "bilinear")
    return Patchify(patch, (budget,), interpolation=name), images.normalisation(fields)


def write(trained: TrainedModel, issues: ExportIssues) -> tuple[list[Rule], dict[str, Any]]:
    """The rules, and all files except the arrays."""
    with issues.part("model"):
        image, text, head, name = two_towers(trained, issues, NaFlexViT)
        issues.require(_IMAGE, image, "model.nodes.image")
        issues.require(_TEXT, text, "model.nodes.text")
        siglip.require_siglip_head(image, head, f"model.nodes.{name}", issues)
        require_objective(trained, issues, "sigmoid")
    with issues.part(trained.tokenizer_path):
        tokenizer = gemma.write(trained, issues)
    with issues.part("data.eval_transforms"):
        processor = _write_processor(trained.run.data.eval_transforms, issues)
    issues.stop()
    inputs = ["input_ids", *(["attention_mask"] if text.mask_padding else [])]
    tokenizer.files["tokenizer_config.json"]["model_input_names"] = inputs
    vision = {
        "model_type": "siglip2_vision_model",
        **write_tower(image),
        "num_channels": 3,
        "patch_size": image.patch_size,
        "num_patches": image.grid**2,
        "vision_use_head": True,
    }
    config = {
        "architectures": ["Siglip2Model"],
        "model_type": KIND,
        "dtype": trained.dtype,
        "initializer_factor": 1.0,
        "text_config": {
            "model_type": "siglip2_text_model",
            **write_text(text, tokenizer.ids),
            "projection_size": head.dim,
        },
        "vision_config": vision,
    }
    processor |= images.written_normalisation(image) | {"patch_size": image.patch_size}
    issues.notes.append(
        "Siglip2Processor ignores the saved sizes, and uses 256 patches of 16 pixels and 64 tokens:"
        f" call it with patch_size={image.patch_size},"
        f" max_num_patches={processor['max_num_patches']}, max_length={text.context_length}"
    )
    files = {"config.json": config, "preprocessor_config.json": processor, **tokenizer.files}
    return siglip.rules(name, PATCHES), files


def _write_processor(transforms: Sequence[Transform], issues: ExportIssues) -> dict[str, Any]:
    """The content of `preprocessor_config.json`, without what the image tower decides."""
    patchify = images.only_patchify(transforms, issues)
    if patchify.shortest is not None:
        path = f"{transform_path(transforms, patchify)}.shortest"
        issues.refuse(path, patchify.shortest, "as many patches as fit", None)
    issues.stop()
    return {
        "image_processor_type": "Siglip2ImageProcessor",
        "processor_class": "Siglip2Processor",
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": images.FILTERS[patchify.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "max_num_patches": patchify.lengths[-1],
    }
