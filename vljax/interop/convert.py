"""`import_model` makes a vljax checkpoint of a foreign model; `export_model` does the reverse.

`interpolate_models` makes one of a model and its fine-tuned version.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from vljax import config
from vljax.config import UserError
from vljax.data.tokenizers import Clip
from vljax.interop import plain
from vljax.interop.checkpoints import read_trained, write_parameters
from vljax.interop.export_plan import plan_export
from vljax.interop.files.tensors import FLOATS, Lazy, Tensor, listed
from vljax.interop.formats import check_accepted, find_format
from vljax.interop.initial import (
    embedding_differences,
    function_differences,
    read_source,
    stored_tokenizers,
)
from vljax.interop.mapped_model import read_model, with_scan
from vljax.interop.mapping import Pair, to_foreign
from vljax.interop.new_folder import new_folder
from vljax.interop.plain import without_paths
from vljax.interop.quantized import kernels, quantized
from vljax.models.quantization.forms import FORMS
from vljax.parallel.mesh import MeshConfig, find_devices, make_mesh
from vljax.run import Prepared, Run, build_model, prepare
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
    _write_workdir(out, [source], overwrite, prepared, parameters, files, report)
    return _converted(foreign.format_title, out, mapped.pairs, parameters, foreign.notes, {})


def _write_workdir(
    out: str,
    sources: Sequence[str],
    overwrite: bool,
    prepared: Prepared,
    parameters: Mapping[str, Lazy],
    files: Mapping[str, bytes],
    report: Report,
) -> None:
    """Makes a workdir with one checkpoint, of step 0, of parameters by unrolled path."""
    with new_folder(out, *sources, overwrite=overwrite) as folder:
        step = folder / "checkpoints" / "0"
        step.mkdir(parents=True)
        write_parameters(step, parameters, _progress(parameters, report))
        for name, content in files.items():
            _write(step / name, content)
        manifest.write(epath.Path(step))
        _write(folder / "run.json", description(prepared))


def interpolate_models(
    original: str,
    finetuned: str,
    out: str,
    *,
    alpha: float = 0.5,
    overwrite: bool = False,
    report: Report,
) -> list[str]:
    """Makes a workdir whose parameters lie between those of a model and of its fine-tuned version.

    Each parameter is (1 - alpha) * original + alpha * fine-tuned: WiSE-FT (Wortsman et al. 2022,
    eq. 1). It often keeps most of the gain on the new data, and of the accuracy on other data.
    Parameters that the original lacks are those of the fine-tuned model. The arithmetic is in
    float32; the result has the data type of the fine-tuned model.

    Args:
      original: the model that was fine-tuned, as for `Run.init`.
      finetuned: a checkpoint, or a workdir for its newest intact checkpoint.
      out: the workdir to make.
      alpha: the weight of the fine-tuned model, in [0, 1].
      overwrite: whether an existing folder at `out` may be replaced.
      report: called as arrays are written.

    Returns:
      Notes for the user.

    Raises:
      UserError: if a model is damaged, they share no parameter, have other shapes or token
        embeddings for other tokenizers, or the model has batch statistics, which cannot be
        interpolated.
    """
    if not 0 <= alpha <= 1:
        raise UserError(f"--alpha: must be in [0, 1], not {alpha:g}")
    folder = checkpoint.find_intact(finetuned)
    trained, notes = read_trained(folder)
    if trained.statistics:
        kinds = ", ".join(sorted({name.partition("/")[0] for name in trained.statistics}))
        raise UserError(
            f"{folder}: has {kinds}, which do not fit interpolated parameters; models with batch"
            " statistics cannot be interpolated"
        )
    before = read_source(original, "ORIGINAL")
    other = [
        f"{path} is {list(before.arrays[path].shape)} there, {list(array.shape)} here"
        for path, array in trained.parameters.items()
        if path in before.arrays and tuple(before.arrays[path].shape) != tuple(array.shape)
    ]
    if other:
        more = f"; and {len(other) - 3} more" if len(other) > 3 else ""
        raise UserError(f"{original}: other shapes than in {folder}: {'; '.join(other[:3])}{more}")
    only = [path for path in trained.parameters if path not in before.arrays]
    if len(only) == len(trained.parameters):
        raise UserError(f"{original}: holds no parameter of {folder}; name the model before it")
    shared = [path for path in trained.parameters if path in before.arrays]
    own = stored_tokenizers(str(folder), trained.run)
    for encoder, _, why in embedding_differences(trained.run, own, before, shared):
        raise UserError(
            f"{original}: {encoder}/embedding is for another tokenizer than in {folder}: {why};"
            " name the model that it was fine-tuned from"
        )
    left = [path for path in before.arrays if path not in trained.parameters]
    notes = [*notes, *(f"{original}: {note}" for note in before.notes)]
    notes += [f"only in {finetuned}: {listed(only)}"] if only else []
    notes += [f"only in {original}, and left out: {listed(left)}"] if left else []
    notes += [
        f"{line}: the parameters compute something else; interpolating them may make no sense"
        for line in function_differences(before.run, trained.run)
    ]
    optim = replace(trained.run.optim, ema_decay=None)
    groups = {
        name: replace(group, optim=group.optim and replace(group.optim, ema_decay=None))
        for name, group in trained.run.groups.items()
    }
    run = replace(with_scan(trained.run, False), optim=optim, groups=groups, workdir=None)
    parameters = {
        path: array if path in only else _between(before.arrays[path], array, alpha)
        for path, array in trained.parameters.items()
    }
    anywhere = replace(without_paths(run), mesh=MeshConfig(1, 1, 1), attention="auto")
    prepared = prepare(anywhere, find_devices()[:1])
    files = {**plain.files(trained), plain.RECIPE: config.to_json(run).encode()}
    lazy = {
        path: Lazy(tuple(array.shape), array.dtype, array.read)
        for path, array in parameters.items()
    }
    _write_workdir(out, [original, finetuned], overwrite, prepared, lazy, files, report)
    return notes


def _between(original: Tensor, finetuned: Tensor, alpha: float) -> Lazy:
    def make() -> np.ndarray:
        start, end = (tensor.read().astype(np.float32) for tensor in (original, finetuned))
        # Arithmetic makes a NumPy scalar of the temperature, which has no axes.
        return np.asarray((1 - alpha) * start + alpha * end).astype(finetuned.dtype)

    return Lazy(tuple(finetuned.shape), finetuned.dtype, make)


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
      ExportRefused: for what the format cannot express, see `plan_export`.
    """
    chosen = find_format(format_name)
    check_accepted(accept)
    if quantize is not None and format_name != _QUANTIZED_FORMAT:
        raise UserError(
            f"--quantize: {format_name} has no quantized weights; use --format {_QUANTIZED_FORMAT}"
        )
    folder = checkpoint.find_intact(path)
    trained, notes = read_trained(folder, vocabulary=vocabulary, dtype=dtype, quantize=quantize)
    if vocabulary is not None:
        config = trained.tokenizer_config
        if not (isinstance(config, Clip) and chosen.takes_vocabulary):
            raise UserError(
                f"--tokenizer: {format_name} does not use it with the tokenizer {config.type_name}"
            )
    plan, pairs, advice = plan_export(trained, format_name, accept)
    own = {**trained.parameters, **trained.statistics}
    arrays = to_foreign(pairs, own, FLOATS[dtype])
    changes: dict[str, str] = {}
    if quantize is not None:
        model = build_model(trained.run, make_mesh(MeshConfig(1, 1, 1), find_devices()[:1]))
        inputs = kernels(model)
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
