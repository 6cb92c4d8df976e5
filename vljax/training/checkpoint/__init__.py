"""Checkpoints: save them in the background, verify them, restore them.

| file | subject |
|---|---|
| `checkpointer.py` | saving, restoring and retention for a training run |
| `manifest.py` | digests of all files; finding intact checkpoints |
| `saved_state.py` | pytrees to and from Orbax arrays |
| `storage.py` | writing, removing and free space in a workdir, local or remote |
"""

from vljax.training.checkpoint.checkpointer import Checkpointer, Restored
from vljax.training.checkpoint.manifest import (
    complete_steps,
    find_intact,
    read_file,
    step_folder,
    verify,
)
from vljax.training.checkpoint.saved_state import read_state
from vljax.training.checkpoint.storage import check_space, required_bytes

__all__ = [
    "Checkpointer",
    "Restored",
    "check_space",
    "complete_steps",
    "find_intact",
    "read_file",
    "read_state",
    "required_bytes",
    "step_folder",
    "verify",
]
