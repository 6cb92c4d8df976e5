"""The class of an example, and objects in an image, as arrays."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from vljax.config import UserError
from vljax.data.records import ExampleError, Records, Region
from vljax.data.tokenizers.base import LoadedTokenizer
from vljax.data.transforms.base import Arrays, Context, Example, Transform, check_probability
from vljax.data.transforms.geometry import box_areas
from vljax.data.vocabulary import Vocabulary, indices, normalised, problems, vocabulary_size

_MOST_REGIONS = 255
"""Masks are uint8, and 0 stands for no region."""


@dataclass(frozen=True)
class Label(Transform, name="label"):
    """Put the class into the batch: `label`, int32[], the index of its name; -1 for none.

    >>> from vljax.data.records import Record
    >>> record = Record(captions=("a cat",), image=b"", label=3)
    >>> int(Label()({"record": record}, np.random.default_rng(0))["label"])
    3
    """

    def reads(self) -> tuple[str, ...]:
        return ("record",)

    def makes(self) -> tuple[str, ...]:
        return ("label",)

    def arrays(self, context: Context) -> Arrays:
        return {"label": ((), np.dtype(np.int32))}

    def blank(
        self, arrays: Arrays, tokenizers: Mapping[str, LoadedTokenizer]
    ) -> dict[str, np.ndarray]:
        return {name: np.full(shape, -1, dtype) for name, (shape, dtype) in arrays.items()}

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        label = example["record"].label
        return {**example, "label": np.array(-1 if label is None else label, np.int32)}


@dataclass(frozen=True)
class EncodeTags(Transform, name="encode_tags"):
    """Put the tags of an example into the batch, for classification with several labels.

    It makes `tags`, float32[size]: 1 for each tag that the example has, 0 for the others. Train
    with `Classification(logits, targets="tags", loss="sigmoid", empty_targets="negative")`, and
    measure with `MultiLabel`.

    >>> from vljax.data.records import Record
    >>> record = Record(captions=(), image=b"", tags=("Comedy", "drama", "rare"))
    >>> encode = EncodeTags(("drama", "horror", "comedy"))
    >>> encode({"record": record}, np.random.default_rng(0))["tags"].tolist()
    [1.0, 0.0, 1.0]
    """

    vocabulary: Vocabulary
    """Tags, or a file of them, as `vljax data answers --tags` writes it. Others are left out."""
    max_unknown: float = 0.2
    """Largest share of tags that are not in the vocabulary, among the records of the training data
    that are looked at when it is opened. A larger share is an error."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from (("vocabulary", message) for message in problems(self.vocabulary))
        yield from check_probability("max_unknown", self.max_unknown)

    def reads(self) -> tuple[str, ...]:
        return ("record",)

    def makes(self) -> tuple[str, ...]:
        return ("tags",)

    def arrays(self, context: Context) -> Arrays:
        return {"tags": ((vocabulary_size(self.vocabulary),), np.dtype(np.float32))}

    def classes(self) -> Vocabulary:
        return self.vocabulary

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        return {**example, "tags": encoded_tags(example["record"].tags, self.vocabulary)}

    def check_records(
        self, records: Records, before: Sequence[Transform], record_indices: Sequence[int]
    ) -> tuple[str, ...]:
        known, seen, unknown = indices(self.vocabulary), 0, Counter[str]()
        end = time.monotonic() + _CHECK_SECONDS
        for i in record_indices:
            if time.monotonic() > end:
                break
            try:
                tags = [normalised(tag) for tag in records.annotation(i).tags]
            except ExampleError:
                continue
            seen += len(tags)
            unknown.update(tag for tag in tags if tag not in known)
        if not seen:
            raise UserError("encode_tags: no record has tags; name their column in the field tags")
        if not unknown:
            return ()
        names = ", ".join(f"{tag!r} ({n})" for tag, n in unknown.most_common(_SHOWN))
        share = unknown.total() / seen
        message = (
            f"{share:.1%} of {seen:,} tags are not in the vocabulary of {len(known):,}: {names}"
        )
        if share > self.max_unknown:
            raise UserError(
                f"encode_tags: {message}; make a larger one with `vljax data answers --tags`, or"
                f" raise max_unknown above {self.max_unknown}"
            )
        return (f"encode_tags: {message}",)


