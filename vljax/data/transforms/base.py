"""The base class of transforms, what a list of them makes, and checks of their fields."""

from __future__ import annotations

import abc
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from vljax.config import Component, UserError, suggest
from vljax.data.images import Colour
from vljax.data.randomness import Step
from vljax.data.records import Records
from vljax.data.tokenizers.base import LoadedTokenizer, Tokenizer
from vljax.data.vocabulary import Vocabulary

Example = dict[str, Any]
Arrays = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Name -> shape and type."""


@dataclass(frozen=True)
class Context:
    """What a transform must know about the recipe to tell the shapes of its arrays."""

    tokenizers: Mapping[str, Tokenizer] = field(default_factory=dict)
    """The tokenizers of the recipe by name."""
    length: int | None = None
    """Sequence length of images; None means that of evaluation."""
    arrays: Arrays = field(default_factory=dict)
    """Arrays of the transforms before it."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Entry -> number of texts in it, for entries that are tuples of texts."""


class Transform(Component, abc.ABC):
    """A step from a record to an example; subclasses are frozen dataclasses.

    An example is a dict of named entries. The first transform gets `record`, a `Record`, and
    `tokenizers`, the loaded tokenizers by name. In training it also gets `step`, the
    `randomness.Step` of the batch, which gives all examples of a batch the same random numbers. All
    other randomness comes from the generator that is passed in. `image` is uint8[height, width, 3];
    after `Decode` with `scaled`, it is a `JpegImage` until the next transform of images.

    A transform declares the entries that it reads and makes, and which of them go into batches as
    arrays. By default it reads and makes `image` and declares no array.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Brightness(Transform):  # with name="brightness", a recipe file can define its own
    ...     def reads(self):
    ...         return ("image",)
    ...     def makes(self):
    ...         return ("brightness",)
    ...     def arrays(self, context):
    ...         return {"brightness": ((), np.dtype(np.float32))}
    ...     def __call__(self, example, rng):
    ...         return {**example, "brightness": np.float32(example["image"].mean())}
    >>> Brightness()({"image": np.full((1, 1, 3), 55, np.uint8)}, np.random.default_rng())
    {'image': array([[[55, 55, 55]]], dtype=uint8), 'brightness': np.float32(55.0)}
    """

    reads_undecoded: ClassVar[bool] = False
    """Whether the transform accepts a `JpegImage`, whose pixels are not decoded yet, as `image`."""

    reads_file: ClassVar[bool] = False
    """Whether it makes arrays of the record's file that are not an image; inference makes them of
    the files that it is given, as of images."""

    moves_pixels: ClassVar[bool] = False
    """Whether the transform moves pixels; it then moves `boxes` and `masks` with them."""

    needs_final_image: ClassVar[bool] = False
    """Whether no transform that moves pixels may follow."""

    def reads(self) -> tuple[str, ...]:
        """Entries of the example that must be there."""
        return ("image",)

    def heeds(self) -> tuple[str, ...]:
        """Entries that it looks at if they are there, so that they must not be made after it."""
        return ()

    def makes(self) -> tuple[str, ...]:
        """Entries that the transform adds or replaces."""
        return ("image",)

    def arrays(self, context: Context) -> Arrays:
        """Entries that go into batches, with the shape and dtype of one example."""
        return {}

    def needed(self) -> bool:
        """Whether an example without what it makes is of no use in evaluation either."""
        return "image" in self.makes() or self.reads_file

    def counts(self) -> dict[str, int]:
        """Entry -> number of texts in it, for entries that hold a fixed number of texts."""
        return {}

    def classes(self) -> Vocabulary | None:
        """The texts that indices in its first array stand for; None if it has no indices."""
        return None

    def blank(
        self, arrays: Arrays, tokenizers: Mapping[str, LoadedTokenizer]
    ) -> dict[str, np.ndarray]:
        """The arrays that stand for those of an example that cannot be used.

        Args:
          arrays: those that the transform declares.
          tokenizers: the loaded tokenizers by name.
        """
        return {name: np.zeros(shape, dtype) for name, (shape, dtype) in arrays.items()}

    def check_records(
        self, records: Records, before: Sequence[Transform], record_indices: Sequence[int]
    ) -> tuple[str, ...]:
        """Check that the records of a training source suit the transform, in a few seconds.

        Args:
          records: the opened source.
          before: the transforms before it.
          record_indices: the records to look at.

        Returns:
          Notes for the user.

        Raises:
          UserError: if they do not.
        """
        return ()

    @property
    def image_lengths(self) -> dict[int, float]:
        """Sequence lengths in training -> probability; empty if images are not sequences."""
        return {}

    def length_at(self, step: Step | None) -> int | None:
        """Sequence length in the batch of a step; None if images are not sequences.

        Args:
          step: the step; None means evaluation.
        """
        return None

    @abc.abstractmethod
    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        """Return a new example. Raises ExampleError if the record cannot be used."""


