"""Scores of finished models: kept on disk part by part, with intervals, and compared.

A task of a model is measured by its evaluator, as in training. With a folder, the outputs of each
batch are kept until the task is done, and its scores for good, so that an interrupted evaluation
goes on where it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import ml_dtypes
import numpy as np

from vljax import __version__
from vljax.config import UserError, encode
from vljax.data.pipeline.batches import Batches
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.data.records import Progress, Source
from vljax.evaluation.evaluator import EvaluationData
from vljax.evaluation.metrics.uncertainty import Interval, Sampled, difference, interval
from vljax.evaluation.predictor import Batch, CountingPredictor, Predictor
from vljax.files import atomic_file
from vljax.inference import EvaluationTask, Loaded
from vljax.interop.initial import digest_of

_VALID = "valid"


@dataclass(frozen=True)
class Score:
    """The metrics of a model in one task."""

    task: str
    """What the full names of the metrics begin with."""
    dataset: str
    """The data set and its split, DATASET/SPLIT; a published set by its name."""
    metrics: Mapping[str, float]
    """By name; a metric of single examples is a `Sampled`."""

    @functools.cached_property
    def intervals(self) -> dict[str, Interval]:
        """The 95 % bootstrap intervals of the metrics that have values of several examples."""
        found = {
            name: interval(value)
            for name, value in self.metrics.items()
            if isinstance(value, Sampled)
        }
        return {name: each for name, each in found.items() if each is not None}

    def as_json(self) -> dict[str, Any]:
        """The score as strict JSON data: a number that is not finite is null."""
        intervals, metrics = self.intervals, dict[str, Any]()
        for name, value in self.metrics.items():
            metrics[name] = {"value": float(value) if math.isfinite(value) else None}
            if name in intervals:
                metrics[name] |= {"low": intervals[name].low, "high": intervals[name].high}
        return {"task": self.task, "dataset": self.dataset, "metrics": metrics}


def compare(first: Score, second: Score) -> dict[str, Interval]:
    """How much more the second model scores, with paired 95 % bootstrap intervals.

    Only metrics of single examples are compared.

    Raises:
      UserError: if the scores are not of the same task and examples.
    """
    if (first.task, first.dataset) != (second.task, second.dataset):
        raise UserError(
            f"{second.task} on {second.dataset} cannot be compared with {first.task} on"
            f" {first.dataset}"
        )
    found = {}
    for name, value in first.metrics.items():
        other = second.metrics.get(name)
        if isinstance(value, Sampled) and isinstance(other, Sampled):
            try:
                change = difference(value, other)
            except UserError as error:
                raise UserError(f"{first.task}/{name}: {error}") from error
            if change is not None:
                found[name] = change
    return found


def measure(
    model: Loaded,
    tasks: Sequence[EvaluationTask],
    report: Progress,
    *,
    path: str | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> list[Score]:
    """The scores of a model, in the order of the tasks.

    Args:
      model: the model.
      tasks: of `model.tasks` or `model.recipe_tasks`.
      report: called after each batch with the number of rows and their total.
      path: where the model was loaded from; needed for a folder.
      folder: where to keep what is finished; tasks of the same model, data and settings that are
        there already are not measured again. None keeps nothing.

    Raises:
      UserError: if a task cannot be measured, or the folder cannot be written.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="vljax-eval-") as made:
            return _measure(model, tasks, report, None, Path(made))
    if path is None:
        raise ValueError("a folder needs the path of the model")
    digest = digest_of(path)
    if digest is None:
        raise UserError(
            f"{path}: its files cannot be compared with those of kept results; leave out --out, or"
            " copy the model to a local folder"
        )
    return _measure(model, tasks, report, digest, Path(folder))


