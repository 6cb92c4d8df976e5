"""The storages in a PyTorch state dict, and the tensors that are views of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from vljax.config import UserError
from vljax.interop.files.torch_pickle import Call, Global

_LEGACY_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}
_NUMPY = """float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex64
    complex128"""
_ML_DTYPES = "bfloat16 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz"
_DTYPES = {name: np.dtype(name) for name in _NUMPY.split()}
_DTYPES |= {name: np.dtype(getattr(ml_dtypes, name)) for name in _ML_DTYPES.split()}
_UNTYPED = ("torch.storage.UntypedStorage", "torch.UntypedStorage")


@dataclass(frozen=True)
class Storage:
    """A range of bytes in a file, read when a tensor needs it."""

    name: str
    """Its key in the file."""
    size: int
    """Size in bytes."""
    read: Callable[[], np.ndarray]
    """Returns the bytes as uint8, mapped from the file where possible."""
    dtype: np.dtype
    """The data type of elements; uint8 for a storage without a type."""
    big_endian: bool = False


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: a view of a storage."""

    storage: Storage
    dtype: np.dtype
    offset: int
    """The index of the first element in the storage."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """Steps along each axis, in elements of the storage."""

    def read(self) -> np.ndarray:
        """The array, read-only, with the strides that it was saved with.

        Raises:
          UserError: if the file is damaged.
        """
        data, size = self.storage.read(), self.dtype.itemsize
        if self.storage.big_endian != (sys.byteorder == "big"):
            number = size // 2 if self.dtype.kind == "c" else size
            data = data[: len(data) // number * number].reshape(-1, number)[:, ::-1].ravel()
        strides = tuple(stride * size for stride in self.strides)
        array = np.ndarray(self.shape, self.dtype, data, self.offset * size, strides)
        array.flags.writeable = False
        return array


def globals_of_state_dicts(source: str) -> dict[str, Call | None]:
    """The names that a state dict may refer to, with a replacement for each call.

    Args:
      source: the file name, for messages.
    """

    def tensor(
        storage: Storage, offset: int, shape: Any, strides: Any, *_: Any, dtype: Any = None
    ) -> StoredTensor:
        kind = storage.dtype if dtype is None else dtype
        view = StoredTensor(storage, kind, int(offset), tuple(shape), tuple(strides))
        _check_bounds(view, source)
        return view

    def typed_later(
        storage: Storage, offset: int, shape: Any, strides: Any, grad: Any, hooks: Any, kind: Global
    ) -> StoredTensor:
        return tensor(storage, offset, shape, strides, dtype=_DTYPES[kind.name])

    def of_type(function: Global, kind: Any, arguments: tuple[Any, ...], state: Any) -> Any:
        call = known[str(function)]
        if call is None:
            raise UserError(f"{source}: calls {function}, which does not make a tensor")
        return call(*arguments)

    known: dict[str, Call | None] = {
        "collections.OrderedDict": lambda items=(): dict(items),
        "torch.Size": lambda sizes=(): tuple(sizes),
        "torch.device": lambda *_: None,
        "torch._utils._rebuild_tensor": tensor,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_tensor_v3": typed_later,
        "torch._utils._rebuild_parameter": lambda data, *_: data,
        "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
        "torch._tensor._rebuild_from_type_v2": of_type,
    }
    values = ["torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"]
    values += [f"torch.{name}" for name in (*_LEGACY_STORAGES, *_DTYPES)]
    return known | dict.fromkeys((*values, *_UNTYPED))


def storage_dtype(kind: Any, source: str) -> np.dtype:
    """The element type of a storage class. Raises UserError if it is unknown."""
    name = str(kind)
    if name in _UNTYPED:
        return np.dtype(np.uint8)
    if name.removeprefix("torch.") not in _LEGACY_STORAGES:
        raise UserError(f"{source}: cannot read storages of type {name}")
    return np.dtype(_LEGACY_STORAGES[name.removeprefix("torch.")])


def _check_bounds(view: StoredTensor, source: str) -> None:
    """Raises UserError if a view reaches past its storage, into memory that is not its own."""
    shape, strides = view.shape, view.strides
    numbers = [view.offset, *shape, *strides]
    if len(shape) != len(strides) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise UserError(f"{source}: damaged: a tensor of shape {shape} and strides {strides}")
    last = view.offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if 0 not in shape and (last + 1) * view.dtype.itemsize > view.storage.size:
        where = f"storage {view.storage.name} of {view.storage.size} bytes"
        raise UserError(f"{source}: damaged: a tensor reaches past the end of {where}")
