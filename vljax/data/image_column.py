"""The image in a column of a table: its file, or where that is."""

from __future__ import annotations

from typing import Any

from vljax.config import UserError
from vljax.data.files import is_remote, join, read_file
from vljax.data.source_base import ExampleError


def image_file(value: Any, folder: str) -> bytes:
    """The encoded image that a value stands for.

    Args:
      value: the file's bytes; its path; or `{"bytes": ..., "path": ...}` as Hugging Face writes it.
      folder: what paths are relative to.

    Raises:
      ExampleError: if there is none, or it cannot be read.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value:
        raise ExampleError("no image", kind="not_an_image")
    path = value if is_remote(value) or value.startswith("/") else join(folder, value)
    try:
        return read_file(path)
    except (OSError, ValueError, UserError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise ExampleError(
            f"image {value!r} cannot be read ({reason})", kind="unreadable"
        ) from error
