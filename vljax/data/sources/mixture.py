"""A mixture of several sources, for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from vljax.config import UserError, suggest
from vljax.data.records import Records, Source
from vljax.data.transforms.base import Transform

MAX_PARTS = 2**16
"""Most parts of a mixture: an example id has 16 bits for the part."""


@dataclass(frozen=True)
class Part:
    """One source of a mixture.

    >>> from vljax.datasets import Builtin
    >>> Part(Builtin(), weight=0.5).source.full_name
    'builtin:train'
    """

    source: Source
    """The source."""
    weight: float | None = None
    """Share of the batches, relative to the weights of the other parts. If unset in all parts, the
    weight is the number of examples, so that every example occurs once per epoch."""
    transforms: tuple[Transform, ...] = ()
    """Transforms of this part; if empty, `data.train_transforms`."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if isinstance(self.source, Mixture):
            yield "source", "is a mixture itself; name its parts here"


@dataclass(frozen=True)
class Phase:
    """New weights from a step on.

    >>> Phase(from_step=10_000, weights={"drawings": 0.5}).weights
    {'drawings': 0.5}
    """

    from_step: int
    """The first step with these weights."""
    weights: dict[str, float]
    """Weight by name of the part; a part that is not named keeps its weight."""


@dataclass(frozen=True)
class Mixture(Source, name="mixture"):
    """Several sources for training, in proportions that hold in every window of the stream.

    Each source is shuffled anew in each of its own epochs.

    >>> from vljax.data.sources import JsonLines
    >>> from vljax.datasets import Builtin
    >>> mixture = Mixture(
    ...     {"photos": Part(JsonLines("photos.jsonl"), 3), "drawings": Part(Builtin(), 1)},
    ...     schedule=(Phase(from_step=10_000, weights={"drawings": 0.5}),),
    ... )
    >>> mixture.full_name
    'mixture:photos+drawings'
    """

    parts: dict[str, Part] = field(default_factory=dict)
    """Parts by name; the name occurs in messages and in the keys of random numbers."""
    schedule: tuple[Phase, ...] = ()
    """Changes of the weights during training."""

    @property
    def full_name(self) -> str:
        return f"mixture:{'+'.join(self.parts)}"

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.parts:
            yield "parts", "a mixture needs at least one; name them in the recipe"
        if len(self.parts) > MAX_PARTS:
            yield "parts", f"must be at most {MAX_PARTS:,}, got {len(self.parts):,}"
        for name in self.parts:
            if not name.isidentifier():
                yield "parts", f"{name!r} is not a name; use letters, digits and _"
        steps = [0, *(phase.from_step for phase in self.schedule)]
        for i, phase in enumerate(self.schedule):
            where = f"schedule.{i}"
            if steps[i + 1] <= steps[i]:
                yield f"{where}.from_step", f"must be after step {steps[i]}, got {steps[i + 1]}"
            for name in phase.weights:
                if name not in self.parts:
                    yield f"{where}.weights", f"no part {name!r}{suggest(name, self.parts)}"
        for where, weights in self._phases():
            yield from ((where, message) for message in _problems(weights))

    def _phases(self) -> list[tuple[str, dict[str, float | None]]]:
        """The field that sets each phase, and its weight of every part."""
        phases = [("parts", {name: part.weight for name, part in self.parts.items()})]
        for i, phase in enumerate(self.schedule):
            phases.append((f"schedule.{i}.weights", {**phases[-1][1], **phase.weights}))
        return phases

    def weights(self, lengths: Sequence[int]) -> list[tuple[int, tuple[Fraction, ...]]]:
        """The first step and the exact weights of each phase.

        Weights are fractions, so that all processes choose the same source at every step. A weight
        is the decimal number that is written in the recipe: 0.1 is exactly one tenth.

        Args:
          lengths: number of examples of each part.
        """
        steps = [0, *(phase.from_step for phase in self.schedule)]
        return [
            (
                step,
                tuple(
                    Fraction(length) if weight is None else Fraction(str(weight))
                    for weight, length in zip(weights.values(), lengths, strict=True)
                ),
            )
            for step, (_, weights) in zip(steps, self._phases(), strict=True)
        ]

    def open(self) -> Records:
        raise UserError(f"{self.full_name}: is for training only; name one of its sources")


def _problems(weights: dict[str, float | None]) -> Iterator[str]:
    known = [weight for weight in weights.values() if weight is not None]
    if 0 < len(known) < len(weights):
        unset = next(name for name, weight in weights.items() if weight is None)
        yield f"{unset!r} has no weight but others have; set all or none"
    if any(weight < 0 for weight in known):
        yield f"weights must be 0 or more, got {min(known)}"
    if known and not any(known):
        yield "all weights are 0"


def parts_of(source: Source) -> dict[str, Part]:
    """The parts of a mixture; for another source, that source as the part with the name ""."""
    return source.parts if isinstance(source, Mixture) else {"": Part(source)}
