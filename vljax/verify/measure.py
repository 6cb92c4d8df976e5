"""Measures the numbers of a released model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from vljax.config import UserError, suggest
from vljax.data.pipeline.evaluation_set import EvaluationSet
from vljax.evaluation.evaluator import Evaluator
from vljax.evaluation.predictor import CountingPredictor, Predictor
from vljax.evaluation.retrieval import Retrieval
from vljax.evaluation.zero_shot import ZeroShot
from vljax.host_process import enable_compilation_cache
from vljax.interop.mapped_model import MappedModel, read_model
from vljax.parallel.mesh import find_devices
from vljax.programs import make_predictor
from vljax.verify.data import TaskData
from vljax.verify.released import RELEASED, Figure, Released

Report = Callable[[int, int], None]
"""Called with the number of encoded images and texts, and the total."""


@dataclass(frozen=True)
class Comparison:
    """A published number and our own, in percent."""

    figure: Figure
    own: float

    @property
    def difference(self) -> float:
        """Ours minus the published number, in percentage points."""
        return self.own - self.figure.percent

    def as_dict(self) -> dict[str, Any]:
        """The comparison as data for `--json`."""
        figure = self.figure
        numbers = {"published": figure.percent, "own": self.own, "difference": self.difference}
        return {"task": figure.task, "metric": figure.metric, **numbers, "source": figure.source}


def released(name: str) -> Released:
    """The released model of that name. Raises UserError if the name is unknown."""
    if name not in RELEASED:
        raise UserError(f"unknown model {name!r}{suggest(name, RELEASED)}")
    return RELEASED[name]


def verify(
    name: str, weights: str, data: Sequence[TaskData], batch_size: int, report: Report
) -> list[Comparison]:
    """Measures a model on data sets, and compares with the published numbers.

    Args:
      name: a key of `RELEASED`.
      weights: a folder that import reads.
      data: the data sets.
      batch_size: images or texts encoded at a time; it does not change the results.
      report: called after each batch.

    Raises:
      UserError: if the weights or data are not those of the published numbers.
    """
    model = released(name)
    mapped = read_model(weights)
    _check_tower(name, model, mapped, weights)
    config = mapped.foreign.tokenizer.config  # the run's tokenizer has no path
    pipeline = dataclasses.replace(mapped.prepared.run.data, tokenizers={"text": config})
    opened = [(one, one.open(pipeline)) for one in data]
    enable_compilation_cache()
    variables = jax.device_put(mapped.variables(), find_devices()[0])
    total = sum(_evaluator(one, batch_size).inputs(examples) for one, examples in opened)
    predictor = CountingPredictor(make_predictor(mapped.prepared)(variables), total, report)
    compared = []
    for one, examples in opened:
        own = _measured(predictor, one, examples, batch_size)
        wanted = [figure for figure in model.figures if figure.task == one.task]
        compared += [Comparison(figure, 100 * own[figure.metric]) for figure in wanted]
    return compared


def _check_tower(name: str, model: Released, mapped: MappedModel, weights: str) -> None:
    encoders = mapped.prepared.run.model.encoders
    if set(encoders) != {"image", "text"}:
        towers = " and ".join(encoders)
        raise UserError(f"{weights}: holds only {towers}; {name} has an image and a text tower")
    tower = encoders["image"]
    for field, value in model.tower.items():
        found = getattr(tower, field, None)
        if found != value:
            raise UserError(f"{weights}: {field} is {found!r}, but {name} has {value!r}")


def _evaluator(one: TaskData, batch_size: int) -> Evaluator:
    if one.task == "imagenet":
        return ZeroShot(one.source, batch_size, templates=one.templates, same_name="first")
    return Retrieval(one.source, batch_size)


def _measured(
    predictor: Predictor, one: TaskData, examples: EvaluationSet, batch_size: int
) -> dict[str, float]:
    """The metrics of the task by name."""
    metrics = _evaluator(one, batch_size).measure(predictor, examples)
    if unreadable := int(metrics["unreadable"]):
        raise UserError(
            f"{one.source.full_name}: {unreadable:,} images cannot be read; the published figures"
            " are of all"
        )
    return metrics
