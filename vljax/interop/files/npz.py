"""npz files, read and written one array at a time.

`np.savez` needs all arrays in memory at once, and `np.load` reads an array to tell its shape.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vljax.config import UserError
from vljax.interop.files.safetensors import Progress
from vljax.interop.files.tensors import FLOATS, Lazy


@dataclass(frozen=True)
class NpzTensor:
    """An array in an npz file."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self) -> np.ndarray:
        try:
            with np.load(self.file) as opened:
                array: np.ndarray = opened[self.name]
        except Exception as error:  # as in `read_npz`
            raise UserError(f"{self.file}: {self.name!r} cannot be read ({error})") from error
        return array.view(self.dtype)


def read_npz(file: Path) -> dict[str, NpzTensor]:
    """The arrays of an npz file by name. No array is read yet.

    Raises:
      UserError: if the file is damaged, is not an npz file, or holds pickled objects.
    """
    tensors = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                member = info.filename
                with archive.open(member) as opened:
                    version = np.lib.format.read_magic(opened)
                    read = {
                        (1, 0): np.lib.format.read_array_header_1_0,
                        (2, 0): np.lib.format.read_array_header_2_0,
                    }[version]
                    shape, _, dtype = read(opened)
                size = math.prod(shape) * dtype.itemsize
                if size > info.file_size:  # NumPy would allocate it before it reads
                    raise ValueError(f"{member}: {size:,} bytes in {info.file_size:,}")
                # NumPy stores bfloat16 as nameless values of two bytes (V2).
                dtype = FLOATS["bfloat16"] if dtype == np.dtype("V2") else dtype
                name = member.removesuffix(".npy")
                tensors[name] = NpzTensor(file, name, shape, dtype)
    # For files that are damaged, encrypted or compressed in another way, zipfile and NumPy raise
    # exceptions of many types: ValueError, EOFError, zlib.error, tokenize.TokenError, ...
    except Exception as error:
        raise UserError(f"{file}: not an intact npz file ({error})") from error
    return tensors


def write_npz(file: Path, tensors: Mapping[str, Lazy], progress: Progress) -> None:
    """Writes an uncompressed npz file, holding one array in memory at a time.

    Raises:
      UserError: for bfloat16, which NumPy cannot store under its name.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, tensor in tensors.items():
            if tensor.dtype == FLOATS["bfloat16"]:
                raise UserError("--dtype: NumPy has no bfloat16; use float32 or another format")
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, tensor.read(), allow_pickle=False)
            progress(tensor.nbytes)
