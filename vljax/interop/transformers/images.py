"""`preprocessor_config.json` of transformers, and our transforms of evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vljax.data.transforms import CentreCrop, Decode, Resize, Transform
from vljax.interop.export_plan import ExportIssues
from vljax.interop.foreign_config import ForeignConfig, read_json
from vljax.models.encoders import ViT

FILTERS: dict[str, int] = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers
_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
_HALVES = ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])


class _Family(NamedTuple):
    """What an image processor does where its file says nothing."""

    means: tuple[list[float], list[float]]
    interpolation: str
    crops: bool


_FAMILIES = {
    "CLIP": _Family(_CLIP, "bicubic", crops=True),
    "Bit": _Family(_CLIP, "bicubic", crops=True),
    "Siglip": _Family(_HALVES, "bicubic", crops=False),
    "ViT": _Family(_HALVES, "bilinear", crops=False),
}


def read(folder: Path, size: int) -> tuple[Resize, dict[str, Any]]:
    """How images get the size of the model, and how their pixels are normalised.

    Args:
      folder: with a `preprocessor_config.json`, or a `processor_config.json` that holds the same.
      size: height and width that the model is made for.

    Raises:
      UserError: if it does anything that no transform here does.
    """
    fields = processor(folder)
    family = _family(fields)
    mode = _mode(fields, size, family.crops)
    name: Any = interpolation(fields, family.interpolation)
    resize = Resize(size, mode=mode, interpolation=name, centre="floor")  # type: ignore[arg-type]
    return resize, normalisation(fields, family.means)


def read_cropped(folder: Path) -> tuple[tuple[Transform, ...], int, dict[str, Any]]:
    """The same for a model of any size: transforms, the size that they make, the normalisation.

    What is resized may be larger than what is cropped out of it.
    """
    fields = processor(folder)
    family = _family(fields)
    given = fields.raw("size")
    crops = fields.get("do_center_crop", family.crops)
    mode: Any = "shortest" if isinstance(given, dict) and "shortest_edge" in given else "squash"
    if mode == "shortest" and not crops:
        fields.fail("do_center_crop", "is false, but the shortest edge alone is resized")
    resized = _side(fields, "size", given)
    size = _side(fields, "crop_size", fields.raw("crop_size") if crops else given)
    name: Any = interpolation(fields, family.interpolation)
    resize = Resize(resized, mode=mode, interpolation=name, centre="floor")
    if (resized - size) % 2 or size > resized:
        fields.fail("crop_size", f"{size} is no even number of pixels less than {resized}")
    cut = () if size == resized else (CentreCrop(size),)
    return (resize, *cut), size, normalisation(fields, family.means)


def _side(fields: ForeignConfig, name: str, given: Any) -> int:
    sides = set(given.values()) if isinstance(given, dict) else {given}
    side = sides.pop() if len(sides) == 1 else None
    if not isinstance(side, int) or isinstance(side, bool):
        fields.fail(name, f"{given!r} is no square")
    assert isinstance(side, int)
    return side


def _family(fields: ForeignConfig) -> _Family:
    """What the kind of processor does by default, once the steps that all share are checked."""
    kind = str(fields.raw("image_processor_type") or fields.raw("feature_extractor_type"))
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
    """The filter by our name."""
    resample = fields.raw("resample", FILTERS[default])
    name = next((name for name, number in FILTERS.items() if number == resample), None)
    if name is None:
        fields.fail("resample", f"is {resample!r}; vljax has 2 (bilinear) and 3 (bicubic)")
    return str(name)


def normalisation(
    fields: ForeignConfig, default: tuple[list[float], list[float]] = _HALVES
) -> dict[str, Any]:
    """The fields of an image tower that say what is done to pixels."""
    if not fields.get("do_normalize", True):
        return {"pixel_mean": (0.0, 0.0, 0.0), "pixel_std": (1.0, 1.0, 1.0)}
    mean, std = default
    return {
        "pixel_mean": three(fields, "image_mean", mean),
        "pixel_std": three(fields, "image_std", std),
    }


def processor(folder: Path) -> ForeignConfig:
    """The older file of the two counts where both are there, as in transformers."""
    file = folder / "preprocessor_config.json"
    if not file.exists() and (newer := folder / "processor_config.json").exists():
        return ForeignConfig(read_json(newer), str(newer)).part("image_processor")
    return ForeignConfig(read_json(file), str(file))


def _mode(fields: ForeignConfig, size: int, clip: bool) -> str:
    """The mode of our `Resize`."""
    given = fields.raw("size", {"shortest_edge": 224} if clip else {"height": 224, "width": 224})
    crops = fields.get("do_center_crop", clip)
    if isinstance(given, int):
        given = {"shortest_edge": given} if clip else {"height": given, "width": given}
    if given == {"height": size, "width": size}:
        mode = "squash"
    elif given == {"shortest_edge": size}:
        mode = "shortest"
        if not crops:
            fields.fail("do_center_crop", "is false, but the shortest edge alone is resized")
    else:
        fields.fail("size", f"is {given!r}, but the model is made for {size} pixels")
    if crops:
        crop = fields.raw("crop_size", {"height": 224, "width": 224})
        if crop not in (size, {"height": size, "width": size}):
            fields.fail("crop_size", f"is {crop!r}, but the model is made for {size} pixels")
    return mode


def three(fields: ForeignConfig, name: str, default: Sequence[float]) -> tuple[float, ...]:
    """A number a channel; null is as good as nothing. Raises UserError for anything else."""
    values = fields.raw(name, None) or list(default)
    if not (isinstance(values, list) and len(values) == 3):
        fields.fail(name, f"{values!r} is no list of three numbers")
    return tuple(float(value) for value in values)


def write(
    transforms: Sequence[Transform], tower: ViT, issues: ExportIssues, family: str
) -> dict[str, Any]:
    """The content of `preprocessor_config.json`.

    Args:
      transforms: those of evaluation.
      tower: the image tower, which normalises.
      issues: is asked where something cannot be expressed.
      family: "CLIP", "Siglip", "ViT" or "Bit"; each has its own class.

    Raises:
      UserError: if they are not a decode and a resize, or resize in another way.
    """
    crop = [t for t in transforms if isinstance(t, CentreCrop)] if family == "Bit" else []
    resize = only_resize([t for t in transforms if t not in crop], issues)
    if family == "ViT" and resize.mode != "squash":
        issues.refuse("data.eval_transforms.resize.mode", resize.mode, "'squash'")
    if resize.mode == "pad":
        issues.refuse("data.eval_transforms.resize.mode", "pad", "'squash' and 'shortest'")
    if resize.mode == "shortest" and resize.centre == "round":
        issues.record("resize", "a centre crop that is rounded to even pixels rather than down")
    side = {"height": resize.size, "width": resize.size}
    issues.notes.append(
        "pixels are the same with AutoProcessor.from_pretrained(FOLDER, backend='pil'); those that"
        " torchvision resizes are off by a level now and then"
    )
    content: dict[str, Any] = {
        "image_processor_type": f"{family}ImageProcessor",
        **({"processor_class": f"{family}Processor"} if family in ("CLIP", "Siglip") else {}),
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": resize.size} if resize.mode == "shortest" else side,
        "resample": FILTERS[resize.interpolation],
        "do_center_crop": resize.mode == "shortest",
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(tower.pixel_mean),
        "image_std": list(tower.pixel_std),
    }
    if resize.mode == "shortest":
        content["crop_size"] = side
    if crop:
        size = crop[-1].size
        content |= {"do_center_crop": True, "crop_size": {"height": size, "width": size}}
    return content


def only_resize(transforms: Sequence[Transform], issues: ExportIssues) -> Resize:
    """The one transform between decoding and text. Raises UserError if there are others."""
    images = [t for t in transforms if t.provides != "text"]
    if [type(t) for t in images] != [Decode, Resize]:
        names = [transform.type_name for transform in transforms]
        issues.refuse("data.eval_transforms", names, "decode and resize")
    decode, resize = images
    assert isinstance(decode, Decode)
    assert isinstance(resize, Resize)
    if decode.scaled:
        issues.record("resize", "decoding JPEG files no finer than needed")
    if not resize.antialias:
        issues.record("resize", "resizing without antialiasing")
    if resize.interpolation == "area":
        issues.record("resize", "interpolation by area, which is bicubic there")
        resize = dataclasses.replace(resize, interpolation="bicubic")
    return resize
