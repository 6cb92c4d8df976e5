"""Further images of an example, such as the second one of NLVR2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vljax.config import UserError
from vljax.data.records import ExampleError, Records
from vljax.data.transforms.base import Arrays, Context, Example, Transform, list_problems


@dataclass(frozen=True)
class OtherImage(Transform, name="other_image"):
    """Make a further image of a record by image transforms of its own.

    The second image becomes `image_2`, which an encoder reads with `entry="image_2"`.

    >>> from vljax.recipes import Decode, Resize
    >>> second = OtherImage((Decode(), Resize(32)))
    >>> second.makes(), second.arrays(Context())
    (('image_2',), {'image_2': ((32, 32, 3), dtype('uint8'))})
    """

    transforms: tuple[Transform, ...]
    """Transforms that read and make `image`; the first one is `Decode`, the last fixes the size."""
    number: int = 2
    """Which image of the record it is; the first one is 1, which `Decode` reads."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.number < 2:
            yield "number", f"must be at least 2, got {self.number}; decode reads the first image"
        for transform in self.transforms:
            others = {*transform.reads(), *transform.makes()} - {"record", "image"}
            if others:
                yield (
                    "transforms",
                    f"{transform.type_name} makes or reads {min(others)!r}, not images",
                )
                return
        yield from (("transforms", message) for message in list_problems(self.transforms, {}))

    def reads(self) -> tuple[str, ...]:
        return ("record",)

    def makes(self) -> tuple[str, ...]:
        return (f"image_{self.number}",)

    def needed(self) -> bool:
        return True

    def arrays(self, context: Context) -> Arrays:
        found: Arrays = {}
        for transform in self.transforms:
            found |= transform.arrays(Context(arrays=dict(found)))
        return {f"image_{self.number}": found["image"]} if "image" in found else {}

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        record = example["record"]
        if len(record.more_images) < self.number - 1:
            count = 1 + len(record.more_images)
            raise ExampleError(f"no image {self.number}; the example has {count}", kind="other")
        own = {**example, "record": replace(record, image=record.more_images[self.number - 2])}
        for transform in self.transforms:
            own = transform(own, rng)
        return {**example, f"image_{self.number}": own["image"]}


def check_images(records: Records, transforms: Sequence[Transform], source: str) -> None:
    """Checks that transforms read all images of the examples.

    Raises:
      UserError: if one is not read, or an image is read that the examples do not have.
    """
    read = {1, *(t.number for t in transforms if isinstance(t, OtherImage))}
    for number in range(1, records.image_count + 1):
        if number not in read:
            raise UserError(
                f"{source} has {records.image_count} images in each example, and no transform reads"
                f" image {number}; add other_image"
            )
    if max(read) > records.image_count:
        count = "1 image" if records.image_count == 1 else f"{records.image_count} images"
        raise UserError(
            f"{source} has {count} in each example, and other_image reads image {max(read)}; name a"
            " source such as nlvr2, or leave the transform out"
        )
