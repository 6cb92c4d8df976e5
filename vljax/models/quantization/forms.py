"""Forms of quantization. Without imports of JAX, so that the command line can name them fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """How a kernel is quantized: symmetrically, with one or more scales for each output."""

    meaning: str
    """Shown by `--help`."""
    bits: int
    """Bits of a value."""
    group: int | None = None
    """Inputs that share a scale; None: all inputs of an output."""
    dynamic: bool = False
    """Whether features are quantized too, each row when it is multiplied, so that products are of
    whole numbers."""

    @property
    def top(self) -> int:
        """The largest whole number; the smallest is `-top - 1`."""
        return int(2 ** (self.bits - 1) - 1)

    def groups(self, inputs: int) -> int:
        """Number of scales for each output.

        The fewest that divide the inputs evenly into groups of at most `group`; one if these groups
        would be shorter than a quarter of `group`.

        >>> FORMS["int4"].groups(768)
        12
        """
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
