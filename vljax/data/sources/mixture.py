"""Several sources trained on together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from vljax.config import UserError, suggest
from vljax.data.records import Records, Source
from vljax.data.transforms.base import Transform

MAX_PARTS = 2**16
"""What example ids have room for."""


@dataclass(frozen=True)
class Part:
    """One source of a mixture."""

    source: Source
    """Its examples."""
    weight: float | None = None
    """Its share, relative to those of the other parts; unset in all parts: the numbers of their
    examples, so that the whole mixture is gone through once an epoch."""
    transforms: tuple[Transform, ...] = ()
    """From record to `image` and `text`; where empty, those of the data."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if isinstance(self.source, Mixture):
            yield "source", "is a mixture itself; name its parts here"


@dataclass(frozen=True)
class Phase:
    """Weights from a step on."""

    from_step: int
    """The first step with these weights."""
    weights: dict[str, float]
    """By name of the part; one that is not named keeps its weight."""


@dataclass(frozen=True)
class Mixture(Source, name="mixture"):
    """Several sources for training, in proportions that hold in every window of the stream.

        Mixture(
            {"photos": Part(JsonLines("photos.jsonl"), 3), "drawings": Part(Builtin(), 1)},
            schedule=(Phase(from_step=10_000, weights={"drawings": 0.5}),),
        )

    Each source is gone through in a new order in each of its own epochs.
    """

    parts: dict[str, Part] = field(default_factory=dict)
    """By a name of their own, which messages and random numbers go by."""
    schedule: tuple[Phase, ...] = ()
    """Weights that change on the way, by step."""

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
                yield "parts", f"{name!r} is no name; use letters, digits and _"
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
        """The field that sets a phase, and its weight of each part."""
        phases = [("parts", {name: part.weight for name, part in self.parts.items()})]
        for i, phase in enumerate(self.schedule):
            phases.append((f"schedule.{i}.weights", {**phases[-1][1], **phase.weights}))
        return phases

    def weights(self, lengths: Sequence[int]) -> list[tuple[int, tuple[Fraction, ...]]]:
        """First step and exact weights of each phase.

        A weight means the decimal number that it is written as: 0.1 is a tenth.

        Args:
          lengths: examples of each part.
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
    """The parts of a mixture; of another source, itself under an empty name."""
    return source.parts if isinstance(source, Mixture) else {"": Part(source)}
