"""What decoders raise, as the reason for which an example cannot be used."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from vljax.data.records import ExampleError, RejectionKind

# What Pillow and libjpeg-turbo say of a file that ends too early.
_TRUNCATED = re.compile(r"truncated|premature end|unexpected end", re.IGNORECASE)


@contextlib.contextmanager
def image_errors() -> Iterator[None]:
    """Turns any exception of a decoder into an ExampleError."""
    try:
        yield
    except ExampleError:
        raise
    # Decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files.
    except Exception as error:
        message = " ".join(str(error).split())
        kind: RejectionKind = "truncated" if _TRUNCATED.search(message) else "damaged"
        if type(error).__name__ == "DecompressionBombError":  # Pillow's, which loads late
            kind = "too_many_pixels"
        raise ExampleError(f"image cannot be decoded ({message[:200]})", kind=kind) from error
