"""Reading and writing safetensors, a tensor at a time (huggingface.co/docs/safetensors).

The package reads. It writes only what is in memory as a whole, so the writer is here: the length of
the header, the header, and the arrays one after the other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vljax.config import UserError
from vljax.interop.tensors import FLOATS, Lazy, Tensor

SHARD_BYTES = 4 << 30
_CODES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_NAMES = {FLOATS[name]: code for code, name in _CODES.items()}
_NAMES |= {np.dtype(np.int8): "I8", np.dtype(np.uint8): "U8"}

Progress = Callable[[int], None]
"""Is told of each array, in bytes, once it is done."""


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
    """The tensors of a file; none is read yet.

    Raises:
      UserError: if it is no intact safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    tensors = {}
    try:
        with safe_open(file, "numpy") as opened:
            for name in opened.keys():  # noqa: SIM118  it is no mapping
                view = opened.get_slice(name)
                code = view.get_dtype()
                dtype = FLOATS[_CODES[code]] if code in _CODES else _other(code)
                tensors[name] = FileTensor(file, name, tuple(view.get_shape()), dtype)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: no intact safetensors file ({error})") from error
    return tensors


def _other(code: str) -> np.dtype[Any]:
    names = {"I": "int", "U": "uint"}
    if code[:1] in names and code[1:].isdigit():
        return np.dtype(names[code[0]] + code[1:])
    return np.dtype(bool) if code == "BOOL" else np.dtype("V1")


def read_folder(folder: Path, base: str) -> dict[str, FileTensor]:
    """The tensors of `base.safetensors`, or of the shards that `base.safetensors.index.json` lists.

    Raises:
      UserError: if neither is there, or a file is missing or damaged.
    """
    whole, index = folder / f"{base}.safetensors", folder / f"{base}.safetensors.index.json"
    if whole.exists() or not index.exists():
        return read_file(whole)
    try:
        places = dict(json.loads(index.read_text())["weight_map"])
        shards = {name: folder / Path(file).name for name, file in places.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index}: no index of safetensors files ({error!r})") from error
    opened = {file: read_file(file) for file in sorted(set(shards.values()))}
    found = {name: tensor for tensors in opened.values() for name, tensor in tensors.items()}
    astray = sorted(name for name, file in shards.items() if name not in opened[file])
    if astray:
        raise UserError(f"{index}: {shards[astray[0]].name} does not hold {astray[0]!r}")
    return found


def write_folder(
    folder: Path,
    base: str,
    tensors: Mapping[str, Lazy],
    progress: Progress,
    shard_bytes: int | None = None,
) -> list[Path]:
    """Writes tensors to one file, or to several with an index, holding one tensor at a time.

    Args:
      folder: where to.
      base: name of the file without its ending; shards are `base-00001-of-00003.safetensors`.
      tensors: by name, in the order that they are written in.
      progress: is told of what is done.
      shard_bytes: what a file holds at most, if it is more than one tensor; None for no limit.

    Returns:
      The files with tensors.
    """
    shards = _shards(tensors, shard_bytes)
    if len(shards) == 1:
        files = [folder / f"{base}.safetensors"]
    else:
        count = len(shards)
        names = (f"{base}-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1))
        files = [folder / name for name in names]
        places = {name: f.name for f, shard in zip(files, shards, strict=True) for name in shard}
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
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
        _write_array(out, tensor)
        progress(tensor.nbytes)
    out.flush()
    os.fsync(out.fileno())


def _write_array(out: BinaryIO, tensor: Tensor) -> None:
    # As bytes: neither the buffer protocol nor files know bfloat16.
    out.write(tensor.read().reshape(-1).view(np.uint8).data)
