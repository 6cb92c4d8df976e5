"""Reads the arrays of a weights file of any known kind."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vljax.config import UserError, suggest
from vljax.files import refuse_lfs_pointer
from vljax.interop.files.npz import read_npz
from vljax.interop.files.safetensors import read_file, read_shards
from vljax.interop.files.tensors import Tensor
from vljax.interop.files.torch import state_dict
from vljax.interop.historical import current_names

_TORCH = (".pth", ".pt", ".bin")
WEIGHTS_FILES = (".safetensors", *_TORCH)


def split_path(path: str) -> tuple[Path, str | None]:
    """The file, and the part after a colon: `siglip.npz:img` is (`siglip.npz`, `img`).

    Raises:
      UserError: for a URL.
    """
    if "://" in path:
        raise UserError(f"{path}: copy it to a local disk first")
    whole = Path(os.path.expanduser(path))
    name, colon, part = path.rpartition(":")
    if os.path.exists(whole) or not colon or not name:
        return whole, None
    return Path(os.path.expanduser(name)), part


def read_tensors(path: str) -> Mapping[str, Tensor]:
    """The arrays of `FILE` or `FILE:PART` by name. No array is read yet.

    >>> import numpy as np
    >>> np.savez("weights.npz", **{"params/img/bias": np.zeros(3, np.float32)})
    >>> {name: tensor.shape for name, tensor in read_tensors("weights.npz:img").items()}
    {'bias': (3,)}

    Args:
      path: .safetensors, .npz, or a file of torch.save (.pth, .pt, .bin). A part is a subtree of
        names (`img` for `img/...`); for torch.save it is a key of the outer dictionary.

    Raises:
      UserError: if the file is missing, damaged, of another kind, or has no such part.

    Older names of PyTorch parameters become today's, see `historical`.
    """
    file, part = split_path(path)
    tensors = _stored(file, part)
    return tensors if file.suffix == ".npz" else current_names(tensors)


def _stored(file: Path, part: str | None) -> Mapping[str, Tensor]:
    """The arrays of a file under the names that it states."""
    if not os.path.isfile(file):  # also for a name that no system allows
        raise UserError(f"{file}: no such file")
    refuse_lfs_pointer(file)
    if file.suffix in _TORCH:
        return state_dict(file, part)
    if file.suffix == ".npz":
        return _subtree(read_npz(file), part, "/", file)
    if file.suffix == ".safetensors":
        return _subtree(read_file(file), part, ".", file)
    known = ", ".join((".safetensors", ".npz", *_TORCH))
    raise UserError(f"{file}: unknown kind of file; known: {known}")


def read_weights(path: Path, names: Sequence[str]) -> Mapping[str, Tensor]:
    """The arrays of a folder, from its first file of weights or its shards. None is read yet.

    Args:
      path: a folder; or a file of weights in it, which is then the one to read.
      names: file names or patterns in order of preference. A file may be split into shards, which
        `NAME.index.json` lists.

    Raises:
      UserError: if there is no such file, there are several of one pattern, or one is damaged.
    """
    if os.path.isfile(path):
        return read_tensors(str(path))
    for name in names:
        files = sorted(path.glob(name))
        if len(files) > 1:
            found = ", ".join(file.name for file in files)
            raise UserError(f"{path}: holds several files of weights ({found}); name one as SRC")
        if files:
            return read_tensors(str(files[0]))
        if (index := path / f"{name}.index.json").exists():
            # The index has the names that the shards state, so these are read before.
            return current_names(read_shards(index, lambda file: _stored(file, None)))
    raise UserError(f"{path / names[0]}: no such file, nor {' or '.join(names[1:])}")


def holder(path: Path) -> Path:
    """The folder that a source stands for: itself, or the one with a file of weights."""
    return path.parent if path.suffix in WEIGHTS_FILES and os.path.isfile(path) else path


def _subtree(
    tensors: Mapping[str, Tensor], part: str | None, separator: str, file: Path
) -> Mapping[str, Tensor]:
    """The arrays below a name at the top, or below the usual wrappers `params` and `opt/target`.

    An array with exactly that name gets the name ''.
    """
    if part is None:
        return tensors
    found = {}
    for name, tensor in tensors.items():
        before, hit, after = f"{separator}{name}{separator}".partition(
            f"{separator}{part}{separator}"
        )
        if hit and before.strip(separator) in ("", "params", "opt/target"):
            found[after.removesuffix(separator)] = tensor
    if not found:
        below = (name.removeprefix("params/").removeprefix("opt/target/") for name in tensors)
        tops = sorted({name.split(separator)[0] for name in below})
        raise UserError(f"{file}: has no part {part!r}{suggest(part, tops)}")
    return found
