"""A folder that appears under its name only once it is complete."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from vljax.config import UserError

MARK = ".vljax"
"""A file that marks a temporary folder as vljax's own. Folders without it are never removed."""


@contextlib.contextmanager
def new_folder(out: str, *sources: str, overwrite: bool) -> Iterator[Path]:
    """A temporary folder to fill, which is renamed to `out` if nothing goes wrong.

    The temporary folder is `out.partial`. One that an interrupted command left is removed, so the
    same command can be run again. What was at `out` is removed last.

    >>> with new_folder("made", "source", overwrite=False) as folder:
    ...     _ = (folder / "weights").write_text("...")
    >>> [path.name for path in Path("made").iterdir()]
    ['weights']

    Args:
      out: the folder to make.
      sources: what it is made from, which it must not replace.
      overwrite: whether it may replace a folder that is not empty.

    Raises:
      UserError: if `out` exists already, or cannot be written.
    """
    target = Path(os.path.abspath(os.path.expanduser(out)))
    if "://" in out:
        raise UserError(f"{out}: write to a local folder, and copy it from there")
    if target.exists() and not target.is_dir():
        raise UserError(f"{out} is a file; name a folder")
    if not overwrite and target.is_dir() and any(target.iterdir()):
        raise UserError(f"{out} is not empty; add --overwrite to replace it")
    for source in sources:
        origin = Path(os.path.expanduser(source)).resolve()
        if target.resolve() in (origin, *origin.parents):
            raise UserError(f"{out} contains {source} itself; name another folder")
    partial, old = (target.with_name(f"{target.name}.{end}") for end in ("partial", "replaced"))
    for left in (partial, old):
        if left.exists() and not (left / MARK).exists():
            raise UserError(f"{left} is in the way, and vljax did not make it; rename or remove it")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / MARK).touch()
    except OSError as error:
        raise UserError(f"{partial}: {error.strerror}") from error
    try:
        yield partial
        _replace(target, partial, old)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(target: Path, partial: Path, old: Path) -> None:
    if not target.exists():
        (partial / MARK).unlink()
        partial.rename(target)
        return
    # A rename cannot replace a folder that is not empty, so the old one is moved away first.
    shutil.rmtree(old, ignore_errors=True)
    (target / MARK).touch()
    target.rename(old)
    (partial / MARK).unlink()
    try:
        partial.rename(target)
    except BaseException:
        old.rename(target)
        (target / MARK).unlink()
        raise
    shutil.rmtree(old, ignore_errors=True)
