"""Local and remote files behind one name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vljax.config import REMOTE_PACKAGES, UserError


# What reads each kind of URL; none is installed with vljax.
def as_path(path: str) -> Any:
    """A `pathlib.Path`, or for `gs://` and `s3://` an object with the same methods.

    Raises:
      UserError: if it is another kind of URL.
    """
    scheme, separator, _ = path.partition("://")
    if not separator:
        return Path(path).expanduser()
    if scheme not in REMOTE_PACKAGES:
        known = ", ".join(f"{name}://" for name in REMOTE_PACKAGES)
        raise UserError(f"{path}: unknown kind of address; known: {known}")
    from etils import epath

    return epath.Path(path)


def read_bytes(path: str) -> bytes:
    """The content of a local or remote file.

    Raises:
      UserError: if it cannot be read, which names the package that is missing if one is.
    """
    try:
        content: bytes = as_path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ImportError as error:
        scheme = path.partition("://")[0]
        raise UserError(
            f"{path}: {scheme}:// needs a package: pip install {REMOTE_PACKAGES[scheme]}"
        ) from error
    return content
