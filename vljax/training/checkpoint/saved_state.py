"""Pytrees to and from the arrays that Orbax stores in a checkpoint.

Orbax gets nested dicts with the names of the leaves. So its own tools can read the folder, and
replacing a container (a dict by a dataclass) changes no file. To import Orbax takes a tenth of the
time of all imports, so the functions that need it do.
"""

from __future__ import annotations

import functools
import logging
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from vljax.config import UserError
from vljax.training.checkpoint import storage

_SHOWN = 6


def to_nested(tree: Any) -> dict[str, Any]:
    """The leaves of any pytree as nested dicts, `{"params": {"head": {"bias": leaf}}}`.

    Orbax cannot store arrays without elements: they are left out here and recreated on restore.

    Raises:
      ValueError: if two leaves have the same path in dotted form.
    """
    nested: dict[str, Any] = {}
    seen: set[str] = set()
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        *parents, name = _names(keys)
        # Orbax joins names with dots, so `{"a.b": x}` and `{"a": {"b": x}}` would collide.
        if (dotted := ".".join((*parents, name))) in seen:
            raise ValueError(f"two leaves of the state are named {dotted!r}")
        seen.add(dotted)
        if leaf.size == 0:
            continue
        folder = nested
        for parent in parents:
            folder = folder.setdefault(parent, {})
        folder[name] = leaf
    return nested


def shapes(folder: epath.PathLike) -> dict[str, Any]:
    """The shapes of the saved arrays: nested dicts of `jax.ShapeDtypeStruct`, not sharded."""
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.metadata(_arrays(folder)).item_metadata.tree
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), tree)


def read_state(folder: epath.PathLike, target: Any, *, partial: bool = False) -> Any:
    """The saved arrays in the structure and with the shardings of `target`.

    Does not check digests, see `manifest.verify`.

    Args:
      folder: the folder of an intact checkpoint.
      target: pytree of `jax.ShapeDtypeStruct`; one without sharding goes to the first device.
      partial: whether the checkpoint may hold more arrays than the target; they are not read.

    Raises:
      UserError: if names, shapes or dtypes differ; lists the first few.
    """
    target = jax.tree.map(_with_sharding, target)
    wanted = to_nested(target)
    _check(folder, shapes(folder), wanted, partial)
    read = _read(folder, wanted) if wanted else {}
    return jax.tree_util.tree_map_with_path(lambda keys, leaf: _leaf(read, keys, leaf), target)


def _read(folder: epath.PathLike, wanted: dict[str, Any]) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    arguments = ocp.args.PyTreeRestore(
        item=wanted,
        restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
        partial_restore=True,
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        read: dict[str, Any] = reader.restore(_arrays(folder), args=arguments)
    return read


def _arrays(folder: epath.PathLike) -> epath.Path:
    return storage.absolute(folder) / "state"


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _leaf(read: Any, keys: Any, target: jax.ShapeDtypeStruct) -> Any:
    if target.size == 0:
        return jnp.zeros(target.shape, target.dtype, device=target.sharding)
    for name in _names(keys):
        read = read[name]
    return read


def _names(keys: Any) -> list[str]:
    return [jax.tree_util.keystr((key,), simple=True) for key in keys]


def _described(nested: dict[str, Any]) -> dict[str, str]:
    return {
        "/".join(_names(keys)): f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
        for keys, leaf in jax.tree_util.tree_leaves_with_path(nested)
    }


def _check(folder: epath.PathLike, saved: Any, wanted: Any, partial: bool) -> None:
    """Raises UserError if the trees differ.

    Orbax casts to another dtype silently and its errors about other trees are hard to read.
    """
    found, expected = _described(saved), _described(wanted)
    lines = []
    for path in sorted(expected.keys() if partial else found.keys() | expected.keys()):
        if found.get(path) != expected.get(path):
            lines += [f"- {path} {found[path]}"] if path in found else []
            lines += [f"+ {path} {expected[path]}"] if path in expected else []
    if lines:
        more = f", and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise UserError(
            f"checkpoint {folder} does not fit (- in the checkpoint, + expected):"
            f" {', '.join(lines[:_SHOWN])}{more}; use the recipe it was saved with, or another"
            " workdir"
        )


# --- Log filters for failed saves -----------------------------------------------------------------
# When a save fails, Orbax prints tracebacks by itself. The checkpointer raises the same error as
# one line, with Orbax's error as its `__cause__`, so these would only bury it.


@functools.cache
def silence_orbax() -> None:
    """Installs filters that drop Orbax's own tracebacks, once per process."""
    logging.getLogger("absl").addFilter(_is_not_orbax_traceback)
    logging.getLogger("asyncio").addFilter(_is_not_orbax_task)
    # After a failed save, Orbax leaves coroutines that were never awaited; vljax uses none.
    never_awaited = "coroutine '.*' was never awaited"
    warnings.filterwarnings("ignore", message=never_awaited, category=RuntimeWarning)
    sys.unraisablehook = functools.partial(_ignore_closed_loops, sys.unraisablehook)


def _is_not_orbax_traceback(record: logging.LogRecord) -> bool:
    return not (record.exc_info and "orbax" in record.pathname)


def _is_not_orbax_task(record: logging.LogRecord) -> bool:
    # Orbax stops waiting at the first of several failed writes; asyncio reports the others when
    # their tasks are garbage-collected.
    trace = record.exc_info[2] if record.exc_info else None
    files = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace))
    return not any("orbax" in file for file in files)


def _ignore_closed_loops(inner: Callable[[Any], object], unraisable: Any) -> None:
    # When several writes fail, Orbax closes its event loop after the first; the callbacks of
    # TensorStore for the later ones then fail, and nothing waits for them.
    if str(unraisable.exc_value) != "Event loop is closed":
        inner(unraisable)
