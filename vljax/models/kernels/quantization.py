"""The forms that quantized kernels come in. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """How a kernel is quantized: symmetrically, with a scale for each output."""

    meaning: str
    bits: int
    group: int | None = None
    """Inputs that share a scale; None: all of an output."""
    dynamic: bool = False
    """Whether the features are quantized too, each row as it comes, so that products are of whole
    numbers."""

    @property
    def top(self) -> int:
        """The largest whole number; the smallest is `-top - 1`."""
        return int(2 ** (self.bits - 1) - 1)

    def groups(self, inputs: int) -> int:
        """How many scales an output has: the fewest that divide its inputs evenly into groups of at
        most `group`, but one where these would be shorter than a quarter of that."""
        if self.group is None:
            return 1
        count = next(
            n for n in range(1, inputs + 1) if inputs % n == 0 and inputs // n <= self.group
        )
        return count if inputs // count >= self.group // 4 else 1


FORMS: Mapping[str, Form] = {
    "int8": Form("8-bit weights", 8),
    "int4": Form("4-bit weights, a scale for each 64 inputs of an output", 4, group=64),
    "int8-dynamic": Form("8-bit weights, and features to 8 bits as they come", 8, dynamic=True),
}
