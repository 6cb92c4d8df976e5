"""Folders of open_clip: `open_clip_config.json` and `open_clip_model.safetensors`.

Three kinds of model: CLIP with open_clip's own towers, the same with parameters under `text.`
(`custom_text`), and SigLIP with an image tower of timm.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vljax.interop import historical
from vljax.interop.export_plan import (
    ExportIssues,
    ExportPlan,
    TrainedModel,
    require_objective,
    two_towers,
)
from vljax.interop.files.read import holder, read_weights
from vljax.interop.files.safetensors import write_folder
from vljax.interop.foreign_config import ForeignConfig, read_json, to_json
from vljax.interop.foreign_model import ForeignModel, imported_run
from vljax.interop.formats import Format
from vljax.interop.mapping import Rule, rule
from vljax.interop.open_clip import image as open_clip_image
from vljax.interop.open_clip import rules
from vljax.interop.open_clip import text as open_clip_text
from vljax.interop.open_clip import tokenizer as open_clip_texts
from vljax.models.encoders import ViT
from vljax.models.heads.embedding import Embedding
from vljax.objectives import SigmoidContrastive, SoftmaxContrastive

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model"


def _recognises(path: Path) -> bool:
    return (holder(path) / CONFIG).is_file()


def _rules(head: Embedding, image: ViT, name: str, *, custom: bool, bias: bool) -> list[Rule]:
    scalars = ["logit_scale", "logit_bias"] if bias else ["logit_scale"]
    projections = head.projections
    if image.pooling == "map":
        tower = rules.timm_image(name, projections["image"])
    else:
        tower = rules.native_image(name, input_norm=image.input_norm)
    prefix = "text." if custom else ""
    text = rules.text(name, projections["text"], prefix)
    return [*(rule(scalar, scalar) for scalar in scalars), *tower, *text]


def _read(path: Path) -> ForeignModel:
    folder = holder(path)
    file = folder / CONFIG
    content = ForeignConfig(read_json(file), str(file))
    config = content.part("model_cfg")
    if "multimodal_cfg" in config:
        config.fail("multimodal_cfg", "vljax has no CoCa")
    config.must("nonscalar_logit_scale", False, False)
    quick = config.get("quick_gelu", False)
    image, image_projection = open_clip_image.read(config.part("vision_cfg"), quick=quick)
    resize, pixels = open_clip_image.read_preprocessing(content.part("preprocess_cfg"), image)
    text_config = config.part("text_cfg")
    tokenizer = open_clip_texts.read(folder, text_config)
    text, text_projection = open_clip_text.read(text_config, tokenizer, quick=quick)
    projections: Any = {"image": image_projection, "text": text_projection}
    head = Embedding(config.get("embed_dim", 512), projections)
    bias = "init_logit_bias" in config
    custom = config.get("custom_text", False)
    run = imported_run(
        ViT(**image, **pixels),
        text,
        head,
        (resize,),
        tokenizer.loaded,
        SigmoidContrastive() if bias else SoftmaxContrastive(),
    )
    tower = run.model.encoders["image"]
    assert isinstance(tower, ViT)
    mapped = _rules(head, tower, "embedding", custom=custom, bias=bias)
    tensors = read_weights(path, historical.WEIGHTS["open_clip"])
    return ForeignModel("open_clip", run, tokenizer.loaded, tensors, mapped)


def _write(trained: TrainedModel, issues: ExportIssues) -> ExportPlan:
    with issues.part("model"):
        image, text, head, name = two_towers(trained, issues)
        of_timm = image.pooling == "map"
        open_clip_image.check(image, head, f"model.nodes.{name}", issues)
        open_clip_text.check(text, issues)
        require_objective(trained, issues, "softmax", "sigmoid")
        activations = [text.activation, *([] if of_timm else [image.activation])]
        quick = {activation == "quick_gelu" for activation in activations}
        if len(quick) == 2:
            path = "model.nodes.text.activation"
            issues.refuse(path, text.activation, "one for both towers", image.activation)
    with issues.part(trained.tokenizer_path):
        tokenizer, files = open_clip_texts.write(trained, issues)
    with issues.part("data.eval_transforms"):
        transforms = trained.run.data.eval_transforms
        preprocessing = open_clip_image.write_preprocessing(transforms, issues)
    issues.stop()
    vision = open_clip_image.write(image, head)
    text_config, plain = open_clip_text.write(text, head, tokenizer)
    custom = of_timm or not plain
    bias = "logit_bias" in trained.parameters
    config: dict[str, Any] = {"embed_dim": head.dim}
    config |= {"quick_gelu": True} if quick == {True} else {}
    config |= {"custom_text": True} if custom else {}
    config |= {"init_logit_bias": -10} if bias else {}
    config |= {"vision_cfg": vision, "text_cfg": text_config}
    pixels = {"mean": list(image.pixel_mean), "std": list(image.pixel_std)}
    content = {"model_cfg": config, "preprocess_cfg": {**preprocessing, **pixels}}

    def write(out: Path, tensors: Any, progress: Any) -> Any:
        return write_folder(out, WEIGHTS, tensors, progress)  # open_clip cannot read shards

    mapped = _rules(head, image, name, custom=custom, bias=bias)
    return ExportPlan(mapped, {CONFIG: to_json(content), **files}, write)


FORMAT = Format("a folder of open_clip", _recognises, _read, _write)
