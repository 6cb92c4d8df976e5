"""Local and remote files: paths, reading, writing, listing.

Every function takes a local path or a URL (`gs://`, `s3://`, `memory://`, `file://`). URLs go
through fsspec. Clients of object stores raise exceptions of their own. Functions here convert them
to `OSError` with the URL as file name, or to `UserError` if the user named the path.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product, takewhile
from typing import Any

from vljax.config import REMOTE_PACKAGES, UserError

# memory:// and file:// need no package besides fsspec.
_SCHEMES = (*REMOTE_PACKAGES, "memory", "file")
_MAX_OPEN_FILES = 256
_PARTIAL = ".partial"


def is_remote(path: str) -> bool:
    """Whether a path is a URL."""
    return "://" in path


def expand_user(path: str) -> str:
    """The path with `~` replaced by the home folder; a URL unchanged."""
    return path if is_remote(path) else os.path.expanduser(path)


def parent(path: str) -> str:
    """The folder that holds a file; "." for a bare file name."""
    return path.rpartition("/")[0] if is_remote(path) else os.path.dirname(path) or "."


def base_name(path: str) -> str:
    """The last part of a path."""
    return path.rpartition("/")[2]


def join(folder: str, *names: str) -> str:
    """A path below a folder.

    >>> join("gs://bucket/set/", "parts", "00000.tar")
    'gs://bucket/set/parts/00000.tar'
    """
    return "/".join((folder.rstrip("/"), *names))


def partial_name(path: str) -> str:
    """A temporary name beside a file that no other process or host uses."""
    return f"{path}.{uuid.uuid4().hex}{_PARTIAL}"


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
      UserError: if the kind of URL is unknown, or the package for it is missing.
    """
    scheme = url.partition("://")[0]
    if scheme not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in REMOTE_PACKAGES)
        raise UserError(f"{url}: unknown kind of address; known: {known}")
    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = REMOTE_PACKAGES.get(scheme, "fsspec")
        raise UserError(f"{url}: {scheme}:// needs a package: pip install {package}") from error
    return system, path


@contextlib.contextmanager
def remote_errors(url: str) -> Iterator[None]:
    """Converts exceptions of remote file systems into OSError with the URL as file name."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, error_reason(error), url) from error


def error_reason(error: BaseException) -> str:
    """The message of an error; the operating system's message if there is one."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


_LFS_POINTER, _LFS_POINTER_BYTES = b"version https://git-lfs", 1024
"""How the small file begins that Git LFS leaves in place of a large one, and its largest size."""

LFS_REMEDY = "it is a Git LFS pointer; fetch the file itself with `git lfs pull`"


def is_lfs_pointer(content: bytes) -> bool:
    """Whether the content, or the start, of a file is that of a Git LFS pointer.

    >>> is_lfs_pointer(b"version https://git-lfs.github.com/spec/v1\\noid sha256:4d7a")
    True
    """
    return content.startswith(_LFS_POINTER)


def refuse_lfs_pointer(path: str | os.PathLike[str]) -> None:
    """Raises UserError if a local file is a Git LFS pointer in place of the file itself."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(_LFS_POINTER))
    except OSError:
        return  # who reads it says why it cannot be read
    if is_lfs_pointer(start):
        raise UserError(f"{os.fspath(path)}: {LFS_REMEDY}")


# --- Reading --------------------------------------------------------------------------------------


def read_file(path: str, *, regular: bool = False) -> bytes:
    """The content of a file.

    Args:
      path: local path or URL.
      regular: whether to refuse pipes and devices, which may never end; for files that a data set
        names, not the user.

    Raises:
      OSError: if it cannot be read.
    """
    if not is_remote(path):
        try:
            with open(os.path.expanduser(path), "rb", opener=_at_once if regular else None) as file:
                if regular and not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise OSError(errno.EINVAL, "a pipe or device, not a file", path)
                return file.read()
        except ValueError as error:  # a null byte or half an emoji in the path
            raise OSError(errno.EINVAL, f"not a file name: {error}", path) from error
    system, inner = filesystem(path)
    with remote_errors(path):
        content: bytes = system.cat_file(inner)
    return content


def _at_once(path: str, flags: int) -> int:
    """Opens a file without waiting for a process at the other end of a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_user_file(path: str) -> bytes:
    """The content of a file that the user named.

    Raises:
      UserError: if it cannot be read, or is a Git LFS pointer; if a package is missing, the message
        says how to install it.
    """
    try:
        content = read_file(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error_reason(error)})") from error
    if is_lfs_pointer(content):
        raise UserError(f"{path}: {LFS_REMEDY}")
    return content


