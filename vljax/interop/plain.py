"""What the formats have in common that hold our own parameters by our own names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import jax

from vljax import config
from vljax.data.tokenizers import load_tokenizer
from vljax.interop.format import Reading, Trained, read_json
from vljax.interop.mapping import Rule, rule
from vljax.interop.tensors import Tensor
from vljax.models.parameters import unrolled_shapes
from vljax.parallel.mesh import MeshConfig
from vljax.run import Prepared, Run, prepare
from vljax.workdir import decode_recipe

RECIPE, PREPROCESS, ENVIRONMENT = "recipe.json", "preprocess.json", "environment.json"


def recognises(path: Path) -> bool:
    """Whether a folder holds a recipe of ours."""
    return (path / RECIPE).is_file()


def rules(names: Iterable[str]) -> list[Rule]:
    """Each parameter under its own name."""
    return [rule(name, name) for name in names]


def files(trained: Trained) -> dict[str, bytes]:
    """What describes the model, the preprocessing and the tokenizer, as in a checkpoint."""
    kept = (RECIPE, PREPROCESS, ENVIRONMENT)
    return {
        name: content
        for name, content in trained.files.items()
        if name in kept or name.startswith("tokenizer/")
    }


def write_files(out: Path, files: Mapping[str, bytes]) -> None:
    """Writes files by their names relative to a folder."""
    for name, content in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)


def read(
    folder: Path,
    tensors: Mapping[str, Tensor],
    adapt: Callable[[Prepared], Mapping[str, Tensor]] | None = None,
) -> Reading:
    """A folder with a recipe and its parameters.

    Args:
      folder: what holds them.
      tensors: the parameters.
      adapt: makes other ones of them, once the model is known.
    """
    recipe = decode_recipe(read_json(folder / RECIPE), str(folder / RECIPE))
    # Of another machine: its paths and devices are not here.
    run = replace(without_paths(recipe), mesh=MeshConfig(1, 1, 1), attention="auto", workdir=None)
    prepared = prepare(run, jax.devices()[:1])
    shapes = unrolled_shapes(prepared.shapes.params)
    tensors = tensors if adapt is None else adapt(prepared)
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    return Reading("parameters of vljax", run, tokenizer, tensors, rules(shapes))


def without_paths(run: Run) -> Run:
    """The run with every path unset."""
    data = config.encode(run)
    for path, _ in config.paths(run):
        *parents, name = path.split(".")
        node = data
        for parent in parents:
            node = node[int(parent) if isinstance(node, list) else parent]
        node[name] = None
    unset: Run = config.decode(Run, data)
    return unset
