"""Files of `torch.save` (.pth, .pt, .bin), in the zip format and the one before it."""

from __future__ import annotations

import functools
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vljax.config import UserError, suggest
from vljax.interop.torch import pickle as torch_pickle
from vljax.interop.torch.tensors import Storage, StoredTensor, globals_of_state_dicts, storage_dtype

_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def state_dict(path: str | Path, subtree: str | None = None) -> dict[str, StoredTensor]:
    """The tensors of a file by their names; none is read yet.

    Args:
      path: a local file that `torch.save` wrote.
      subtree: the key of the state dict where the file holds several things, `model_ema`; by
        default the only one that holds tensors (`{"state_dict": ..., "epoch": 3}`).

    Raises:
      UserError: if the file is no such file, is damaged, needs code to be run, or holds several
        state dicts or none.
    """
    source = str(path)
    try:
        return _state_dict(Path(path), source, subtree)
    except UserError:
        raise
    except Exception as error:  # what was made to look like such a file, or is damaged
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{source}: damaged, or no file of torch.save ({reason})") from error


def _state_dict(path: Path, source: str, subtree: str | None) -> dict[str, StoredTensor]:
    content = _content(path, source)
    if subtree is not None:
        if not isinstance(content, Mapping) or not _tensors(content.get(subtree)):
            known = [str(k) for k in content] if isinstance(content, Mapping) else []
            raise UserError(f"{source}: no state dict {subtree!r}{suggest(subtree, known)}")
        return _tensors(content[subtree])
    if isinstance(content, Mapping) and not _direct(content):
        content = _only_state_dict(content, source)
    tensors = _tensors(content)
    if not tensors:
        raise UserError(f"{source}: holds no tensors")
    return tensors


def _direct(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, StoredTensor) for value in content.values())


def _only_state_dict(content: Mapping[Any, Any], source: str) -> Any:
    found = [key for key, value in content.items() if _tensors(value)]
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise UserError(f"{source}: holds several state dicts ({names}); name one, FILE:{found[0]}")
    return content[found[0]] if found else {}


def _tensors(value: Any, prefix: str = "") -> dict[str, StoredTensor]:
    """Tensors of nested dicts, names joined by dots."""
    if not isinstance(value, Mapping):
        return {}
    tensors = {}
    for key, item in value.items():
        if isinstance(item, StoredTensor):
            tensors[f"{prefix}{key}"] = item
        else:
            tensors |= _tensors(item, f"{prefix}{key}.")
    return tensors


def _content(path: Path, source: str) -> Any:
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start == b"PK\x03\x04":
            return _read_zip(file, path, source)
        return _read_legacy(file, path, source)


def _read_zip(file: io.BufferedIOBase, path: Path, source: str) -> Any:
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{source}: damaged: no directory at its end; is it whole?") from error
    records = {name.partition("/")[2]: info for name, info in archive.NameToInfo.items()}
    if "constants.pkl" in records:
        raise UserError(f"{source}: is a TorchScript program; save the model's state_dict()")
    if "data.pkl" not in records:
        raise UserError(f"{source}: is a zip file, but none of torch.save: it has no data.pkl")
    big = "byteorder" in records and archive.read(records["byteorder"]).strip() == b"big"

    @functools.cache
    def storage(key: str, dtype: np.dtype, count: int) -> Storage:
        info = records.get(f"data/{key}")
        if info is None:
            raise UserError(f"{source}: damaged: storage {key} is missing")
        if info.compress_type != zipfile.ZIP_STORED:
            raise UserError(f"{source}: storage {key} is compressed; torch.save compresses none")
        if count * dtype.itemsize > info.file_size:
            raise UserError(f"{source}: damaged: storage {key} has {info.file_size} bytes only")
        read = functools.cache(lambda: _map_record(path, info, source))
        return Storage(key, info.file_size, read, dtype, big)

    def persistent(identity: Any) -> Storage:
        _, kind, key, _, count = identity
        return storage(str(key), storage_dtype(kind, source), int(count))

    try:
        pickle = io.BytesIO(archive.read(records["data.pkl"]))
    except zipfile.BadZipFile as error:
        raise UserError(f"{source}: damaged: {error}") from error
    return torch_pickle.load(pickle, globals_of_state_dicts(source), persistent, source)


def _map_record(path: Path, info: zipfile.ZipInfo, source: str) -> np.ndarray:
    """The bytes of a record, mapped; they are read once, to compare their checksum."""
    if info.file_size == 0:
        return np.zeros(0, np.uint8)
    with path.open("rb") as file:
        file.seek(info.header_offset)
        signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    start = info.header_offset + _LOCAL_HEADER.size + name + extra
    if signature != b"PK\x03\x04" or start + info.file_size > path.stat().st_size:
        raise UserError(f"{source}: damaged: {info.filename} is not where it should be")
    data = np.memmap(path, np.uint8, "r", start, (info.file_size,))
    if zlib.crc32(data) != info.CRC:  # type: ignore[arg-type]
        raise UserError(f"{source}: damaged: {info.filename} has another checksum")
    return data


def _read_legacy(file: io.BufferedIOBase, path: Path, source: str) -> Any:
    """The format before zip: five pickles in a row, then every storage with its length."""

    def simple() -> Any:
        return torch_pickle.load(file, {}, lambda identity: identity, source)

    foreign = f"{source}: no file of torch.save"
    try:
        magic = simple()
    except UserError as error:
        raise UserError(foreign) from error
    if magic != _LEGACY_MAGIC:
        raise UserError(foreign)
    if (protocol := simple()) != _LEGACY_PROTOCOL:
        raise UserError(f"{source}: protocol {protocol} of torch.save, not {_LEGACY_PROTOCOL}")
    big = not simple().get("little_endian", True)
    places: dict[str, tuple[int, int]] = {}
    dtypes: dict[str, np.dtype] = {}

    @functools.cache
    def read(key: str, first: int, size: int) -> np.ndarray:
        start, stored = places[key]
        if first + size > stored:
            raise UserError(f"{source}: damaged: storage {key} has {stored} bytes only")
        return np.memmap(path, np.uint8, "r", start + first, (size,)) if size else np.zeros(0, "u1")

    def persistent(identity: Any) -> Storage:
        _, kind, key, _, count, view = identity
        dtype = storage_dtype(kind, source)
        root, first, count = view or (key, 0, count)
        dtypes[root] = dtype
        first, size = first * dtype.itemsize, count * dtype.itemsize
        return Storage(key, size, lambda: read(root, first, size), dtype, big)

    content = torch_pickle.load(file, globals_of_state_dicts(source), persistent, source)
    places |= _places(file, simple(), dtypes, "<>"[big], source)
    return content


def _places(
    file: io.BufferedIOBase,
    keys: list[str],
    dtypes: Mapping[str, np.dtype],
    order: str,
    source: str,
) -> dict[str, tuple[int, int]]:
    """For each storage, in the order of the file, where its bytes start and how many they are."""
    end, places = os.fstat(file.fileno()).st_size, dict[str, tuple[int, int]]()
    for key in keys:
        header = file.read(8)
        if len(header) < 8 or key not in dtypes:
            raise UserError(f"{source}: damaged: storage {key} is missing; is the file whole?")
        size = struct.unpack(f"{order}q", header)[0] * dtypes[key].itemsize
        start = file.tell()
        if size < 0 or start + size > end:
            raise UserError(f"{source}: damaged: ends within storage {key}; is the file whole?")
        places[key] = start, size
        file.seek(size, os.SEEK_CUR)
    return places
