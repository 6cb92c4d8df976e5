"""The graphs of a folder, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class Programs:
    """The graphs that a folder's `export.json` lists. A graph names its file of weights itself."""

    def __init__(self, folder: Path, programs: Mapping[str, Any], _: Sequence[str]) -> None:
        self._sessions = {
            name: onnxruntime.InferenceSession(str(folder / program["file"]))
            for name, program in programs.items()
        }

    def __call__(self, name: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """The output of a program for a batch."""
        return np.asarray(self._sessions[name].run(None, inputs)[0])
