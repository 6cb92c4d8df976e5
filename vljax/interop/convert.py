"""`import_model` makes a vljax checkpoint of a foreign model; `export_model` does the reverse."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from vljax.config import UserError
from vljax.data.tokenizers import Clip
from vljax.interop.checkpoints import read_trained, write_parameters
from vljax.interop.export_plan import plan_export
from vljax.interop.files.tensors import FLOATS, Lazy
from vljax.interop.formats import check_accepted, find_format
from vljax.interop.mapped_model import read_model
from vljax.interop.mapping import Pair, to_foreign
from vljax.interop.new_folder import new_folder
from vljax.interop.quantized import kernels, quantized
from vljax.models.quantization.forms import FORMS
from vljax.parallel.mesh import MeshConfig, find_devices, make_mesh
from vljax.run import Run, build_model
from vljax.training import checkpoint
from vljax.training.checkpoint import manifest
from vljax.workdir import description, model_files

_QUANTIZED_FORMAT = "safetensors"

Report = Callable[[int, int], None]
"""Called with the number of bytes written so far, and the total."""


class Row(NamedTuple):
    """A line of the table of mapped arrays."""

    own: tuple[str, ...]
    """Our parameters."""
    foreign: str
    """The foreign array."""
    shape: tuple[int, ...]
    """The shape of the foreign array."""
    change: str
    """How the layout changes, or how a kernel is quantized."""


@dataclass(frozen=True)
class Converted:
    """The result of an import or export."""

    format_title: str
    """The foreign format."""
    out: str
    """The folder that was made."""
    rows: Sequence[Row]
    """The mapped arrays."""
    parameters: int
    """The number of parameters."""
    nbytes: int
    """The size of the written arrays in bytes."""
    notes: Sequence[str]
    """What the user should know."""

    def as_dict(self) -> dict[str, Any]:
        """The result as data for `--json`."""
        return {
            "format": self.format_title,
            "out": self.out,
            "parameters": self.parameters,
            "bytes": self.nbytes,
            "notes": list(self.notes),
            "mapped": [row._asdict() for row in self.rows],
        }


def import_model(
    source: str, out: str, *, recipe: Run | None = None, overwrite: bool, report: Report
) -> Converted:
    """Makes a workdir with one checkpoint, of step 0, from a foreign model.

    Args:
      source: a folder of a foreign format, or a file of weights.
      out: the workdir to make.
      recipe: the model, preprocessing and tokenizer that belong to a file of weights.
      overwrite: whether an existing folder at `out` may be replaced.
      report: called as arrays are written.

    Raises:
      UserError: if the source is damaged or incomplete, or vljax has no such model.
    """
    mapped = read_model(source, recipe)
    prepared, foreign, parameters = mapped.prepared, mapped.foreign, mapped.parameters
    files = model_files(prepared, {prepared.run.data.main_tokenizer: foreign.tokenizer})
    files |= foreign.files
    with new_folder(out, source, overwrite=overwrite) as folder:
        step = folder / "checkpoints" / "0"
        step.mkdir(parents=True)
        write_parameters(step, parameters, _progress(parameters, report))
        for name, content in files.items():
            _write(step / name, content)
        manifest.write(epath.Path(step))
        _write(folder / "run.json", description(prepared))
    return _converted(foreign.format_title, out, mapped.pairs, parameters, foreign.notes, {})


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
      path: a checkpoint, or a workdir for its newest intact checkpoint.
      out: the folder to make.
      format_name: a key of `formats.FORMATS`.
      dtype: the data type of the arrays, a key of `tensors.FLOATS`.
      quantize: how to quantize kernels, a key of `quantization.FORMS`; None for not at all.
      accept: export issues to accept, keys of `formats.ACCEPTABLE`.
      vocabulary: a `tokenizer.json` in place of a built-in vocabulary.
      overwrite: whether an existing folder at `out` may be replaced.
      report: called as arrays are written.

    Raises:
      UserError: if the checkpoint is damaged.
      ExportRefused: for what the format cannot express, everything at once.
    """
    chosen = find_format(format_name)
    check_accepted(accept)
    if quantize is not None and format_name != _QUANTIZED_FORMAT:
        raise UserError(
            f"--quantize: {format_name} has no quantized weights; use --format {_QUANTIZED_FORMAT}"
        )
    folder = checkpoint.find_intact(path)
    trained, notes = read_trained(folder, vocabulary=vocabulary, dtype=dtype, quantize=quantize)
    config = trained.tokenizer_config
    if vocabulary is not None and not (isinstance(config, Clip) and chosen.takes_vocabulary):
        raise UserError(
            f"--tokenizer: {format_name} does not use it with the tokenizer {config.type_name}"
        )
    plan, pairs, advice = plan_export(trained, format_name, accept)
    own = {**trained.parameters, **trained.statistics}
    arrays = to_foreign(pairs, own, FLOATS[dtype])
    changes: dict[str, str] = {}
    if quantize is not None:
        model = build_model(trained.run, make_mesh(MeshConfig(1, 1, 1), find_devices()[:1]))
        inputs = kernels(model, trained.run.model)
        arrays = quantized(arrays, trained.parameters, inputs, FORMS[quantize])
        changes = dict.fromkeys(inputs, quantize)
    with new_folder(out, path, overwrite=overwrite) as target:
        plan.write(target, arrays, _progress(arrays, report))
        for name, content in plan.files.items():
            _write(target / name, content)
    return _converted(chosen.title, out, pairs, arrays, [*notes, *advice], changes)


def _progress(arrays: Mapping[str, Lazy], report: Report) -> Callable[[int], None]:
    total, done = sum(array.nbytes for array in arrays.values()), 0

    def add(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        report(done, total)

    return add


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def _converted(
    format_title: str,
    out: str,
    pairs: Sequence[Pair],
    arrays: Mapping[str, Lazy],
    notes: Sequence[str],
    quantized_as: Mapping[str, str],
) -> Converted:
    """The result; `quantized_as` names the form of kernels that were quantized."""
    rows = [
        Row(
            one.own,
            one.foreign,
            one.foreign_shape,
            quantized_as.get(one.foreign, one.change.name),
        )
        for one in pairs
    ]
    parameters = sum(math.prod(one.foreign_shape) for one in pairs)
    nbytes = sum(array.nbytes for array in arrays.values())
    return Converted(format_title, out, rows, parameters, nbytes, notes)
