"""`preprocessor_config.json` of transformers, read and written as evaluation transforms."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vljax.data.transforms import CentreCrop, Decode, Patchify, Resize, Transform
from vljax.data.transforms.base import image_transforms
from vljax.interop.export_plan import ExportIssues, transform_path
from vljax.interop.foreign_config import ForeignConfig, read_json
from vljax.interop.historical import IMAGE_PROCESSORS
from vljax.models.encoders import ViT

FILTERS: dict[str, int] = {"bilinear": 2, "bicubic": 3}
"""Pillow's numbers of resampling filters."""
_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
_HALVES = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])


class _Family(NamedTuple):
    """The defaults of an image processor class."""

    means: tuple[list[float], list[float]]
    interpolation: str
    crops: bool


_FAMILIES = {
    "CLIP": _Family(_CLIP, "bicubic", crops=True),
    "Bit": _Family(_CLIP, "bicubic", crops=True),
    "Blip": _Family(_CLIP, "bicubic", crops=False),
    "Siglip": _Family(_HALVES, "bicubic", crops=False),
    "ViT": _Family(_HALVES, "bilinear", crops=False),
}

_PROCESSORS = ("Blip", "CLIP", "Siglip")
"""Families whose processor has an image processor and a tokenizer."""


def read(folder: Path, size: int, model_type: str) -> tuple[Resize, dict[str, Any]]:
    """The resize transform of a folder, and our fields for pixel normalisation.

    Args:
      folder: a folder with `preprocessor_config.json` or `processor_config.json`.
      size: the image size of the model in pixels.
      model_type: tells the class of the processor if the file does not name it.

    Raises:
      UserError: if vljax has no transform for a step.
    """
    fields = processor(folder)
    family = _family(fields, model_type)
    mode = _mode(fields, size, family.crops)
    name: Any = interpolation(fields, family.interpolation)
    resize = Resize(size, mode=mode, interpolation=name, centre="floor")  # type: ignore[arg-type]
    return resize, normalisation(fields, family.means)


def read_cropped(
    folder: Path, model_type: str
) -> tuple[tuple[Transform, ...], int, dict[str, Any]]:
    """Transforms, their output size, and pixel normalisation, for a model without a fixed size.

    An image may be resized to more pixels than are cropped from it afterwards.
    """
    fields = processor(folder)
    family = _family(fields, model_type)
    stated = fields.raw("size")
    crops = fields.get("do_center_crop", family.crops)
    mode: Any = "shortest" if isinstance(stated, dict) and "shortest_edge" in stated else "squash"
    if mode == "shortest" and not crops:
        fields.fail("do_center_crop", "is false, but the shortest edge alone is resized")
    resized = _side(fields, "size", stated)
    size = _side(fields, "crop_size", fields.raw("crop_size") if crops else stated)
    name: Any = interpolation(fields, family.interpolation)
    resize = Resize(resized, mode=mode, interpolation=name, centre="floor")
    if (resized - size) % 2 or size > resized:
        fields.fail("crop_size", f"{size} is not an even number of pixels less than {resized}")
    cut = () if size == resized else (CentreCrop(size),)
    return (resize, *cut), size, normalisation(fields, family.means)


def _side(fields: ForeignConfig, name: str, stated: Any) -> int:
    sides = [*stated.values()] if isinstance(stated, dict) else [stated]
    side = sides[0] if sides and all(other == sides[0] for other in sides) else None
    if not isinstance(side, int) or isinstance(side, bool):
        fields.fail(name, f"{stated!r} is not a square")
    assert isinstance(side, int)
    return side


def processor_class(fields: ForeignConfig, model_type: str) -> str:
    """The class of an image processor, which the oldest files call a feature extractor."""
    stated = fields.raw("image_processor_type") or fields.raw("feature_extractor_type")
    return str(stated or IMAGE_PROCESSORS[model_type])


