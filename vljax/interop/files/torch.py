"""Files of `torch.save` (.pth, .pt, .bin), read without PyTorch.

Both formats are read: the zip archive, and the older sequence of pickles and storages.
"""

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
from vljax.files import refuse_lfs_pointer
from vljax.interop.files import torch_pickle
from vljax.interop.files.torch_tensors import (
    Storage,
    StoredTensor,
    globals_of_state_dicts,
    storage_dtype,
)

_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_OF_TRAINING = ("optimizer", "optimizer_states", "scaler", "scheduler", "lr_scheduler")
"""Entries of training checkpoints that hold tensors but no parameters."""
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def state_dict(path: str | Path, subtree: str | None = None) -> dict[str, StoredTensor]:
    """The tensors of a file by name. No tensor is read yet.

    Args:
      path: a local file that `torch.save` wrote.
      subtree: the key of a state dict inside the file, such as `model_ema`; by default the only
        entry that holds tensors, besides the state of an optimizer
        (`{"state_dict": ..., "optimizer": ..., "epoch": 3}`).

    Raises:
      UserError: if the file is damaged or of another kind, needs code to be run, or does not hold
        exactly one state dict.
    """
    source = str(path)
    refuse_lfs_pointer(source)
    try:
        return _state_dict(Path(path), source, subtree)
    except UserError:
        raise
    except Exception as error:  # the bytes may be anything, so any exception is possible
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{source}: damaged, or not a file of torch.save ({reason})") from error


def _state_dict(path: Path, source: str, subtree: str | None) -> dict[str, StoredTensor]:
    content = _content(path, source)
    if subtree is not None:
        if not isinstance(content, Mapping) or not _tensors(content.get(subtree)):
            known = [str(k) for k in content] if isinstance(content, Mapping) else []
            raise UserError(f"{source}: no state dict {subtree!r}{suggest(subtree, known)}")
        return _tensors(content[subtree])
    if isinstance(content, Mapping) and not _holds_tensors(content):
        content = _only_state_dict(content, source)
    tensors = _tensors(content)
    if not tensors:
        raise UserError(f"{source}: holds no tensors")
    return tensors


def _holds_tensors(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, StoredTensor) for value in content.values())


def _only_state_dict(content: Mapping[Any, Any], source: str) -> Any:
    found = [key for key, value in content.items() if key not in _OF_TRAINING and _tensors(value)]
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise UserError(f"{source}: holds several state dicts ({names}); name one, FILE:{found[0]}")
    return content[found[0]] if found else {}


def _tensors(value: Any, prefix: str = "") -> dict[str, StoredTensor]:
    """The tensors of nested dicts, with names joined by dots."""
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
        raise UserError(
            f"{source}: damaged: the zip directory is missing; is the file complete?"
        ) from error
    records = {name.partition("/")[2]: info for name, info in archive.NameToInfo.items()}
    if "constants.pkl" in records:
        raise UserError(f"{source}: is a TorchScript program; save the model's state_dict()")
    if "data.pkl" not in records:
        raise UserError(f"{source}: a zip file, but not of torch.save: data.pkl is missing")
    big = "byteorder" in records and archive.read(records["byteorder"]).strip() == b"big"

    @functools.cache
    def storage(key: str, dtype: np.dtype, count: int) -> Storage:
        info = records.get(f"data/{key}")
        if info is None:
            raise UserError(f"{source}: damaged: storage {key} is missing")
        if info.compress_type != zipfile.ZIP_STORED:
            raise UserError(f"{source}: storage {key} is compressed, which torch.save never does")
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
    """The bytes of a record, mapped into memory after comparing their checksum."""
    if info.file_size == 0:
        return np.zeros(0, np.uint8)
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size:
        raise UserError(f"{source}: damaged: {info.filename} is not at its recorded offset")
    signature, name, extra = _LOCAL_HEADER.unpack(header)
    start = info.header_offset + _LOCAL_HEADER.size + name + extra
    if signature != b"PK\x03\x04" or start + info.file_size > path.stat().st_size:
        raise UserError(f"{source}: damaged: {info.filename} is not at its recorded offset")
    data = np.memmap(path, np.uint8, "r", start, (info.file_size,))
    if zlib.crc32(data) != info.CRC:  # type: ignore[arg-type]
        raise UserError(f"{source}: damaged: {info.filename} differs from its checksum")
    return data


def _read_legacy(file: io.BufferedIOBase, path: Path, source: str) -> Any:
    """The format before zip: five pickles in a row, then each storage with its length."""

    def simple() -> Any:
        return torch_pickle.load(file, {}, lambda identity: identity, source)

    foreign = f"{source}: not a file of torch.save"
    try:
        magic = simple()
    except UserError as error:
        raise UserError(foreign) from error
    if magic != _LEGACY_MAGIC:
        raise UserError(foreign)
    if (protocol := simple()) != _LEGACY_PROTOCOL:
        raise UserError(f"{source}: protocol {protocol} of torch.save, not {_LEGACY_PROTOCOL}")
    big = not simple().get("little_endian", True)
    spans: dict[str, tuple[int, int]] = {}  # start and size in bytes, known after the last pickle
    dtypes: dict[str, np.dtype] = {}

    @functools.cache
    def read(key: str, first: int, size: int) -> np.ndarray:
        start, stored = spans[key]
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
    spans |= _storage_spans(file, simple(), dtypes, "<>"[big], source)
    return content


def _storage_spans(
    file: io.BufferedIOBase,
    keys: list[str],
    dtypes: Mapping[str, np.dtype],
    order: str,
    source: str,
) -> dict[str, tuple[int, int]]:
    """The start and size in bytes of each storage, in the order of the file."""
    end, spans = os.fstat(file.fileno()).st_size, dict[str, tuple[int, int]]()
    for key in keys:
        header = file.read(8)
        if len(header) < 8 or key not in dtypes:
            raise UserError(f"{source}: damaged: storage {key} is missing; is the file complete?")
        size = struct.unpack(f"{order}q", header)[0] * dtypes[key].itemsize
        start = file.tell()
        if size < 0 or start + size > end:
            raise UserError(f"{source}: damaged: ends within storage {key}; is the file complete?")
        spans[key] = start, size
        file.seek(size, os.SEEK_CUR)
    return spans
