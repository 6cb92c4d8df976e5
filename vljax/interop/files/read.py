"""Reads the arrays of a weights file of any known kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vljax.config import UserError, suggest
from vljax.interop.files.npz import read_npz
from vljax.interop.files.safetensors import read_file
from vljax.interop.files.tensors import Tensor
from vljax.interop.files.torch import state_dict

_TORCH = (".pth", ".pt", ".bin")


def split_path(path: str) -> tuple[Path, str | None]:
    """The file, and the part after a colon: `siglip.npz:img` is (`siglip.npz`, `img`).

    Raises:
      UserError: for a URL.
    """
    if "://" in path:
        raise UserError(f"{path}: copy it to a local disk first")
    whole = Path(path).expanduser()
    name, colon, part = path.rpartition(":")
    if whole.exists() or not colon or not name:
        return whole, None
    return Path(name).expanduser(), part


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
    """
    file, part = split_path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if file.suffix in _TORCH:
        return state_dict(file, part)
    if file.suffix == ".npz":
        return _subtree(read_npz(file), part, "/", file)
    if file.suffix == ".safetensors":
        return _subtree(read_file(file), part, ".", file)
    known = ", ".join((".safetensors", ".npz", *_TORCH))
    raise UserError(f"{file}: unknown kind of file; known: {known}")


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