# --- Lists of transforms --------------------------------------------------------------------------


def declared_arrays(
    transforms: Sequence[Transform],
    tokenizers: Mapping[str, Tokenizer],
    length: int | None = None,
) -> list[Arrays]:
    """The arrays that each transform of a list puts into batches.

    An array belongs to the last transform that declares it.

    >>> from vljax.data.transforms import Decode, RandomCrop, Resize
    >>> declared_arrays((Decode(), Resize(64), RandomCrop(32)), {})
    [{}, {}, {'image': ((32, 32, 3), dtype('uint8'))}]

    Args:
      transforms: the transforms, in order.
      tokenizers: the tokenizers of the recipe by name.
      length: sequence length of images; None means that of evaluation.

    Raises:
      UserError: if a transform names an unknown tokenizer or reads what none before it makes.
    """
    declared: list[Arrays] = []
    arrays: Arrays = {}
    counts: dict[str, int] = {}
    for transform in transforms:
        own = transform.arrays(Context(tokenizers, length, dict(arrays), dict(counts)))
        for before in declared:
            for name in own:
                before.pop(name, None)
        declared.append(dict(own))
        arrays |= own
        # What a transform changes in place keeps its number of texts.
        for name in set(transform.makes()) - set(transform.reads()):
            counts.pop(name, None)
        counts |= transform.counts()
    return declared


def batch_arrays(
    transforms: Sequence[Transform],
    tokenizers: Mapping[str, Tokenizer],
    length: int | None = None,
) -> Arrays:
    """All arrays that a list of transforms puts into batches; see `declared_arrays`.

    >>> from vljax.data.transforms import Decode, Resize
    >>> batch_arrays((Decode(), Resize(64)), {})
    {'image': ((64, 64, 3), dtype('uint8'))}
    """
    declared = declared_arrays(transforms, tokenizers, length)
    return {name: spec for own in declared for name, spec in own.items()}


def sequences(transforms: Sequence[Transform]) -> Transform | None:
    """The transform that makes images sequences of patches; None if there is none."""
    return next((t for t in reversed(transforms) if t.image_lengths), None)


def image_lengths(transforms: Sequence[Transform]) -> dict[int, float]:
    """Sequence lengths of images in training -> probability; empty if they are not sequences."""
    transform = sequences(transforms)
    return {} if transform is None else transform.image_lengths


def length_at(transforms: Sequence[Transform], step: Step | None) -> int | None:
    """Sequence length of images in the batch of a step; None if they are not sequences."""
    transform = sequences(transforms)
    return None if transform is None else transform.length_at(step)


def image_transforms(transforms: Sequence[Transform]) -> list[Transform]:
    """The transforms of a list that make images."""
    return [transform for transform in transforms if "image" in transform.makes()]


def square_images(size: int) -> Arrays:
    """The array of square images.

    >>> square_images(32)
    {'image': ((32, 32, 3), dtype('uint8'))}
    """
    return {"image": ((size, size, 3), np.dtype(np.uint8))}