_CHECK_SECONDS = 3.0
_SHOWN = 5


def encoded_tags(tags: Sequence[str], vocabulary: Vocabulary) -> Float[np.ndarray, " size"]:
    """1 for each text of the vocabulary that is among the tags, else 0."""
    known = indices(vocabulary)
    target = np.zeros(len(known), np.float32)
    target[[known[tag] for tag in map(normalised, tags) if tag in known]] = 1
    return target


@dataclass(frozen=True)
class Regions(Transform, name="regions"):
    """Read the objects of a record, directly after `Decode`; transforms of images move them.

    It makes `boxes`, float32[n, 4] (left, top, right, bottom in pixels), `region_names`, a tuple of
    n names, and if the record has masks, `masks`, uint8[height, width] (i + 1 where region i is
    visible). They go into batches by `PadRegions` and `GridLabels`.

    >>> from vljax.data.records import Record, Region
    >>> record = Record(captions=(), image=b"", regions=(Region("cat", (0, 1, 4, 5)),))
    >>> example = {"record": record, "image": np.zeros((8, 8, 3), np.uint8)}
    >>> found = Regions()(example, np.random.default_rng(0))
    >>> found["boxes"].tolist(), found["region_names"]
    ([[0.0, 1.0, 4.0, 5.0]], ('cat',))
    """

    def reads(self) -> tuple[str, ...]:
        return "record", "image"

    def makes(self) -> tuple[str, ...]:
        return "boxes", "region_names", "masks"

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        record = example["record"]
        height, width = example["image"].shape[:2]
        if len(record.regions) > _MOST_REGIONS:
            count = len(record.regions)
            raise ExampleError(f"{count} regions, more than {_MOST_REGIONS}", kind="damaged")
        for i, region in enumerate(record.regions):
            _check_box(i, region, height, width)
        boxes = np.array([region.box for region in record.regions], np.float32).reshape(-1, 4)
        names = tuple(region.name for region in record.regions)
        found = {**example, "boxes": boxes, "region_names": names}
        if record.masks is not None:
            found["masks"] = _decoded_masks(record.masks, height, width)
        return found


def _check_box(number: int, region: Region, height: int, width: int) -> None:
    left, top, right, bottom = region.box
    if not (0 <= left <= right <= width and 0 <= top <= bottom <= height):
        raise ExampleError(
            f"box {region.box} of region {number} ({region.name!r}) is not inside the image of "
            f"{width} x {height} pixels",
            kind="damaged",
        )


def _decoded_masks(content: bytes, height: int, width: int) -> UInt8[np.ndarray, "height width"]:
    import cv2

    masks = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    if masks is None:
        raise ExampleError("masks are not an image file", kind="damaged")
    if masks.shape != (height, width):
        found = f"{masks.shape[1]} x {masks.shape[0]}"
        raise ExampleError(f"masks of {found} pixels, image of {width} x {height}", kind="damaged")
    return masks.astype(np.uint8)