def _measure(
    model: Loaded,
    tasks: Sequence[EvaluationTask],
    report: Progress,
    digest: str | None,
    folder: Path,
) -> list[Score]:
    total = sum(task.evaluator.inputs(task.data) for task in tasks)
    counting, found = CountingPredictor(model.predictor, total, report), []
    for task in tasks:
        kept = _KeptScore(folder, task, digest, model)
        score = kept.read()
        if score is None:
            size = task.evaluator.batch_size

            def open_outputs(examples: EvaluationSet, size: int = size) -> _KeptOutputs:
                return _KeptOutputs(folder / PARTS, examples, digest, model, size)

            whole = _KeptData(task.data, open_outputs)
            predictor = _KeptPredictor(counting, whole.kept)
            score = _measured(task, predictor, cast(EvaluationData, whole))
            kept.write(score)
        else:
            counting.add(task.evaluator.inputs(task.data))
        found.append(score)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    return found


def _measured(task: EvaluationTask, predictor: Predictor, data: EvaluationData) -> Score:
    source = task.evaluator.source
    try:
        metrics = task.evaluator.measure(predictor, data)
    except UserError as error:
        raise UserError(f"{task.name}: {error}") from error
    dataset = task.dataset or f"{source.dataset}/{source.split_name}"
    return Score(task.name, dataset, metrics)


# --- What is kept ---


PARTS = "parts"
"""The folder of outputs of batches; it is removed when all tasks are finished."""


def _key(examples: EvaluationSet, digest: str | None, model: Loaded) -> dict[str, Any]:
    """What the outputs of the model on a data set depend on."""
    return {
        "version": __version__,
        "model": digest,
        "step": model.step,  # a run in progress may have saved another checkpoint since
        "precision": encode(model.run.precision),
        "data": examples.records.identity,
        "transforms": [encode(t) for t in examples.data.eval_transforms],
    }


