"""Local and remote files behind one name."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def as_path(path: str) -> Any:
    """A `pathlib.Path`, or for `gs://` and `s3://` an object with the same methods."""
    if "://" not in path:
        return Path(path).expanduser()
    from etils import epath

    return epath.Path(path)
