"""Results about data sets that are kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

from vljax.files import join, write_file


def cached(kind: str, key: str, make: Callable[[], Any]) -> Any:
    """JSON data that is made once for each key and then read from the cache folder.

    >>> cached("examples", "squares below 4", lambda: [0, 1, 4, 9])
    [0, 1, 4, 9]

    Args:
      kind: name of the folder in the cache folder.
      key: what the data depends on, such as the identity of a source.
      make: makes the data if the cache does not have it.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    digest = hashlib.sha256(f"{kind} {key}".encode()).hexdigest()
    file = join(home, "vljax", kind, f"{digest}.json")
    with contextlib.suppress(OSError, ValueError), open(file, encoding="utf-8") as stream:
        return json.load(stream)
    data = make()
    with contextlib.suppress(OSError):  # a folder that cannot be written only costs time
        write_file(file, json.dumps(data).encode())
    return data