@dataclass(frozen=True)
class PadRegions(Transform, name="pad_regions"):
    """Put boxes, and if asked masks, into the batch, after all transforms that move pixels.

    It makes `boxes`, float32[most, 4], scaled to 0..1 of the image; `boxes_mask`, bool[most], True
    for regions with a part inside the image; and `region_names`, a tuple of `most` texts that
    `Tokenize` can read. Further regions are left out. Region i of the record stays at index i.

    >>> example = {"image": np.zeros((8, 8, 3), np.uint8), "region_names": ("cat",)}
    >>> example["boxes"] = np.array([[0, 2, 4, 8]], np.float32)
    >>> padded = PadRegions(most=2)(example, np.random.default_rng(0))
    >>> padded["boxes"].tolist(), padded["boxes_mask"].tolist()
    ([[0.0, 0.25, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0]], [True, False])
    """

    most: int = 16
    """Number of regions in the arrays."""
    masks: bool = False
    """Whether to make `masks`, uint8[height, width], as `Regions` describes it, too."""

    needs_final_image = True

    def problems(self) -> Iterator[tuple[str, str]]:
        if not 1 <= self.most <= _MOST_REGIONS:
            yield "most", f"must be 1 to {_MOST_REGIONS}, got {self.most}"

    def reads(self) -> tuple[str, ...]:
        return ("image", "boxes", "region_names", *(("masks",) if self.masks else ()))

    def makes(self) -> tuple[str, ...]:
        return ("boxes", "boxes_mask", "region_names", *(("masks",) if self.masks else ()))

    def counts(self) -> dict[str, int]:
        return {"region_names": self.most}

    def arrays(self, context: Context) -> Arrays:
        arrays: Arrays = {
            "boxes": ((self.most, 4), np.dtype(np.float32)),
            "boxes_mask": ((self.most,), np.dtype(bool)),
        }
        if self.masks:
            if "image" not in context.arrays:
                raise UserError("pad_regions: no transform before it fixes the image size")
            arrays["masks"] = context.arrays["image"][0][:2], np.dtype(np.uint8)
        return arrays

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        height, width = example["image"].shape[:2]
        found = example["boxes"][: self.most]
        boxes, mask = np.zeros((self.most, 4), np.float32), np.zeros(self.most, bool)
        boxes[: len(found)] = found / np.array([width, height, width, height], np.float32)
        mask[: len(found)] = box_areas(found) > 0
        names = (*example["region_names"][: self.most], *[""] * (self.most - len(found)))
        padded = {**example, "boxes": boxes, "boxes_mask": mask, "region_names": names}
        if self.masks:
            if "masks" not in example:
                raise ExampleError("the record has no masks", kind="other")
            masks = example["masks"]
            padded["masks"] = np.where(masks <= self.most, masks, 0).astype(np.uint8)
        return padded


@dataclass(frozen=True)
class GridLabels(Transform, name="grid_labels"):
    """Name the object in each cell of a grid over the image, after all that move pixels.

    It makes `grid_labels`, int32[cells, cells]: the index in `names` of the region that covers most
    of the cell; -1 where none covers enough, or where its name is not among them. Masks say what a
    region covers; without masks, its box does.

    >>> example = {"image": np.zeros((8, 8, 3), np.uint8), "region_names": ("Cat", "car")}
    >>> example["boxes"] = np.array([[0, 0, 4, 8], [4, 4, 8, 8]], np.float32)
    >>> label = GridLabels(2, names=("cat", "dog"))
    >>> label(example, np.random.default_rng(0))["grid_labels"].tolist()
    [[0, -1], [0, -1]]
    """

    cells: int
    """Number of rows and columns."""
    names: Vocabulary
    """Names of objects, or a file of them."""
    cover: float = 0.3
    """Smallest share of a cell that the region must cover, 0..1."""

    needs_final_image = True

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.cells < 1:
            yield "cells", f"must be at least 1, got {self.cells}"
        yield from check_probability("cover", self.cover)
        yield from (("names", message) for message in problems(self.names))

    def reads(self) -> tuple[str, ...]:
        return "image", "boxes", "region_names"

    def makes(self) -> tuple[str, ...]:
        return ("grid_labels",)

    def arrays(self, context: Context) -> Arrays:
        if "boxes" in context.arrays:
            raise UserError("grid_labels cannot follow pad_regions, which scales the boxes; swap")
        return {"grid_labels": ((self.cells, self.cells), np.dtype(np.int32))}

    def classes(self) -> Vocabulary:
        return self.names

    def blank(
        self, arrays: Arrays, tokenizers: Mapping[str, LoadedTokenizer]
    ) -> dict[str, np.ndarray]:
        return {name: np.full(shape, -1, dtype) for name, (shape, dtype) in arrays.items()}

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        covering = _covering(example, self.cells, self.cover)
        known = indices(self.names)
        own = [known.get(normalised(name), -1) for name in example["region_names"]]
        # The index -1, of a cell that no region covers, is the last one.
        return {**example, "grid_labels": np.array([*own, -1], np.int32)[covering]}


