"""Many short texts in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable


class Strings:
    """A growing list of texts, 8 bytes each beside their UTF-8 bytes.

    What is not UTF-8 is kept as the bytes that were read (surrogate escapes).
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("Q", [0])

    def extend(self, texts: Iterable[str]) -> None:
        """Appends texts."""
        for text in texts:
            self._bytes += text.encode("utf-8", "surrogateescape")
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:
        """The UTF-8 bytes of a text."""
        return bytes(self._bytes[self._ends[index] : self._ends[index + 1]])
