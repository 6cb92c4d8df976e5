"""Download, verify and read Debian packages, without unpacking them to disk or running them."""

from __future__ import annotations

import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal
from urllib.error import URLError
from urllib.parse import urlsplit

from vljax.config import UserError

MIRROR = "https://deb.debian.org/debian"

_BLOCK = 2**20
_TIMEOUT = 60  # seconds without a byte
_LARGEST_MEMBER = 2**26

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Package:
    """One version of a Debian package."""

    filename: str
    """Path below a mirror, from the Packages index."""
    sha256: str
    """SHA-256 of the file, from the signed Packages index."""
    size: int
    """Size of the file, bytes."""

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.filename.rpartition("/")[2]


def download(package: Package, mirror: str, folder: Path, progress: Progress) -> Path:
    """Download a package into a folder, unless an intact copy is there already.

    Args:
      package: the package.
      mirror: address of a Debian mirror, http or https.
      folder: made if missing.
      progress: called with the bytes downloaded and the total.

    Raises:
      UserError: if the mirror cannot be reached or lacks the file, or the digest differs.
    """
    target = folder / package.name
    if target.is_file() and _digest(target) == package.sha256:
        return target
    if urlsplit(mirror).scheme not in ("http", "https"):
        raise UserError(f"--mirror {mirror}: not an http:// or https:// address")
    address = f"{mirror.rstrip('/')}/{package.filename}"
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        _fetch(address, part, package.size, progress)
    except (OSError, ValueError) as error:
        reason = error.reason if type(error) is URLError else error
        raise UserError(
            f"{address}: cannot be downloaded ({reason}); "
            f"--mirror takes another mirror, --deb a file that is here already"
        ) from error
    verify(part, package.sha256)
    part.replace(target)
    return target


def _fetch(address: str, part: Path, size: int, progress: Progress) -> None:
    from urllib.request import urlopen

    done = 0
    with urlopen(address, timeout=_TIMEOUT) as response, part.open("wb") as file:
        while block := response.read(_BLOCK):
            done += len(block)
            if done > size:
                raise URLError(f"more than {size:,} bytes")
            file.write(block)
            progress(done, size)
    if done < size:
        raise URLError(f"ended after {done:,} of {size:,} bytes")


def verify(path: Path, sha256: str) -> None:
    """Raise UserError if a file does not have this SHA-256."""
    found = _digest(path)
    if found != sha256:
        raise UserError(
            f"{path}: SHA-256 is {found}, expected {sha256}; damaged or another version "
            f"(--sha256 DIGEST accepts one that you trust)"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_files(
    path: Path, below: str, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, bytes]]:
    """Read the regular files below one folder of a package: relative path and content.

    Links, devices and paths that lead out of the folder are skipped.

    Args:
      path: a `.deb` file.
      below: a folder in the package, without slashes at its ends.
      wanted: whether to read the file with this relative path.

    Raises:
      UserError: if it is not a Debian package, is damaged, or a file in it is over 64 MiB.
    """
    try:
        with path.open("rb") as file:
            mode = _find_data(file, path)
            with tarfile.open(fileobj=file, mode=mode) as archive:
                for member in archive:
                    name = member.name.removeprefix("./").removeprefix(f"{below}/")
                    inside = member.name.removeprefix("./") != name and ".." not in name.split("/")
                    if not (inside and member.isreg() and wanted(name)):
                        continue
                    if member.size > _LARGEST_MEMBER:
                        raise UserError(f"{path}: {member.name} has {member.size:,} bytes")
                    content = archive.extractfile(member)
                    assert content is not None  # it is a regular file
                    yield name, content.read()
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{path}: damaged Debian package ({error})") from error


Mode = Literal["r|", "r|gz", "r|bz2", "r|xz"]
_MODES: dict[str, Mode] = {"": "r|", ".gz": "r|gz", ".bz2": "r|bz2", ".xz": "r|xz"}


def _find_data(file: IO[bytes], path: Path) -> Mode:
    """Seek to the archive of files in a package, and return the mode to read it with.

    A package is an `ar` archive (deb(5)): members with a header of 60 bytes, at even offsets.
    """
    if file.read(8) != b"!<arch>\n":
        raise UserError(f"{path}: not a Debian package")
    while len(header := file.read(60)) == 60 and header.endswith(b"`\n"):
        name, size = header[:16].decode("latin-1").strip().rstrip("/"), header[48:58].strip()
        if not size.isdigit():
            break
        if name.startswith("data.tar"):
            if name[8:] not in _MODES:
                raise UserError(f"{path}: compressed as {name[9:]}, which cannot be read here")
            return _MODES[name[8:]]
        file.seek(int(size) + int(size) % 2, 1)
    raise UserError(f"{path}: damaged Debian package (no data.tar)")
