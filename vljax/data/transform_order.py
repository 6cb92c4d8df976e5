"""What is wrong with the order of a list of transforms."""

from __future__ import annotations

from collections.abc import Iterator

from vljax.data.transform_base import Transform
from vljax.data.transform_decode import Decode
from vljax.data.transform_text import Prompt


def order_problems(transforms: tuple[Transform, ...]) -> Iterator[str]:
    """A message for each transform that would not get what it needs."""
    for i, transform in enumerate(transforms):
        before, after = transforms[:i], transforms[i + 1 :]
        if isinstance(transform, Prompt) and all(t.provides != "text" for t in before):
            yield "prompt has no text to put into a template; put choose_text before it"
        if isinstance(transform, Decode) and transform.scaled:
            on_images = [t for t in after if t.provides != "text"]
            if on_images and not on_images[0].reads_undecoded:
                able = sorted(
                    name
                    for name, kind in Transform.members.items()
                    if issubclass(kind, Transform) and kind.reads_undecoded
                )
                yield (
                    f"{on_images[0].type_name} needs all pixels, but decode is scaled; put one of "
                    f"{', '.join(able)} between them, or set scaled of decode to False"
                )
