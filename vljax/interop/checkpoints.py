"""vljax checkpoints, one array at a time: read for export, written by import."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from vljax.config import UserError
from vljax.data.tokenizers import load_tokenizer
from vljax.interop.export_plan import TrainedModel
from vljax.interop.files.safetensors import Progress
from vljax.interop.files.tensors import Lazy
from vljax.models.parameters import canonical_paths, leaves
from vljax.training import checkpoint
from vljax.training.checkpoint import manifest, saved_state, storage
from vljax.workdir import FORMAT_VERSION, decode_recipe, tokenizer_folder

_CACHE_BYTES = 2**31


@dataclass(frozen=True)
class CheckpointArray:
    """An array in a checkpoint; for a scanned stack, the part of one layer."""

    state: epath.Path
    """The folder of arrays in the checkpoint."""
    keys: tuple[str, ...]
    """The array's path in the saved tree."""
    layer: int | None
    """The index of the layer in a scanned stack; None if the array is not stacked."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self) -> np.ndarray:
        import tensorstore

        local = storage.is_local(self.state)
        base = {"driver": "file", "path": f"{self.state}/"} if local else f"{self.state}/"
        # Orbax can only restore whole arrays, and a scanned stack may be as large as the model.
        # tensorstore reads one layer; its cache keeps the decoded stack for the next layers.
        context = _tensorstore_context()
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
def _tensorstore_context() -> Any:
    import tensorstore

    return tensorstore.Context({"cache_pool": {"total_bytes_limit": _CACHE_BYTES}})


def read_trained(
    folder: epath.Path,
    *,
    vocabulary: str | None = None,
    dtype: str = "float32",
    quantize: str | None = None,
) -> tuple[TrainedModel, list[str]]:
    """The model of an intact checkpoint, and notes for the user. No array is read yet.

    Args:
      folder: the checkpoint (`W/checkpoints/STEP`).
      vocabulary: see `TrainedModel`, like `dtype` and `quantize`.
      dtype: the data type to export.
      quantize: how to quantize.

    Raises:
      UserError: if another version of vljax wrote the checkpoint.
    """
    environment = json.loads(checkpoint.read_file(folder, "environment.json"))
    if environment["format_version"] != FORMAT_VERSION:
        found = environment["format_version"]
        raise UserError(f"{folder}: format {found}, this version of vljax reads {FORMAT_VERSION}")
    recipe = json.loads(checkpoint.read_file(folder, "recipe.json"))
    saved = saved_state.shapes(folder)
    averages = _arrays(folder, "average", saved)
    parameters = {**_arrays(folder, "params", saved), **averages}
    notes = []
    if averages:
        notes.append(f"{len(averages)} of {len(parameters)} arrays are moving averages (EMA)")
    names = [name for name in manifest.file_names(folder) if not name.startswith("state/")]
    run = decode_recipe(recipe, f"{folder}/recipe.json")
    main = run.data.main_tokenizer
    has_tokenizer = main in run.data.tokenizers
    trained = TrainedModel(
        run=run,
        tokenizer=load_tokenizer(str(folder / tokenizer_folder(main))) if has_tokenizer else None,
        parameters=parameters,
        statistics=_arrays(folder, "state", saved),
        files={name: checkpoint.read_file(folder, name) for name in names},
        vocabulary=None if vocabulary is None else Path(vocabulary),
        dtype=dtype,
        step=int(folder.name),
        quantize=quantize,
    )
    return trained, notes


def _arrays(folder: epath.Path, kind: str, saved: Mapping[str, Any]) -> dict[str, CheckpointArray]:
    """The arrays of one part of the saved state (`params`, `average`, `state`) by unrolled path."""
    found: dict[str, CheckpointArray] = {}
    for keys, leaf in leaves(saved.get(kind, {})):
        paths = canonical_paths(keys, leaf.shape)
        scanned = paths != ["/".join(keys)]
        shape = tuple(leaf.shape[1:] if scanned else leaf.shape)
        for i, path in enumerate(paths):
            found[path] = CheckpointArray(
                folder / "state",
                (kind, *keys),
                i if scanned else None,
                shape,
                np.dtype(leaf.dtype),
            )
    return found


def write_parameters(folder: Path, arrays: Mapping[str, Lazy], progress: Progress) -> None:
    """Writes parameters to `folder/state`, with one array in memory at a time.

    The state is like that of a run without an optimizer.

    Args:
      folder: the checkpoint to complete.
      arrays: parameters by path.
      progress: called after each array.
    """
    import orbax.checkpoint as ocp  # see saved_state

    class LazyHandler(ocp.type_handlers.NumpyHandler):
        """Makes and writes one array after the other. Orbax's own handler holds all at once."""

        async def serialize(
            self, values: Sequence[Any], infos: Sequence[Any], args: Sequence[Any] | None = None
        ) -> Sequence[Any]:
            for value, info, arg in zip(
                values, infos, args or [ocp.SaveArgs()] * len(values), strict=True
            ):
                for written in await super().serialize([value.read()], [info], [arg]):
                    written.result()
                progress(value.nbytes)
            return []

    tree: dict[str, Any] = {}
    for path, value in arrays.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    saved_state.silence_orbax()
    types = ocp.type_handlers.create_type_handler_registry(
        (Lazy, LazyHandler(deepcopy_host_arrays=False)),
        (jax.Array, ocp.type_handlers.ArrayHandler()),
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=types)
    with ocp.Checkpointer(handler) as writer:
        writer.save(epath.Path(folder) / "state", args=ocp.args.PyTreeSave({"params": tree}))