@dataclass(frozen=True)
class AnswerCells(Transform, name="answer_cells"):
    """Say in which cells of a grid over the image the answer to each question is to be seen.

    It makes `answer_cells`, float32[count, cells * cells], or float32[cells * cells] for one
    question, row-major: equal weights with the sum 1 in the cells that the objects named by the
    answers cover, as for `GridLabels`; all zeros if no answer names an object there. The objective
    `attention_target` trains a fusion to look there.

    >>> example = {"image": np.zeros((8, 8, 3), np.uint8), "region_names": ("Cat", "car")}
    >>> example["boxes"] = np.array([[0, 0, 4, 8], [4, 4, 8, 8]], np.float32)
    >>> example["answers"] = ((("cat", 1.0),), (("yes", 1.0),))
    >>> AnswerCells(2)(example, np.random.default_rng(0))["answer_cells"].tolist()
    [[0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """

    cells: int
    """Number of rows and columns."""
    cover: float = 0.3
    """Smallest share of a cell that the region must cover, 0..1."""

    needs_final_image = True

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.cells < 1:
            yield "cells", f"must be at least 1, got {self.cells}"
        yield from check_probability("cover", self.cover)

    def reads(self) -> tuple[str, ...]:
        return "image", "boxes", "region_names", "answers"

    def makes(self) -> tuple[str, ...]:
        return ("answer_cells",)

    def arrays(self, context: Context) -> Arrays:
        if "boxes" in context.arrays:
            raise UserError("answer_cells cannot follow pad_regions, which scales the boxes; swap")
        count = context.counts.get("answers")
        shape = (self.cells**2,) if count is None else (count, self.cells**2)
        return {"answer_cells": (shape, np.dtype(np.float32))}

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        covering = _covering(example, self.cells, self.cover).ravel()
        names = [normalised(name) for name in example["region_names"]]

        def cells(answers: Sequence[tuple[str, float]]) -> np.ndarray:
            told = {normalised(answer) for answer, weight in answers if weight > 0}
            seen = np.array([*(name in told for name in names), False])[covering]
            return (seen / max(seen.sum(), 1)).astype(np.float32)

        answers = example["answers"]
        if answers and isinstance(answers[0][0], str):
            return {**example, "answer_cells": cells(answers)}
        return {**example, "answer_cells": np.stack([cells(each) for each in answers])}


def _covering(example: Example, cells: int, cover: float) -> Int[np.ndarray, "cells cells"]:
    """The index of the region that covers most of each cell; -1 where none covers enough."""
    regions = len(example["region_names"])
    if not regions:
        return np.full((cells, cells), -1)
    if "masks" in example:
        shares = _mask_shares(example["masks"], regions, cells)
    else:
        height, width = example["image"].shape[:2]
        shares = _box_shares(example["boxes"], height, width, cells)
    enough = shares.max(axis=0) >= max(cover, np.finfo(np.float32).tiny)
    return np.where(enough, shares.argmax(axis=0), -1)


def _box_shares(
    boxes: Float[np.ndarray, "regions 4"], height: int, width: int, cells: int
) -> Float[np.ndarray, "regions cells cells"]:
    """The share of each cell that each box covers."""

    def overlap(low: np.ndarray, high: np.ndarray, length: int) -> np.ndarray:
        edges = np.linspace(0, length, cells + 1)
        inside = np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1])
        return np.maximum(inside, 0) * (cells / length)

    rows, columns = (
        overlap(boxes[:, 1], boxes[:, 3], height),
        overlap(boxes[:, 0], boxes[:, 2], width),
    )
    return np.einsum("rh,rw->rhw", rows, columns)


def _mask_shares(
    masks: UInt8[np.ndarray, "height width"], regions: int, cells: int
) -> Float[np.ndarray, "regions cells cells"]:
    """The share of each cell in which each region is visible."""
    row, column = (((np.arange(n) + 0.5) * cells / n).astype(np.int64) for n in masks.shape)
    cell = row[:, None] * cells + column
    size = np.bincount(cell.ravel(), minlength=cells**2)
    value = masks.astype(np.int64) * cells**2 + cell
    counts = np.bincount(value.ravel(), minlength=256 * cells**2).reshape(256, cells, cells)
    return counts[1 : regions + 1] / np.maximum(size, 1).reshape(cells, cells)
