"""How vljax writes an example into one record of an ArrayRecord file.

    4 bytes   VLX1
    4 bytes   length of the description, little endian
    ...       description: UTF-8 JSON, an object
    ...       the image file as it is, to the end of the record

The description has `captions` and `tags` (lists of texts) and `class` (a name or an index), each
only where there is one, and whatever else is known: `width`, `height`, `url`, ...
"""

from __future__ import annotations

import json
from typing import Any

from vljax.data.source_base import ExampleError

_MAGIC = b"VLX1"
_HEADER = 8


def pack(description: dict[str, Any], image: bytes) -> bytes:
    """The record of an example.

    Args:
      description: JSON data.
      image: an encoded image file.
    """
    text = json.dumps(description, ensure_ascii=False).encode()
    return _MAGIC + len(text).to_bytes(4, "little") + text + image


def unpack(record: bytes) -> tuple[dict[str, Any], bytes]:
    """Description and image of a record. Raises ExampleError if it is in another format."""
    if record[:4] != _MAGIC or len(record) < _HEADER:
        raise ExampleError("record is not in vljax's format", kind="damaged")
    end = _HEADER + int.from_bytes(record[4:_HEADER], "little")
    try:
        description = json.loads(record[_HEADER:end])
    except (ValueError, RecursionError) as error:
        raise ExampleError(
            f"description of the record is damaged ({error})", kind="damaged"
        ) from error
    if end > len(record) or not isinstance(description, dict):
        raise ExampleError("description of the record is damaged", kind="damaged")
    return description, record[end:]