def open_file(path: str) -> Any:
    """A file opened as a binary stream, for reading from start to end.

    Raises:
      UserError: if it cannot be opened.
    """
    try:
        if not is_remote(path):
            return open(path, "rb")
        system, inner = filesystem(path)
        return system.open(inner, "rb", cache_type="readahead")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error_reason(error)})") from error


def read_range(path: str, stamp: str, start: int, size: int) -> bytes:
    """`size` bytes of a file from byte `start`; fewer where the file ends. Safe from threads.

    Args:
      path: local path or URL.
      stamp: `File.stamp` of the file when it was listed.
      start: first byte.
      size: number of bytes.

    Raises:
      OSError: if it cannot be read.
    """
    if is_remote(path):
        system, inner = filesystem(path)
        with remote_errors(path):
            content: bytes = system.cat_file(inner, start=start, end=start + size)
        return content
    # Keep the reference while reading. If two threads open the file at once, the cache keeps one
    # descriptor; the other is closed as soon as nothing refers to it.
    descriptor = _descriptor(path, stamp)
    return os.pread(descriptor.number, size, start)


class _Descriptor:
    """An open file; closed once neither the cache nor a thread refers to it."""

    def __init__(self, path: str):
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


# The stamp is part of the key, so that a file that was replaced is opened again.
@functools.lru_cache(maxsize=_MAX_OPEN_FILES)
def _descriptor(path: str, stamp: str) -> _Descriptor:
    return _Descriptor(path)


def download(url: str, path: str) -> None:
    """Copies a remote file to a local path; the file appears once it is complete.

    Raises:
      OSError: if it cannot be read or written.
    """
    system, inner = filesystem(url)
    with atomic_file(path) as partial, remote_errors(url):
        system.get_file(inner, partial)


# --- Text in files -------------------------------------------------------------------------------

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def decode_text(content: bytes, errors: str = "strict") -> str:
    """UTF-8 bytes as text, without the byte order mark that Windows editors put first.

    >>> decode_text(b"\\xef\\xbb\\xbfa cat")
    'a cat'

    Raises:
      UnicodeDecodeError: if the bytes are not UTF-8; its `reason` names UTF-16.
    """
    # A NUL in the first two bytes: UTF-16 without a byte order mark.
    if content.startswith(_UTF16) or b"\0" in content[:2]:
        raise UnicodeDecodeError("utf-8", content[:2], 0, 1, "UTF-16; save it as UTF-8")
    return content.decode("utf-8", errors).removeprefix("\ufeff")


