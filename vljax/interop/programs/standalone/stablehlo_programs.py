"""The programs of a folder, run by jax."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


class Programs:
    """The programs and the files of weights that a folder's `export.json` lists."""

    def __init__(
        self, folder: Path, programs: Mapping[str, Any], weight_files: Sequence[str]
    ) -> None:
        arrays: dict[str, np.ndarray] = {}
        for file in weight_files:
            arrays |= _safetensors(folder / file)
        self._calls = {}
        for name, program in programs.items():
            content = (folder / program["file"]).read_bytes()
            exported = jax.export.deserialize(bytearray(content))
            weights = {key: jax.device_put(arrays[key]) for key in program["weights"]}
            self._calls[name] = functools.partial(jax.jit(exported.call), weights)

    def __call__(self, name: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """The output of a program for a batch."""
        return np.asarray(self._calls[name](inputs))


def _safetensors(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, read when they are needed."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    content = np.memmap(file, np.uint8, "r", offset=8 + length)
    return {
        name: content[slice(*entry["data_offsets"])]
        .view(_TYPES[entry["dtype"]])
        .reshape(entry["shape"])
        for name, entry in header.items()
    }