def _digest(known: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


class _KeptScore:
    """The finished score of a task in a folder.

    `TASK.json` has the metrics, `TASK.npz` the values of the examples. Both say by `key` what they
    are of; files of another key count as absent and are replaced.
    """

    def __init__(self, folder: Path, task: EvaluationTask, digest: str | None, model: Loaded):
        evaluator = dataclasses.replace(task.evaluator, batch_size=1)  # no part of the result
        about = {
            "evaluator": encode(evaluator),
            "class_names": task.data.class_names,
            "others": {
                field: task.data.other(source).records.identity
                for field, source in evaluator.sources.items()
                if field != "source"
            },
        }
        self.key = _digest(_key(task.data, digest, model) | about)
        name = task.name.replace("/", ".")
        self._json, self._npz = folder / f"{name}.json", folder / f"{name}.npz"
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def read(self) -> Score | None:
        """The score if it is complete and of the same model, data and settings."""
        try:
            about = json.loads(self._json.read_text())
            if about["key"] != self.key:
                return None
            with np.load(self._npz) as arrays:
                if str(arrays["key"]) != self.key:
                    return None
                metrics = {
                    name: _sampled(about["sampled"][name], arrays, name)
                    if name in about["sampled"]
                    else float("nan" if value["value"] is None else value["value"])
                    for name, value in about["metrics"].items()
                }
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return None  # unfinished or damaged: measured again
        return Score(about["task"], about["dataset"], metrics)

    def write(self, score: Score) -> None:
        """Keeps a finished score."""
        sampled = {n: v for n, v in score.metrics.items() if isinstance(v, Sampled)}
        arrays: dict[str, np.ndarray] = {"key": np.array(self.key)}
        for name, value in sampled.items():
            arrays |= {f"{name}:values": value.values, f"{name}:examples": value.examples}
            if value.classes is not None:
                arrays[f"{name}:classes"] = value.classes
        about = {
            "key": self.key,
            **score.as_json(),
            "sampled": {name: value.statistic for name, value in sampled.items()},
        }
        with _replacing(self._npz) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        with _replacing(self._json) as file:
            file.write((json.dumps(about, indent=2, allow_nan=False) + "\n").encode())


class _KeptOutputs:
    """The outputs of batches in a folder; tasks on the same data share those of images."""

    def __init__(
        self,
        folder: Path,
        examples: EvaluationSet,
        digest: str | None,
        model: Loaded,
        batch_size: int,
    ):
        key = _digest(_key(examples, digest, model) | {"batch_size": batch_size})
        self.parts = folder / key[:32]
        with _writing(folder):
            self.parts.mkdir(parents=True, exist_ok=True)

    def finished_batches(self) -> int:
        """How many batches of images from the first on have outputs."""
        numbers = {path.name.partition("-")[0] for path in self.parts.glob("[0-9]*-*.npz")}
        count = 0
        while f"{count:08d}" in numbers:
            count += 1
        return count

    def valid(self, number: int) -> np.ndarray | None:
        """The flags `valid` of a finished batch; None if its file is damaged."""
        for path in self.parts.glob(f"{number:08d}-*.npz"):
            if (arrays := _read_part(path)) is not None:
                return arrays[_VALID]
        return None

    def outputs(self, want: Sequence[str], batch: Batch) -> dict[str, np.ndarray] | None:
        """The kept outputs of a batch; None if there are none."""
        arrays = _read_part(self._part(want, batch))
        if arrays is None or not set(want) <= {*arrays}:
            return None
        return {name: arrays[name] for name in want}

    def keep(self, outputs: Mapping[str, np.ndarray], batch: Batch) -> None:
        """Keeps the outputs of a batch."""
        arrays = dict(outputs)
        if isinstance(batch, _NumberedBatch):
            arrays[_VALID] = np.asarray(batch[_VALID])
        stored = {
            name: array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array
            for name, array in arrays.items()
        }
        halves = [n for n, array in arrays.items() if array.dtype == ml_dtypes.bfloat16]
        with _replacing(self._part([*outputs], batch)) as file:
            np.savez(file, **{"bfloat16:": np.array(halves, "U")}, **stored)  # type: ignore[arg-type]

    def _part(self, want: Sequence[str], batch: Batch) -> Path:
        digest = hashlib.sha256("\n".join(sorted(want)).encode())
        if isinstance(batch, _NumberedBatch):
            return self.parts / f"{batch.number:08d}-{digest.hexdigest()[:16]}.npz"
        for name in sorted(batch):
            array = np.ascontiguousarray(batch[name])
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
        return self.parts / f"text-{digest.hexdigest()}.npz"


def _sampled(statistic: Any, arrays: Any, name: str) -> Sampled:
    classes = arrays.get(f"{name}:classes")
    return Sampled(arrays[f"{name}:values"], arrays[f"{name}:examples"], statistic, classes)


def _read_part(path: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path) as stored:
            arrays = dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    for name in arrays.pop("bfloat16:").tolist():
        arrays[name] = arrays[name].view(ml_dtypes.bfloat16)
    return arrays


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turns errors of the file system into one line with a remedy."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); name another folder with --out"
        ) from error


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    """A new file that takes the place of `path` when it is complete."""
    with _writing(path.parent), atomic_file(str(path)) as name, open(name, "wb") as file:
        yield file


class _NumberedBatch(Mapping[str, Any]):
    """A batch of the data with its number, which is read when an entry is asked for.

    Args:
      kept: the outputs of batches of the same data.
      number: from 0.
      known: entries that need not be read.
      read: makes the whole batch.
    """

    def __init__(self, kept: _KeptOutputs, number: int, known: Batch, read: Any = None):
        self.kept, self.number = kept, number
        self._known, self._read = known, read

    def _whole(self) -> Batch:
        if self._read is not None:
            self._known, self._read = self._read(), None
        return self._known

    def __getitem__(self, name: str) -> Any:
        return self._known[name] if name in self._known else self._whole()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole())

    def __len__(self) -> int:
        return len(self._whole())


