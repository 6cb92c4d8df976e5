"""An npz file of the parameters under our own unrolled names, and all that goes with them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vljax.config import UserError
from vljax.interop import plain
from vljax.interop.export_issues import Losses
from vljax.interop.format import Format, Reading, Trained, Writing
from vljax.interop.safetensors_files import Progress
from vljax.interop.tensors import FLOATS, Lazy

NAME = "parameters.npz"

# What zipfile and NumPy raise for damaged, encrypted and otherwise compressed files.
_DAMAGED = (
    ValueError,
    OSError,
    KeyError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


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
        except _DAMAGED as error:
            raise UserError(f"{self.file}: {self.name!r} cannot be read ({error})") from error
        return array.view(self.dtype)


def read_npz(file: Path) -> dict[str, NpzTensor]:
    """The arrays of an npz file; none is read yet. Two nameless bytes are taken as bfloat16.

    Raises:
      UserError: if it is no intact npz file, or holds pickled objects.
    """
    tensors = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.namelist():
                with archive.open(member) as opened:
                    version = np.lib.format.read_magic(opened)
                    read = {
                        (1, 0): np.lib.format.read_array_header_1_0,
                        (2, 0): np.lib.format.read_array_header_2_0,
                    }[version]
                    shape, _, dtype = read(opened)
                # NumPy writes a type that it does not know by its size alone.
                dtype = FLOATS["bfloat16"] if dtype == np.dtype("V2") else dtype
                name = member.removesuffix(".npy")
                tensors[name] = NpzTensor(file, name, shape, dtype)
    except _DAMAGED as error:
        raise UserError(f"{file}: no intact npz file ({error})") from error
    return tensors


def _write_npz(out: Path, tensors: Mapping[str, Lazy], progress: Progress) -> Sequence[Path]:
    file = out / NAME
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, tensor in tensors.items():
            if tensor.dtype == FLOATS["bfloat16"]:
                raise UserError("--dtype: NumPy has no bfloat16; use float32 or another format")
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, tensor.read(), allow_pickle=False)
            progress(tensor.nbytes)
    return [file]


def _recognises(path: Path) -> bool:
    return plain.recognises(path) and (path / NAME).exists()


def _read(folder: Path) -> Reading:
    return plain.read(folder, read_npz(folder / NAME))


def _write(trained: Trained, losses: Losses) -> Writing:
    return Writing(plain.rules(trained.parameters), plain.files(trained), _write_npz)


FORMAT = Format("a folder with parameters.npz of vljax", _recognises, _read, _write)