def list_problems(
    transforms: Sequence[Transform], tokenizers: Mapping[str, Tokenizer]
) -> Iterator[str]:
    """Problems of a list of transforms as a whole."""
    if not transforms:
        yield "are empty; begin with decode"
        return
    yield from _entry_problems(transforms)
    try:
        arrays = batch_arrays(transforms, tokenizers)
    except UserError as error:
        yield str(error)
        return
    if image_transforms(transforms) and "image" not in arrays:
        sizing = "resize, random_crop, random_resized_crop or patchify"
        yield f"none of them fixes the image size; add {sizing}"
    for i, transform in enumerate(transforms):
        for name in transform.heeds():
            for later in transforms[i + 1 :]:
                if name in later.makes() and name not in later.reads():
                    yield f"{transform.type_name} heeds {name!r}; put {later.type_name} before it"
        moving = [t for t in transforms[i + 1 :] if t.moves_pixels]
        if transform.needs_final_image and moving:
            name = moving[0].type_name
            yield f"{name} cannot follow {transform.type_name}, which needs the final image; swap"
        after = [t for t in transforms[i + 1 :] if "image" in (*t.reads(), *t.makes())]
        if not after or "image" not in transform.makes():
            continue
        if transform.image_lengths:
            name = after[0].type_name
            yield f"{name} cannot follow {transform.type_name}, which leaves no picture; swap"
        images = [t for t in image_transforms(after) if "image" in t.reads()]
        scaled = getattr(transform, "scaled", False)
        if scaled and images and not images[0].reads_undecoded:
            able = sorted(
                name
                for name, kind in Transform.members.items()
                if issubclass(kind, Transform) and kind.reads_undecoded
            )
            yield (
                f"{images[0].type_name} needs all pixels, but decode is scaled; put one of "
                f"{', '.join(able)} between them, or set scaled of decode to False"
            )


def _entry_problems(transforms: Sequence[Transform]) -> Iterator[str]:
    """Problems of entries that are read but not made, or made but not read."""
    made = {"record"}
    for i, transform in enumerate(transforms):
        for name in transform.reads():
            if name not in made:
                yield f"{transform.type_name} reads {name!r}{_maker(name, transforms[i:], made)}"
        made |= {*transform.makes()}
    for name in ("text", "question"):
        if name in made and not any(name in t.reads() and _encodes(t) for t in transforms):
            yield f"make {name!r}, which nothing encodes; add tokenize"


def _encodes(transform: Transform) -> bool:
    """Whether a transform turns texts into something else."""
    return not {*transform.makes()} <= {*transform.reads()}


def _maker(name: str, after: Sequence[Transform], made: set[str]) -> str:
    """The end of an error message: what makes an entry, or the nearest entry there is."""
    for transform in after[1:]:
        if name in transform.makes() and name not in transform.reads():
            return f", which is made after it; put {transform.type_name} before it"
    near = difflib.get_close_matches(name, sorted(made), n=1)
    if near or name not in MAKERS:
        return f", which no transform before it makes{suggest(name, made)}"
    return f", which no transform before it makes; put {MAKERS[name]} before it"


MAKERS = {
    "image": "decode",
    "text": "choose_text",
    "question": "choose_questions",
    "answers": "choose_questions",
    "boxes": "regions",
    "region_names": "regions",
}
"""Entry -> the transform that usually makes it, for messages."""


# --- Checks of fields -----------------------------------------------------------------------------


def check_colour(field: str, colour: Colour) -> Iterator[tuple[str, str]]:
    """Yield a problem if a channel is outside 0..255."""
    if not all(0 <= channel <= 255 for channel in colour):
        yield field, f"channels must be within 0 and 255, got {colour}"


def check_probability(field: str, value: float) -> Iterator[tuple[str, str]]:
    """Yield a problem if the value is not a probability."""
    if not 0 <= value <= 1:
        yield field, f"must be within 0 and 1, got {value}"


def check_range(field: str, value: tuple[float, float]) -> Iterator[tuple[str, str]]:
    """Yield a problem if the two values are not positive and in order."""
    if not 0 < value[0] <= value[1]:
        yield field, f"must be two positive numbers in order, got {value}"


def check_size(field: str, value: int) -> Iterator[tuple[str, str]]:
    """Yield a problem if a size is below 1 pixel."""
    if value < 1:
        yield field, f"must be at least 1 pixel, got {value}"