class _KeptData:
    """Data whose batches are read only if an output is asked for that is not kept yet.

    Args:
      whole: the data.
      open_outputs: gives the kept outputs of data.
    """

    def __init__(self, whole: EvaluationSet, open_outputs: Callable[[EvaluationSet], _KeptOutputs]):
        self._set, self._open_outputs, self.kept = whole, open_outputs, open_outputs(whole)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._set, name)

    def other(self, source: Source) -> _KeptData:
        """See `EvaluationSet`."""
        return _KeptData(self._set.other(source), self._open_outputs)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """See `EvaluationSet`."""
        total = -(-len(self._set) // batch_size)
        finished = self.kept.finished_batches()
        with contextlib.closing(_BatchReader(self._set, batch_size)) as reader:
            for number in range(total):
                valid = self.kept.valid(number) if number < finished else None
                if valid is None:
                    yield _NumberedBatch(self.kept, number, reader.read(number))
                else:
                    read = functools.partial(reader.read, number)
                    yield _NumberedBatch(self.kept, number, {_VALID: valid}, read)


class _BatchReader:
    """Batches of data by number; those of rising numbers without a gap are read ahead.

    Another task may have left outputs that are not the wanted ones for every batch. To open the
    data for each of them would read and drop what is read ahead.
    """

    def __init__(self, examples: EvaluationSet, batch_size: int):
        self._set, self._batch_size = examples, batch_size
        self._opened: Batches | None = None
        self._next = 0

    def read(self, number: int) -> Batch:
        """A batch."""
        if self._opened is None or number != self._next:
            self.close()
            self._opened = self._set.batches(self._batch_size, first=number)
        self._next = number + 1
        batch: Batch = next(self._opened)
        return batch

    def close(self) -> None:
        """Ends reading ahead."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


@dataclass(frozen=True)
class _KeptPredictor:
    """A predictor that computes only what is not kept yet."""

    predictor: CountingPredictor
    texts: _KeptOutputs
    """Where the outputs of batches are kept that do not come from the data."""

    def run(
        self, want: Sequence[str], batch: Batch, *, streams: Mapping[str, Batch | None] = {}
    ) -> dict[str, np.ndarray]:
        """See `Predictor.run`."""
        if streams:
            return self.predictor.run(want, batch, streams=streams)
        kept = batch.kept if isinstance(batch, _NumberedBatch) else self.texts
        found = kept.outputs(want, batch)
        if found is None:
            found = self.predictor.run(want, batch)
            kept.keep(found, batch)
        else:
            self.predictor.add(len(found[want[0]]))
        return found


# --- The shape of CLIP_benchmark ---

Published = Literal["zeroshot_classification", "zeroshot_retrieval"]


def clip_benchmark(score: Score, model: str) -> dict[str, Any] | None:
    """A score as the JSON data that CLIP_benchmark writes; None for other tasks.

    Args:
      score: of zero-shot classification or retrieval.
      model: the name of the model.
    """
    names: dict[str, str]
    task: Published
    if "accuracy@1" in score.metrics and "mean_per_class" in score.metrics:
        task = "zeroshot_classification"
        names = {
            "acc1": "accuracy@1",
            "acc5": "accuracy@5",
            "mean_per_class_recall": "mean_per_class",
        }
    elif "text_to_image/recall@1" in score.metrics:
        task = "zeroshot_retrieval"
        sides = {"image_retrieval": "text_to_image", "text_retrieval": "image_to_text"}
        names = {
            f"{theirs}_recall@{k}": f"{ours}/recall@{k}"
            for k in (1, 5, 10)
            for theirs, ours in sides.items()
        }
    else:
        return None
    values = {theirs: score.metrics[ours] for theirs, ours in names.items()}
    return {
        "dataset": score.dataset,
        "model": model,
        "pretrained": "",
        "task": task,
        "metrics": {k: float(v) if math.isfinite(v) else None for k, v in values.items()},
        "language": "en",
    }
