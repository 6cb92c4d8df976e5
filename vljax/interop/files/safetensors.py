"""safetensors files, read and written one tensor at a time (huggingface.co/docs/safetensors).

The safetensors package reads. The writer is here, since the package's `save_file` needs all tensors
of a file in memory. A shard has up to 4 GiB, and the export of a scanned model also holds a decoded
stack of about that size. Together they are twice the largest file, and
`benchmarks/interop_memory.py` allows 1.5 times. open_clip reads only a single file, so its export
would need the whole model in memory.
The format: the length of the header, the header in JSON, and the arrays one after the other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from vljax.config import UserError
from vljax.files import parse_json, refuse_lfs_pointer
from vljax.interop.files.tensors import FLOATS, Lazy

SHARD_BYTES = 4 << 30
_CODES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_NAMES = {FLOATS[name]: code for code, name in _CODES.items()}
_NAMES |= {np.dtype(np.int8): "I8", np.dtype(np.uint8): "U8"}

AnyTensor = TypeVar("AnyTensor")

Progress = Callable[[int], None]
"""Called with the size of each array in bytes once it is written."""


@dataclass(frozen=True)
class FileTensor:
    """A tensor of a safetensors file."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self) -> np.ndarray:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.file, "numpy") as opened:
                array: np.ndarray = opened.get_tensor(self.name)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.file}: {self.name!r} cannot be read ({error})") from error
        return np.asarray(array)


def read_file(file: Path) -> dict[str, FileTensor]:
    """The tensors of a file by name. No tensor is read yet.

    Raises:
      UserError: if the file is missing, damaged, or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    refuse_lfs_pointer(file)
    tensors = {}
    try:
        with safe_open(file, "numpy") as opened:
            for name in opened.keys():  # noqa: SIM118  not a mapping
                view = opened.get_slice(name)
                code = view.get_dtype()
                dtype = FLOATS[_CODES[code]] if code in _CODES else _other(code)
                tensors[name] = FileTensor(file, name, tuple(view.get_shape()), dtype)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: not an intact safetensors file ({error})") from error
    return tensors


def _other(code: str) -> np.dtype[Any]:
    names = {"I": "int", "U": "uint"}
    if code[:1] in names and code[1:].isdigit():
        return np.dtype(names[code[0]] + code[1:])
    # Void stands for types that NumPy lacks; `check_float` refuses it by name.
    return np.dtype(bool) if code == "BOOL" else np.dtype("V1")


def read_folder(folder: Path, base: str) -> dict[str, FileTensor]:
    """The tensors of `base.safetensors`, or of the shards that `base.safetensors.index.json` lists.

    Raises:
      UserError: if neither exists, or a file is missing or damaged.
    """
    whole, index = folder / f"{base}.safetensors", folder / f"{base}.safetensors.index.json"
    if whole.exists() or not index.exists():
        return read_file(whole)
    return read_shards(index, read_file)


def read_shards(
    index: Path, read: Callable[[Path], Mapping[str, AnyTensor]]
) -> dict[str, AnyTensor]:
    """The tensors of the shards that an index lists: `model.safetensors.index.json`.

    Args:
      index: the index; its shards stand beside it.
      read: reads one shard.

    Raises:
      UserError: if the index is damaged, or a shard is missing, damaged or another one.
    """
    refuse_lfs_pointer(index)
    try:
        weight_map = dict(parse_json(index.read_bytes())["weight_map"])
        shards = {name: index.parent / Path(file).name for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index}: not an index of files of weights ({error!r})") from error
    opened = {file: read(file) for file in sorted(set(shards.values()))}
    found = {name: tensor for tensors in opened.values() for name, tensor in tensors.items()}
    misplaced = sorted(name for name, file in shards.items() if name not in opened[file])
    if misplaced:
        name = misplaced[0]
        raise UserError(f"{index}: {shards[name].name} does not hold {name!r}")
    return found


def write_folder(
    folder: Path,
    base: str,
    tensors: Mapping[str, Lazy],
    progress: Progress,
    shard_bytes: int | None = None,
) -> list[Path]:
    """Writes tensors to one file, or to shards with an index, with one tensor in memory at a time.

    Args:
      folder: the folder to write into.
      base: the file name without its ending; shards are `base-00001-of-00003.safetensors`.
      tensors: by name, in the order to write them in.
      progress: called after each tensor.
      shard_bytes: the maximum size of a file with more than one tensor; None for no limit.

    Returns:
      The files that hold tensors.
    """
    shards = _shards(tensors, shard_bytes)
    if len(shards) == 1:
        files = [folder / f"{base}.safetensors"]
    else:
        count = len(shards)
        names = (f"{base}-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1))
        files = [folder / name for name in names]
        in_file = {name: f.name for f, shard in zip(files, shards, strict=True) for name in shard}
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": in_file}
        (folder / f"{base}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    for file, shard in zip(files, shards, strict=True):
        with file.open("wb") as out:
            _write(out, shard, progress)
    return files


def _shards(tensors: Mapping[str, Lazy], limit: int | None) -> list[dict[str, Lazy]]:
    shards: list[dict[str, Lazy]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if limit is not None and shards[-1] and filled + tensor.nbytes > limit:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.nbytes
    return shards


def _write(out: BinaryIO, tensors: Mapping[str, Lazy], progress: Progress) -> None:
    # transformers refuses to load a file without this entry.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.nbytes
        code, shape = _NAMES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays are aligned
    out.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        # As bytes, since the buffer protocol has no bfloat16.
        out.write(tensor.read().reshape(-1).view(np.uint8).data)
        progress(tensor.nbytes)
    out.flush()
    os.fsync(out.fileno())