def encodable(text: str) -> str:
    """The text with U+FFFD in place of each lone surrogate, which UTF-8 cannot hold.

    JSON may have half an emoji, and names of files that are not UTF-8 become surrogates.

    >>> encodable("a smile \\ud83d") == "a smile \\ufffd"
    True
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def parse_json(content: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError, also for nesting that is too deep to parse.

    >>> parse_json("[" * 10**6)
    Traceback (most recent call last):
    ValueError: nested too deeply
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def text_lines(text: str) -> list[str]:
    """The lines of a text. Unlike `str.splitlines`, U+2028, U+0085 and form feeds do not end one.

    >>> text_lines("a cat\\x0con a mat\\na dog")
    ['a cat\\x0con a mat', 'a dog']
    """
    return re.split(r"\r\n|\n|\r", text)


def read_text(path: str, field: str = "") -> str:
    """The text of a file that the user named.

    Args:
      path: local path or URL.
      field: the recipe field or option that named it, for messages.

    Raises:
      UserError: if it cannot be read, is a Git LFS pointer, or is not UTF-8.
    """
    where = f"{field}: {path}" if field else path
    try:
        content = read_file(path)
        if is_lfs_pointer(content):
            raise UserError(f"{where}: {LFS_REMEDY}")
        return decode_text(content)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: {not_utf8(error)}") from error
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error_reason(error)})") from error


def not_utf8(error: UnicodeDecodeError) -> str:
    """Why `decode_text` failed, for messages.

    >>> try:
    ...     decode_text(b"caf\\xe9")
    ... except UnicodeDecodeError as error:
    ...     print(not_utf8(error))
    not UTF-8 (byte 3)
    """
    if error.reason.startswith("UTF-16"):
        return f"not UTF-8 but {error.reason}"
    return f"not UTF-8 (byte {error.start})"


def read_names(path: str, field: str = "") -> tuple[str, ...]:
    """The texts in a file: one per line without white space at its ends, or a JSON list.

    Blank ones are left out.

    >>> write_file("names.txt", b"cat\\r\\n\\r\\n dog\\r\\n")
    >>> read_names("names.txt")
    ('cat', 'dog')

    Args:
      path: local path or URL.
      field: the recipe field or option that named it, for messages.

    Raises:
      UserError: if it cannot be read, is not UTF-8, or begins like a JSON list but is not one.
    """
    text = read_text(path, field)
    where = f"{field}: {path}" if field else path
    if not re.match(r'\s*\[\s*["\]]', text):
        return tuple(line.strip() for line in text_lines(text) if line.strip())
    try:
        names = parse_json(text)
    except ValueError as error:
        raise UserError(f"{where}: not a JSON list ({error})") from error
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: must be a list of texts")
    return tuple(name for name in map(encodable, names) if name.strip())


def names_file(names: Sequence[str]) -> bytes:
    """The content of a file that `read_names` reads as `names`.

    It has one name per line; or it is a JSON list, if a name has a line break or outer spaces.

    >>> names_file(["cat", "dog"]), names_file([" d", "d"])
    (b'cat\\ndog\\n', b'[\\n" d",\\n"d"\\n]\\n')
    """
    lines = "".join(f"{name}\n" for name in names)
    whole = all(name.strip() == name and len(text_lines(name)) == 1 for name in names)
    if not whole or re.match(r'\[\s*["\]]', lines):
        items = ",\n".join(json.dumps(name, ensure_ascii=False) for name in names)
        lines = f"[\n{items}\n]\n"
    return lines.encode()


# --- What is shown to the user --------------------------------------------------------------------


def printable(text: str) -> str:
    """The text with control characters written as in Python, so that a terminal does not obey them.

    Line breaks and tabs stay.

    >>> print(printable("a \\x1b[31mred cat"))
    a \\x1b[31mred cat
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def format_bytes(count: int) -> str:
    """A number of bytes with three or four digits.

    >>> format_bytes(812_623_880)
    '775 MiB'
    """
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if round(size) < 1024:
            break
        size, unit = size / 1024, larger
    digits = 0 if unit == "B" or size >= 100 else 1
    return f"{size:,.{digits}f} {unit}"


# --- Writing: a file appears under its name once it is complete -----------------------------------


def write_file(path: str, content: bytes) -> None:
    """Writes a file and creates the folders above it; the file is never there in part.

    >>> write_file("notes/today.txt", b"tea")
    >>> read_file("notes/today.txt")
    b'tea'

    Raises:
      UserError: if the kind of URL is unknown, or the package for it is missing.
      OSError: if it cannot be written.
    """
    if is_remote(path):
        system, inner = filesystem(path)
        with remote_errors(path):
            system.pipe_file(inner, content)  # an object appears once it is complete
        return
    make_folder(parent(path))
    with atomic_file(path) as partial, open(partial, "wb") as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: str) -> Iterator[str]:
    """A local path to write to; at the end of the context its content appears at `path`.

    If the context raises, nothing appears. A local file is flushed to the disk before it gets its
    name, so that a crash of the machine leaves no file that only looks complete.

    Raises:
      OSError: if it cannot be written.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="vljax-") as folder:
            local = os.path.join(folder, base_name(path))
            yield local
            system, inner = filesystem(path)
            with remote_errors(path):
                system.put_file(local, inner)  # an object appears once it is complete
        return
    partial = partial_name(path)
    try:
        yield partial
        _flush_to_disk(partial)
        os.replace(partial, path)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # from `write`, as on a full disk
            raise OSError(error.errno, os.strerror(error.errno), path) from error
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
    _flush_to_disk(parent(path))


def _flush_to_disk(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: str) -> None:
    """Creates a folder and those above it. Raises OSError if it cannot."""
    if is_remote(folder):
        system, path = filesystem(folder)
        with remote_errors(folder):
            system.makedirs(path, exist_ok=True)
    else:
        os.makedirs(folder, exist_ok=True)


def remove_file(path: str) -> None:
    """Removes a file. Raises OSError if it cannot."""
    if is_remote(path):
        system, inner = filesystem(path)
        with remote_errors(path):
            system.rm_file(inner)
    else:
        os.unlink(path)


def remove_folder(folder: str) -> None:
    """Removes a folder and everything in it. Raises OSError if it cannot."""
    if is_remote(folder):
        system, path = filesystem(folder)
        with remote_errors(folder):
            system.rm(path, recursive=True)
    else:
        shutil.rmtree(folder)


def remove_partial_files(folder: str) -> None:
    """Removes from a local folder the unfinished files of processes that were killed."""
    for name in [] if is_remote(folder) else list_folder(folder):
        if name.endswith(_PARTIAL):
            os.unlink(os.path.join(folder, name))


# --- One process at a time ------------------------------------------------------------------------


@contextlib.contextmanager
def exclusive(path: str, task: str) -> Iterator[None]:
    """Holds a lock while the context runs; the kernel releases it when the process ends.

    So a process that was killed never holds it. On NFS the lock is the server's, and holds between
    hosts. `PATH.json` names the holder, for messages; it stays behind if the holder is killed.
    Remote paths have no locks.

    Args:
      path: the lock file; it and the folders above it are created, and it is never removed, which
        would let two processes lock different files of one name.
      task: what the holder does, such as "W: another run writes there".

    Raises:
      UserError: if another process holds it, with its host and number.
      OSError: if the file cannot be created.
    """
    if is_remote(path):
        yield
        return
    from filelock import FileLock, Timeout

    make_folder(parent(path))
    lock, holder = FileLock(path, mode=0o666), f"{path}.json"
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        remedy = "wait until it ends, or write elsewhere"
        raise UserError(f"{task}{_holder(holder)}; {remedy}") from error
    except NotImplementedError:  # a file system without locks
        yield
        return
    try:
        named = {"host": socket.gethostname(), "process": os.getpid()}
        write_file(holder, json.dumps(named).encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(holder)
        lock.release()


def _holder(file: str) -> str:
    """Who holds a lock, for messages; empty if the file does not say."""
    try:
        named = json.loads(read_file(file))
        return f": process {named['process']} on {named['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


# --- Listing --------------------------------------------------------------------------------------

# Names that file systems use for the time or version of a file, in order of preference.
_STAMPS = ("etag", "ETag", "md5Hash", "generation", "mtime", "LastModified", "created")

_Info = tuple[int, str]  # size and stamp


@dataclass(frozen=True)
class File:
    """A file as it was when it was listed."""

    path: str
    """Local path or URL."""
    name: str
    """Path relative to the folder that all files of the set share, so that it is the same on every
    machine."""
    size: int
    """Bytes."""
    stamp: str
    """Modification time or ETag; it changes when the file is written again."""


def list_folder(folder: str) -> dict[str, int]:
    """Name and size in bytes of each entry of a folder; empty if the folder does not exist.

    Raises:
      OSError: if it cannot be listed.
    """
    if is_remote(folder):
        system, path = filesystem(folder)
        system.invalidate_cache(path)  # a cached listing lacks what other machines wrote since
        try:
            with remote_errors(folder):
                entries = system.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        inside = [e for e in entries if e["name"].strip("/") != path.strip("/")]
        return {base_name(e["name"].rstrip("/")): e["size"] or 0 for e in inside}
    if not os.path.isdir(folder):
        return {}
    # A link to nothing has no size of its own.
    return {
        entry.name: entry.stat(follow_symlinks=os.path.exists(entry.path)).st_size
        for entry in os.scandir(folder)
    }


def find_files(paths: str | tuple[str, ...], suffixes: tuple[str, ...], field: str) -> list[File]:
    """The files that paths name, each once, in the order of `paths` and sorted within a folder.

    >>> for name in ("b.tar", "a.tar", "notes.txt"):
    ...     write_file(f"shards/{name}", b"")
    >>> [file.name for file in find_files("shards", (".tar",), "path")]
    ['a.tar', 'b.tar']

    Args:
      paths: each a file, a folder, or a pattern with `*`, `?`, `[...]`, `{a,b}` or `{000..123}`.
      suffixes: endings of the files that are taken from a folder, such as ".tar".
      field: the recipe field or option that error messages name.

    Raises:
      UserError: if a path matches nothing, a folder has no such file, a file is a Git LFS pointer,
        or a package is missing.
    """
    infos: dict[str, _Info] = {}
    remote = _RemoteFolders()
    for path in (paths,) if isinstance(paths, str) else paths:
        for plain in expand_braces(path):
            if is_remote(plain):
                found = remote.find(plain, suffixes)
            else:
                found = _find_local(plain, suffixes)
            if not found:
                kinds = " or ".join(suffixes)
                raise UserError(f"{field}: no file {plain}, nor a folder with {kinds} files there")
            infos |= found
    for path, (size, _) in infos.items():
        if 0 < size <= _LFS_POINTER_BYTES and os.path.isfile(path):
            refuse_lfs_pointer(path)
    folders = {path.rpartition("/")[0] for path in infos}
    # os.path.commonpath would merge the two slashes of a URL.
    levels = zip(*(folder.split("/") for folder in folders), strict=False)
    skipped = sum(len(level[0]) + 1 for level in takewhile(lambda x: len(set(x)) == 1, levels))
    return [File(path, path[skipped:], size, stamp) for path, (size, stamp) in infos.items()]


def expand_braces(pattern: str) -> list[str]:
    """The pattern with `{a,b}` and `{000..123}` expanded, as a shell does.

    >>> expand_braces("{00009..00011}.tar")
    ['00009.tar', '00010.tar', '00011.tar']
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [_choices(part) if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(inside: str) -> list[str]:
    if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        first, last = bounds.groups()
        if int(last) < int(first):
            raise UserError(f"{{{inside}}}: a range must not end before it begins")
        return [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    return inside.split(",") if "," in inside else [f"{{{inside}}}"]


def _find_local(path: str, suffixes: tuple[str, ...]) -> dict[str, _Info]:
    path = os.path.abspath(os.path.expanduser(path))
    if os.path.isdir(path):
        found = sorted(entry.path for entry in os.scandir(path) if entry.name.endswith(suffixes))
    else:
        found = [path] if os.path.exists(path) else sorted(glob.glob(path))
    try:
        status = {name: os.stat(name) for name in found}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    for name, s in status.items():
        if name != path and not (stat.S_ISREG(s.st_mode) or stat.S_ISDIR(s.st_mode)):
            raise UserError(f"{name}: a pipe or device, not a file; remove it from the folder")
    return {name: (s.st_size, str(s.st_mtime_ns)) for name, s in status.items()}


class _RemoteFolders:
    """Remote folders, each listed once: one request for each of thousands of shards is slow."""

    def __init__(self) -> None:
        self._entries: dict[str, list[dict[str, Any]]] = {}

    def find(self, url: str, suffixes: tuple[str, ...]) -> dict[str, _Info]:
        """The files that a URL without braces names: a file, a pattern or a folder."""
        system, path = filesystem(url)
        try:
            if glob.has_magic(path):
                infos = list(system.glob(path, detail=True).values())
            else:
                infos = [i for i in self._list(system, path) if _same_path(i["name"], path)]
                if infos and infos[0]["type"] == "directory":
                    inside = self._list(system, f"{path.rstrip('/')}/x")
                    infos = [info for info in inside if info["name"].endswith(suffixes)]
        except Exception as error:  # remote file systems raise exceptions of their own
            raise UserError(f"{url}: cannot be listed ({error_reason(error)})") from error
        files = sorted((i for i in infos if i["type"] == "file"), key=lambda i: i["name"])
        return {system.unstrip_protocol(i["name"]): (i["size"], _stamp(i)) for i in files}

    def _list(self, system: Any, path: str) -> list[dict[str, Any]]:
        """The entries of the folder that holds a path."""
        folder = path.rstrip("/").rpartition("/")[0]
        key = system.unstrip_protocol(folder)
        if key not in self._entries:
            try:
                self._entries[key] = system.ls(folder, detail=True)
            except FileNotFoundError:
                self._entries[key] = []
        return self._entries[key]


def _same_path(left: str, right: str) -> bool:
    return left.strip("/") == right.strip("/")


def _stamp(info: dict[str, Any]) -> str:
    return next((str(info[key]) for key in _STAMPS if info.get(key)), "")