def _family(fields: ForeignConfig, model_type: str) -> _Family:
    """The defaults of the image processor's class. Checks the steps that all classes share."""
    kind = processor_class(fields, model_type)
    family = next((name for name in _FAMILIES if kind.startswith(name)), None)
    if family is None:
        known = ", ".join(f"{name}..." for name in _FAMILIES)
        fields.fail("image_processor_type", f"unknown value {kind!r}; known: {known}")
    check_steps(fields)
    return _FAMILIES[family or ""]


def check_steps(fields: ForeignConfig) -> None:
    """Raises UserError if images are not resized, or not divided by 255."""
    for step in ("do_resize", "do_rescale"):
        fields.must(step, True, True)
    if abs(fields.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
        fields.fail("rescale_factor", "is not 1/255")


def interpolation(fields: ForeignConfig, default: str) -> str:
    """Our name of the resampling filter."""
    resample = fields.raw("resample", FILTERS[default])
    name = next((name for name, number in FILTERS.items() if number == resample), None)
    if name is None:
        fields.fail("resample", f"is {resample!r}; vljax has 2 (bilinear) and 3 (bicubic)")
    return str(name)


def normalisation(
    fields: ForeignConfig, default: tuple[list[float], list[float]] = _HALVES
) -> dict[str, Any]:
    """The fields of our image tower for pixel normalisation."""
    if not fields.get("do_normalize", True):
        return {"pixel_mean": (0.0, 0.0, 0.0), "pixel_std": (1.0, 1.0, 1.0)}
    mean, std = default
    return {
        "pixel_mean": three(fields, "image_mean", mean),
        "pixel_std": three(fields, "image_std", std),
    }


def processor(folder: Path) -> ForeignConfig:
    """The configuration of the image processor.

    If a folder has both files, the older kind is used, as in transformers.
    """
    file = folder / "preprocessor_config.json"
    if not file.exists() and (newer := folder / "processor_config.json").exists():
        return ForeignConfig(read_json(newer), str(newer)).part("image_processor")
    return ForeignConfig(read_json(file), str(file))


def _mode(fields: ForeignConfig, size: int, clip: bool) -> str:
    """The mode of our `Resize`."""
    stated = fields.raw("size", {"shortest_edge": 224} if clip else {"height": 224, "width": 224})
    crops = fields.get("do_center_crop", clip)
    if isinstance(stated, int):
        stated = {"shortest_edge": stated} if clip else {"height": stated, "width": stated}
    if stated == {"height": size, "width": size}:
        mode = "squash"
    elif stated == {"shortest_edge": size}:
        mode = "shortest"
        if not crops:
            fields.fail("do_center_crop", "is false, but the shortest edge alone is resized")
    else:
        fields.fail("size", f"is {stated!r}, but the model is made for {size} pixels")
    if crops:
        crop = fields.raw("crop_size", {"height": 224, "width": 224})
        if crop not in (size, {"height": size, "width": size}):
            fields.fail("crop_size", f"is {crop!r}, but the model is made for {size} pixels")
    return mode


def three(fields: ForeignConfig, name: str, default: Sequence[float]) -> tuple[float, ...]:
    """Three numbers, one per channel; null selects the default. Raises UserError otherwise."""
    values = fields.raw(name, None) or list(default)
    numbers = isinstance(values, list) and [isinstance(v, int | float) for v in values]
    if numbers != [True] * 3:
        fields.fail(name, f"{values!r} is not a list of three numbers")
    return tuple(fields.as_float(name, value) for value in values)


def write(transforms: Sequence[Transform], issues: ExportIssues, family: str) -> dict[str, Any]:
    """The content of `preprocessor_config.json`, without `written_normalisation`.

    Args:
      transforms: the evaluation transforms.
      issues: collects export issues.
      family: the image processor class, "CLIP", "Siglip", "ViT", "Bit" or "Blip".

    Raises:
      ExportRefused: if there are other transforms than the class has.
    """
    crop = [t for t in transforms if isinstance(t, CentreCrop)] if family == "Bit" else []
    resize, path = only_resize(transforms, issues, *crop)
    squashes = family in ("Blip", "ViT")
    if resize.mode == "pad" or (squashes and resize.mode != "squash"):
        known = "'squash'" if squashes else "'squash' and 'shortest'"
        issues.refuse(f"{path}.mode", resize.mode, known, "squash")
    elif resize.mode == "shortest" and resize.centre == "round":
        message = "a centre crop that is rounded to even pixels rather than down"
        issues.record(f"{path}.centre", "floor", "resize", message)
    side = {"height": resize.size, "width": resize.size}
    issues.notes.append(
        "AutoProcessor.from_pretrained(FOLDER, backend='pil') gives the same pixels; its default,"
        " torchvision, sometimes differs by one level"
    )
    content: dict[str, Any] = {
        "image_processor_type": f"{family}ImageProcessor",
        **({"processor_class": f"{family}Processor"} if family in _PROCESSORS else {}),
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": resize.size} if resize.mode == "shortest" else side,
        "resample": FILTERS[resize.interpolation],
        "do_center_crop": resize.mode == "shortest",
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
    }
    if resize.mode == "shortest":
        content["crop_size"] = side
    if crop:
        size = crop[-1].size
        content |= {"do_center_crop": True, "crop_size": {"height": size, "width": size}}
    return content


def written_normalisation(tower: ViT) -> dict[str, Any]:
    """The fields of `preprocessor_config.json` for the pixel normalisation of a tower."""
    return {"image_mean": list(tower.pixel_mean), "image_std": list(tower.pixel_std)}


def only_resize(
    transforms: Sequence[Transform], issues: ExportIssues, *more: Transform
) -> tuple[Resize, str]:
    """The one transform between decoding and text, and its path in the recipe.

    Args:
      transforms: the evaluation transforms.
      issues: collects export issues.
      *more: transforms that the format has too.

    Raises:
      ExportRefused: if there are other transforms.
    """
    images = [t for t in image_transforms(transforms) if t not in more]
    if [type(t) for t in images] != [Decode, Resize]:
        names = [transform.type_name for transform in transforms]
        issues.refuse("data.eval_transforms", names, "decode and resize")
        issues.stop()
    decode, resize = images
    assert isinstance(decode, Decode)
    assert isinstance(resize, Resize)
    refuse_random_background(decode, transforms, issues)
    record_scaled(decode, transforms, issues)
    path = transform_path(transforms, resize)
    if not resize.antialias:
        issues.record(f"{path}.antialias", True, "resize", "resizing without antialiasing")
    if resize.interpolation == "area":
        message = "interpolation by area, which is bicubic there"
        issues.record(f"{path}.interpolation", "bicubic", "resize", message)
        resize = dataclasses.replace(resize, interpolation="bicubic")
    return resize, path


def only_patchify(transforms: Sequence[Transform], issues: ExportIssues) -> Patchify:
    """The one transform between decoding and text, for models of sequences of patches.

    Raises:
      ExportRefused: if there are other transforms, or another filter than formats have.
    """
    found = image_transforms(transforms)
    if [type(t) for t in found] != [Decode, Patchify]:
        names = [transform.type_name for transform in transforms]
        issues.refuse("data.eval_transforms", names, "decode and patchify")
        issues.stop()
    decode, patchify = found
    assert isinstance(decode, Decode)
    assert isinstance(patchify, Patchify)
    refuse_random_background(decode, transforms, issues)
    record_scaled(decode, transforms, issues)
    if patchify.interpolation not in FILTERS:
        path = f"{transform_path(transforms, patchify)}.interpolation"
        issues.refuse(path, patchify.interpolation, "bilinear and bicubic", "bicubic")
    issues.stop()
    return patchify


def refuse_random_background(
    decode: Decode, transforms: Sequence[Transform], issues: ExportIssues
) -> None:
    """Refuses a background of transparent images that is random in evaluation."""
    issues.require({"random_background": False}, decode, transform_path(transforms, decode))


def record_scaled(decode: Decode, transforms: Sequence[Transform], issues: ExportIssues) -> None:
    """Records the decoding of JPEG files at a smaller size, which no format has."""
    if decode.scaled:
        path = f"{transform_path(transforms, decode)}.scaled"
        issues.record(path, False, "resize", "decoding JPEG files no finer than needed")
