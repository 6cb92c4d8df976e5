"""The parameters of vljax checkpoints, an array at a time: read for export, written by import."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from vljax.config import UserError
from vljax.interop.safetensors_files import Progress
from vljax.interop.tensors import Lazy
from vljax.models.layout import canonical_paths, leaves
from vljax.training.checkpoint import saved_state, storage

Shape = tuple[int, ...]
_CACHE_BYTES = 2**31


@dataclass(frozen=True)
class StoredParameter:
    """A parameter in a checkpoint; of a scanned stack, one layer."""

    state: epath.Path
    keys: tuple[str, ...]
    layer: int | None
    shape: Shape
    dtype: np.dtype[Any]

    def read(self) -> np.ndarray:
        import tensorstore

        local = storage.is_local(self.state)
        base = {"driver": "file", "path": f"{self.state}/"} if local else f"{self.state}/"
        # Orbax restores whole arrays into memory, and a scanned one may be as large as the model;
        # the cache keeps what was decoded of it for the next layer.
        context = _context()
        spec = {
            "driver": "zarr",
            "kvstore": {
                "driver": "ocdbt",
                "base": base,
                "path": ".".join(self.keys) + "/",
            },
        }
        try:
            array = tensorstore.open(spec, open=True, read=True, context=context).result()
            read = array if self.layer is None else array[self.layer]
            return np.asarray(read.read().result())
        except (ValueError, OSError) as error:
            path = "/".join(self.keys)
            raise UserError(f"{self.state}: {path} cannot be read ({error})") from error


@functools.cache
def _context() -> Any:
    import tensorstore

    return tensorstore.Context({"cache_pool": {"total_bytes_limit": _CACHE_BYTES}})


def parameters(folder: epath.Path) -> tuple[dict[str, StoredParameter], int]:
    """The parameters of an intact checkpoint by their unrolled paths.

    Returns:
      The parameters, averaged ones where there is an average; and how many of them are averages.
    """
    saved = saved_state.shapes(folder)
    averages = _stored(folder, "average", saved)
    return {**_stored(folder, "params", saved), **averages}, len(averages)


def statistics(folder: epath.Path) -> dict[str, StoredParameter]:
    """What a model has beside its parameters, by paths: `batch_stats/image/stem_norm/mean`."""
    return _stored(folder, "state", saved_state.shapes(folder))


def _stored(folder: epath.Path, kind: str, saved: Mapping[str, Any]) -> dict[str, StoredParameter]:
    found: dict[str, StoredParameter] = {}
    for keys, leaf in leaves(saved.get(kind, {})):
        paths = canonical_paths(keys, leaf.shape)
        scanned = paths != ["/".join(keys)]
        shape = tuple(leaf.shape[1:] if scanned else leaf.shape)
        for i, path in enumerate(paths):
            layer, place, state = i if scanned else None, (kind, *keys), folder / "state"
            found[path] = StoredParameter(state, place, layer, shape, np.dtype(leaf.dtype))
    return found


class _LazyHandler(ocp.type_handlers.NumpyHandler):
    """Makes and writes one array after the other."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(deepcopy_host_arrays=False)
        self._progress = progress

    async def serialize(
        self, values: Sequence[Any], infos: Sequence[Any], args: Sequence[Any] | None = None
    ) -> Sequence[Any]:
        for value, info, arg in zip(
            values, infos, args or [ocp.SaveArgs()] * len(values), strict=True
        ):
            for written in await super().serialize([value.read()], [info], [arg]):
                written.result()
            self._progress(value.nbytes)
        return []


def write_parameters(folder: Path, made: Mapping[str, Lazy], progress: Progress) -> None:
    """Writes `folder/state` as a run without optimizer would, holding an array at a time."""
    tree: dict[str, Any] = {}
    for path, value in made.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    saved_state.silence_orbax()
    types = ocp.type_handlers.create_type_handler_registry(
        (Lazy, _LazyHandler(progress)), (jax.Array, ocp.type_handlers.ArrayHandler())
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=types)
    with ocp.Checkpointer(handler) as writer:
        writer.save(epath.Path(folder) / "state", args=ocp.args.PyTreeSave({"params": tree}))
