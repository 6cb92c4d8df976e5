"""A foreign model becomes a vljax checkpoint, and a checkpoint a foreign model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
from etils import epath

from vljax.config import UserError, suggest
from vljax.data.tokenizers import Clip, load_tokenizer
from vljax.interop import formats, stored
from vljax.interop.export_issues import ACCEPTABLE, Losses
from vljax.interop.folders import new_folder
from vljax.interop.foreign_model import read_model
from vljax.interop.format import Format, Trained, Writing
from vljax.interop.mapping import Pair, pair, to_foreign
from vljax.interop.quantized import kernels, quantized
from vljax.interop.tensors import FLOATS, Lazy
from vljax.models.assembly import Model
from vljax.models.kernels.quantization import FORMS
from vljax.parallel.mesh import MeshConfig, make_mesh
from vljax.run import Run, build_model
from vljax.training import checkpoint
from vljax.training.checkpoint import manifest
from vljax.workdir import FORMAT_VERSION, decode_recipe, description, model_files

_QUANTIZES = "safetensors"

Report = Callable[[int, int], None]
"""Is told how many bytes are done, of how many."""


class Row(NamedTuple):
    """A line of the table of what was mapped."""

    own: tuple[str, ...]
    foreign: str
    shape: tuple[int, ...]
    """Of the foreign array."""
    change: str


@dataclass(frozen=True)
class Converted:
    """What an import or export did."""

    what: str
    """The foreign format."""
    out: str
    rows: Sequence[Row]
    parameters: int
    nbytes: int
    """Of the arrays that were written."""
    notes: Sequence[str]
    """What a person should know."""

    def as_dict(self) -> dict[str, Any]:
        """The same for programs."""
        mapped = [row._asdict() for row in self.rows]
        return {
            "format": self.what,
            "out": self.out,
            "parameters": self.parameters,
            "bytes": self.nbytes,
            "notes": list(self.notes),
            "mapped": mapped,
        }


def import_model(
    source: str, out: str, *, recipe: Run | None = None, overwrite: bool, report: Report
) -> Converted:
    """Makes the workdir `out` with one checkpoint, of step 0, of a foreign model.

    Args:
      source: see `read_model`, like `recipe`.
      out: the folder to make.
      recipe: what the model of a file of weights is.
      overwrite: whether what stands at `out` may be replaced.
      report: is told of progress.

    Raises:
      UserError: if the source is damaged, incomplete, or is something that vljax has nothing for.
    """
    mapped = read_model(source, recipe)
    prepared, made = mapped.prepared, mapped.made
    files = model_files(prepared, mapped.reading.tokenizer)
    with new_folder(out, source, overwrite=overwrite) as folder:
        step = folder / "checkpoints" / "0"
        step.mkdir(parents=True)
        stored.write_parameters(step, made, _progress(made, report))
        for name, content in files.items():
            _write(step / name, content)
        manifest.write(epath.Path(step))
        _write(folder / "run.json", description(prepared))
    reading = mapped.reading
    return _converted(reading.what, out, mapped.pairs, made, reading.notes, {})


def export_model(
    path: str,
    out: str,
    format_name: str,
    *,
    dtype: str = "float32",
    quantize: str | None = None,
    accept: Collection[str] = (),
    vocabulary: str | None = None,
    overwrite: bool = False,
    report: Report,
) -> Converted:
    """Writes a checkpoint as a folder of a foreign format.

    Args:
      path: a checkpoint, or a workdir: its newest intact one.
      out: the folder to make.
      format_name: see `formats.MODULES`.
      dtype: of the arrays, "float32" or another of `tensors.FLOATS`.
      quantize: one of `quantization.FORMS`, for kernels; None for as they are.
      accept: names of losses that are acceptable, see `expressible.ACCEPTABLE`.
      vocabulary: a `tokenizer.json` for a tokenizer whose vocabulary is built in.
      overwrite: whether what stands at `out` may be replaced.
      report: is told of progress.

    Raises:
      UserError: if the checkpoint is damaged, or holds what the format cannot express.
    """
    chosen, write = _writer(format_name, accept, quantize)
    folder = checkpoint.find_intact(path)
    trained, notes = _trained(folder, vocabulary, dtype, quantize)
    if trained.statistics and not chosen.takes_statistics:
        kinds = ", ".join(sorted({name.split("/")[0] for name in trained.statistics}))
        able = [name for name in formats.MODULES if formats.named(name).takes_statistics]
        raise UserError(
            f"{folder}: the model has state beside its parameters ({kinds}), which {format_name}"
            f" has no place for; {' and '.join(able)} have"
        )
    built_in = isinstance(trained.tokenizer.config, Clip)
    if vocabulary is not None and not (built_in and chosen.takes_vocabulary):
        raise UserError(
            f"--tokenizer: {format_name} has no use for it with the tokenizer"
            f" {trained.tokenizer.config.type_name}"
        )
    losses = Losses(format_name, accept)
    writing = write(trained, losses)
    arrays = {**trained.parameters, **trained.statistics}
    pairs = pair(writing.rules, {name: a.shape for name, a in arrays.items()}, chosen.what)
    made = to_foreign(pairs, arrays, FLOATS[dtype])
    changes: dict[str, str] = {}
    if quantize is not None:
        inputs = kernels(_model(trained), trained.run.model)
        made = quantized(made, trained.parameters, inputs, FORMS[quantize])
        changes = dict.fromkeys(inputs, quantize)
    with new_folder(out, path, overwrite=overwrite) as target:
        writing.write(target, made, _progress(made, report))
        for name, content in writing.files.items():
            _write(target / name, content)
    return _converted(chosen.what, out, pairs, made, [*notes, *losses.notes], changes)


def _writer(
    format_name: str, accept: Collection[str], quantize: str | None
) -> tuple[Format, Callable[[Trained, Losses], Writing]]:
    """A format and what writes it. Raises UserError if it does not go with the other arguments."""
    chosen = formats.named(format_name)
    for name in accept:
        if name not in ACCEPTABLE:
            raise UserError(f"--accept: unknown loss {name!r}{suggest(name, ACCEPTABLE)}")
    if quantize is not None and format_name != _QUANTIZES:
        raise UserError(f"--quantize: {format_name} has no such weights; use --format {_QUANTIZES}")
    if chosen.write is None:
        raise UserError(f"--format: vljax reads {chosen.what}, and does not write it")
    return chosen, chosen.write


def _model(trained: Trained) -> Model:
    return build_model(trained.run, make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1]))


def _trained(
    folder: epath.Path, vocabulary: str | None, dtype: str, quantize: str | None
) -> tuple[Trained, list[str]]:
    environment = json.loads(checkpoint.read_file(folder, "environment.json"))
    if environment["format_version"] != FORMAT_VERSION:
        found = environment["format_version"]
        raise UserError(f"{folder}: format {found}, this version of vljax reads {FORMAT_VERSION}")
    recipe = json.loads(checkpoint.read_file(folder, "recipe.json"))
    parameters, averages = stored.parameters(folder)
    notes = [f"{averages} of {len(parameters)} arrays are moving averages"] if averages else []
    names = [name for name in manifest.file_names(folder) if not name.startswith("state/")]
    trained = Trained(
        run=decode_recipe(recipe, f"{folder}/recipe.json"),
        tokenizer=load_tokenizer(str(folder / "tokenizer")),
        parameters=parameters,
        statistics=stored.statistics(folder),
        files={name: checkpoint.read_file(folder, name) for name in names},
        vocabulary=None if vocabulary is None else Path(vocabulary),
        dtype=dtype,
        step=int(folder.name),
        quantize=quantize,
    )
    return trained, notes


def _progress(made: Mapping[str, Lazy], report: Report) -> Callable[[int], None]:
    total, done = sum(value.nbytes for value in made.values()), 0

    def add(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        report(done, total)

    return add


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def _converted(
    what: str,
    out: str,
    pairs: Sequence[Pair],
    made: Mapping[str, Lazy],
    notes: Sequence[str],
    changes: Mapping[str, str],
) -> Converted:
    """`changes` are what was done to arrays instead of what their pairs say."""
    rows = [
        Row(one.own, one.foreign, one.foreign_shape, changes.get(one.foreign, one.change.name))
        for one in pairs
    ]
    parameters = sum(math.prod(one.foreign_shape) for one in pairs)
    nbytes = sum(value.nbytes for value in made.values())
    return Converted(what, out, rows, parameters, nbytes, notes)
