"""Data sets that TensorFlow Datasets (TFDS) prepared as ArrayRecord files, without TensorFlow.

`tensorflow_datasets` imports TensorFlow lazily, and its random-access reader (`as_data_source`)
does not need it. TFDS does not decode the images: vljax's transforms decode the encoded files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from vljax.config import UserError, setting, suggest
from vljax.data.records import ExampleError, SourceCounts
from vljax.data.sources.array_record import RecordFiles
from vljax.data.sources.base import ColumnRecords, FileSource, LastRead, decoded, image_file
from vljax.data.sources.filters import exclusion_reason
from vljax.files import find_files


@dataclass(frozen=True)
class Tfds(FileSource, name="tfds"):
    """A split of a data set that `tensorflow_datasets` prepared with `file_format="array_record"`.

    Columns are features; `captions.text` is the feature `text` inside `captions`. With filters, all
    examples are read each time the source is opened.

    >>> source = Tfds("/data/coco_captions/2014/1.1.0", captions=("captions.text",), split="val")
    >>> source.full_name
    'tfds:2014-1.1.0:val'
    """

    path: str | tuple[str, ...] | None = setting(None, path=True)
    """Folder with `dataset_info.json`: DATA_DIR/NAME[/CONFIG]/VERSION."""
    captions: tuple[str, ...] = ()
    """Features with captions, in order of preference; a feature may hold several captions."""
    label: str | None = None
    """Feature with the class."""
    image: str = "image"
    """Feature with the image."""
    split: str = "train"
    """Split as TFDS writes it: train, `train[:90%]`, `train+validation`."""

    @property
    def full_name(self) -> str:
        return f"{super().full_name}:{self.split}"

    @property
    def split_name(self) -> str:
        return re.sub(r"[^\w.+-]+", "_", self.split)

    @property
    def _last_part(self) -> str:
        """The last two folders, name and version: the version alone does not identify the data."""
        return "-".join(self.path.rstrip("/").split("/")[-2:]) if isinstance(self.path, str) else ""

    @property
    def dataset(self) -> str:
        return self._last_part.rpartition("-")[0] or self.type_name

    def open(self) -> TfdsRecords:
        if not isinstance(self.path, str):
            raise UserError(
                "data.source.path: unset; set --data.source.path to the folder with "
                "dataset_info.json of a prepared data set"
            )
        return TfdsRecords(self, self.path)


class TfdsRecords(ColumnRecords):
    """The examples of a split that pass all filters."""

    def __init__(self, source: Tfds, folder: str):
        builder = _builder(folder)
        features = builder.info.features
        source.check_columns(_names(features), ("image", source.image))
        self._data = _split(builder, source)
        restorable = {source.image, *source.restorable_columns}
        self._others = tuple(name for name in _names(features) if name not in restorable)
        self._texts = {name for name in self._others if _is_text(features, name)}
        self._image = source.image
        self._last = LastRead()
        self._kept: np.ndarray | None = None
        paths = map(str, builder.info.splits[source.split].filepaths)
        files = find_files(tuple(paths), (), "data.source.path")
        self.counts = SourceCounts(files=len(files))
        if source.filters:
            self._kept = self._filtered(source)
        else:
            self.counts.examples = len(self._data)
        names = _class_names(features, source.label) if source.label else ()
        super().__init__(source, names, indexed=True)
        self.identity = source.identity(
            source.image, source.split, builder.info.full_name, RecordFiles(files).summary()
        )
        self.counts.log(source.full_name)

    def _filtered(self, source: Tfds) -> np.ndarray:
        counts = self.counts
        kept = []
        for number in range(len(self._data)):
            try:
                example = self._example(number)
            except ExampleError as error:
                counts.leave_out(str(error), f"example {number}")
                continue
            reason = exclusion_reason(source.filters, partial(_feature, example))
            if reason is None:
                kept.append(number)
                counts.add_example(
                    c for c in source.annotation_columns if _feature(example, c) is not None
                )
            else:
                counts.leave_out(reason, f"example {number}")
        return np.array(kept, np.int64)

    def __len__(self) -> int:
        return len(self._data) if self._kept is None else len(self._kept)

    def image(self, index: int) -> bytes:
        return image_file(_feature(self._example(self._number(index)), self._image), "")

    def values(self, index: int) -> Callable[[str], Any]:
        example = self._example(self._number(index))
        return lambda column: _feature(example, column)

    def other_columns(self, index: int) -> dict[str, Any]:
        example = self._example(self._number(index))
        columns = {name: _feature(example, name) for name in self._others}
        return {
            name: _as_text(value, name) if name in self._texts else value
            for name, value in columns.items()
        }

    def _number(self, index: int) -> int:
        return index if self._kept is None else int(self._kept[index])

    def _example(self, number: int) -> dict[str, Any]:
        def read() -> dict[str, Any]:
            try:
                example: dict[str, Any] = self._data[number]
            except (OSError, RuntimeError, ValueError) as error:
                raise ExampleError(
                    f"example cannot be read ({error})", kind="unreadable"
                ) from error
            return example

        example: dict[str, Any] = self._last.get(number, read)
        return example


def _builder(folder: str) -> Any:
    import tensorflow_datasets as tfds  # here, since importing it takes about a second

    try:
        return tfds.builder_from_directory(os.path.expanduser(folder))
    except Exception as error:  # TFDS raises several unrelated types
        raise UserError(
            f"data.source.path: {folder} is not a data set prepared by TFDS; name the folder with "
            "dataset_info.json"
        ) from error


def _split(builder: Any, source: Tfds) -> Any:
    import tensorflow_datasets as tfds

    images = {
        name for name, f in builder.info.features.items() if isinstance(f, tfds.features.Image)
    }
    skip = {name: tfds.decode.SkipDecoding() for name in sorted(images | {source.image})}
    try:
        return builder.as_data_source(source.split, decoders=skip)
    except NotImplementedError as error:
        raise UserError(
            f"{source.path}: not stored as ArrayRecord files; prepare it with "
            'file_format="array_record"'
        ) from error
    except ValueError as error:
        near = suggest(source.split, builder.info.splits)
        raise UserError(
            f"data.source.split: {source.path} has no split {source.split!r}{near}"
        ) from error


def _names(features: Any, above: str = "") -> list[str]:
    """The names of features; a nested feature is named `OUTER.INNER`."""
    features = getattr(features, "feature", features)  # the element of a sequence
    if not hasattr(features, "items"):
        return [above]
    prefix = f"{above}." if above else ""
    return [name for key, f in features.items() for name in _names(f, f"{prefix}{key}")]


def _is_text(features: Any, name: str) -> bool:
    import tensorflow_datasets as tfds

    return isinstance(_at(features, name), tfds.features.Text)


def _class_names(features: Any, name: str) -> tuple[str, ...]:
    return tuple(getattr(_at(features, name), "names", None) or ())


def _at(features: Any, name: str) -> Any:
    """The feature with a name; for a sequence, the feature of its elements."""
    for key in name.split("."):
        features = getattr(features, "feature", features)[key]
    return getattr(features, "feature", features)


def _as_text(value: Any, name: str) -> Any:
    """The value of a text feature as text: TFDS returns bytes, or lists of bytes."""
    if isinstance(value, list):
        return [_as_text(item, name) for item in value]
    return decoded(value, name)


def _feature(example: dict[str, Any], name: str) -> Any:
    value: Any = example
    for key in name.split("."):
        value = value[key]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
