"""Probes of the image tower: linear probe, nearest neighbours and few-shot regression.

Each encodes training examples and the examples to measure, and classifies the latter by the former.
The formulas are in `metrics/probes.py`.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from vljax.config import UserError, suggest
from vljax.data.records import Source
from vljax.evaluation.evaluator import EvaluationData, Evaluator, embed_images
from vljax.evaluation.metrics import probes
from vljax.evaluation.metrics.classification import label_ranks
from vljax.evaluation.metrics.uncertainty import Sampled
from vljax.evaluation.predictor import Predictor
from vljax.models.node import Encoded


class Features(NamedTuple):
    """The features of the readable examples of a source that have a class."""

    values: Float[np.ndarray, "examples embed"]
    """In float32."""
    labels: Int[np.ndarray, " examples"]
    """Their classes: 0 to C - 1, of the C classes that have a training example."""
    examples: Int[np.ndarray, " examples"]
    """Their example indices."""


@dataclass(frozen=True, kw_only=True)
class Probe(Evaluator, abc.ABC):
    """Base of evaluators that classify images by their features and by training examples.

    Classes are matched by their names, so that both sources may number them differently; without
    names by their numbers. Examples without a class or with an unreadable image are left out. All
    features of both sources are held in the memory of each host, as float32.

    A member implements `probe`. Beside its metrics there are the counts `examples`, `unreadable`,
    `classes` and `train_examples`.
    """

    train: Source
    """Training examples with classes."""
    features: str = "image/pooled"
    """The output with one vector for each image. Published probes read the pooled features before
    the projection (CLIP, DINO, big_vision); image/embedding is what follows it."""

    def problems(self) -> Iterable[tuple[str, str]]:
        """What is wrong with the fields."""
        yield from super().problems()
        if self.train == self.source:
            yield "train", "is the measured source itself; name a source of other examples"
        stream, _, field = self.features.rpartition("/")
        if not stream:
            yield "features", f"must be an output such as image/pooled, not {self.features!r}"
        elif field in Encoded._fields and field != "pooled":
            yield "features", f"must have one vector for each image, which {field} do not"

    def reads(self) -> tuple[str, ...]:
        """The features."""
        return (self.features,)

    def check(self, data: EvaluationData) -> None:
        """See `Evaluator.check`.

        Raises UserError also if a source has no labels, a measured class has no training example,
        or classes have other names in another source.
        """
        super().check(data)
        labels = self._labels(data)
        self._check_classes(labels, data)

    @abc.abstractmethod
    def probe(
        self, train: Features, test: Features, validation: Features | None
    ) -> dict[str, float]:
        """The metrics of the features. `validation` is None without a source of that name."""

    def measure(self, predictor: Predictor, data: EvaluationData) -> dict[str, float]:
        """See the class. Raises UserError as `check` does, now for examples that can be read."""
        labels, found, unreadable = self._labels(data), dict[str, Features](), 0
        for field, source in self.sources.items():
            images = embed_images(
                predictor,
                self._examples(data, field),
                self.batch_size,
                where=labels[field] >= 0,
                output=self.features,
            )
            if not len(images.index):
                raise UserError(f"no readable example of {source.full_name} has a class")
            if images.embedding.ndim != 2:
                shape = list(images.embedding.shape[1:])
                raise UserError(
                    f"features: {self.features} has the shape {shape} for each image; name an"
                    " output with one vector, such as image/pooled"
                )
            values = images.embedding.astype(np.float32, copy=False)
            found[field] = Features(values, labels[field][images.index], images.index)
            unreadable += images.unreadable if field == "source" else 0
        self._check_classes({field: each.labels for field, each in found.items()}, data)
        # Classes without a training example are not counted: nothing can be learned about them.
        classes = np.unique(found["train"].labels)
        found = {
            field: each._replace(labels=np.searchsorted(classes, each.labels))
            for field, each in found.items()
        }
        train, test = found["train"], found["source"]
        metrics = self.probe(train, test, found.get("validation"))
        counts = {
            "examples": len(test.examples),
            "unreadable": unreadable,
            "classes": len(classes),
            "train_examples": len(train.examples),
        }
        return metrics | {name: float(count) for name, count in counts.items()}

    def inputs(self, data: EvaluationData) -> int:
        return sum(len(self._examples(data, field).labels) for field in self.sources)

    def _examples(self, data: EvaluationData, field: str) -> EvaluationData:
        return data if field == "source" else data.other(self.sources[field])

    def _labels(self, data: EvaluationData) -> dict[str, Int[np.ndarray, " examples"]]:
        """The labels of each source in the numbers of the training classes, by field."""
        known = data.other(self.train).class_names
        found = {}
        for field, source in self.sources.items():
            examples = self._examples(data, field)
            labels = np.asarray(examples.labels)
            if not (labels >= 0).any():
                raise UserError(
                    f"no example of {source.full_name} has a class; give a source with labels"
                )
            if examples.class_names != known:
                names = source.full_name, self.train.full_name
                labels = _renumbered(labels, examples.class_names, known, *names)
            found[field] = labels
        return found

    def _check_classes(
        self, labels: dict[str, Int[np.ndarray, " examples"]], data: EvaluationData
    ) -> None:
        """Raises UserError if the examples do not suffice; called again without unreadable ones."""
        classes = {field: np.unique(each[each >= 0]) for field, each in labels.items()}
        for field, own in classes.items():
            lacking = np.setdiff1d(own, classes["train"])
            if lacking.size:
                raise UserError(
                    f"{self.sources[field].full_name}: {lacking.size} of its {own.size} classes"
                    f" have no example in {self.train.full_name}, such as"
                    f" {self._class_name(int(lacking[0]), data)}; add training examples of them"
                )

    def _class_name(self, label: int, data: EvaluationData) -> str:
        names = data.other(self.train).class_names
        return repr(names[label]) if names else str(label)


def _renumbered(
    labels: Int[np.ndarray, " examples"],
    names: Sequence[str],
    known: Sequence[str],
    source: str,
    train: str,
) -> Int[np.ndarray, " examples"]:
    """Labels of classes `names` in the numbers of the classes `known`, by name.

    >>> _renumbered(np.array([1, -1, 0]), ["cat", "dog"], ["cow", "dog", "cat"], "a", "b").tolist()
    [1, -1, 2]
    """
    if not names or not known:
        named, numbered = (source, train) if names else (train, source)
        raise UserError(
            f"{named} has names of classes, but {numbered} has only numbers; give both the same"
        )
    numbers = {name: number for number, name in enumerate(known)}
    mapping = np.full(len(names) + 1, -1)  # the last entry is that of -1
    for label in np.unique(labels[labels >= 0]).tolist():
        name = names[label]
        if name not in numbers:
            raise UserError(
                f"{source} has the class {name!r}, which {train} does not have"
                f"{suggest(name, numbers)}; name the classes of both alike"
            )
        for given, where in ((names, source), (known, train)):
            if given.count(name) > 1:
                raise UserError(
                    f"{where} has several classes named {name!r}, and the classes of {source} and"
                    f" {train} differ: name classes uniquely, or give both the same names in the"
                    " same order"
                )
        mapping[label] = numbers[name]
    return mapping[labels]


@dataclass(frozen=True, kw_only=True)
class LinearProbe(Probe, name="linear_probe"):
    """Accuracy of logistic regression on frozen features, by the protocol of CLIP.

    The regularisation is chosen by validation examples; then training and validation examples are
    fitted together (Radford et al. 2021, appendix A.3).

    Metrics in [0, 1]: `accuracy`, `mean_per_class`, and `validation_accuracy` with the chosen
    inverse regularisation `c`.

    >>> from vljax.datasets import Builtin
    >>> LinearProbe(Builtin("test"), train=Builtin("train")).reads()
    ('image/pooled',)
    """

    headline = ("accuracy", "mean_per_class")

    validation: Source | None = None
    """Validation examples with classes; None: some of the training examples of each class."""
    held_out: float = 0.2
    """Share of the training examples of each class that validate, if there is no `validation`: at
    least one, but none of a class with a single example."""
    seed: int = 0
    """Chooses the validation examples."""
    sweep: tuple[float, ...] = (1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6)
    """Values of `c`, the inverse strength of the regularisation, as in scikit-learn."""
    most_steps: int = 1000
    """Most steps of L-BFGS, of each fit."""

    def problems(self) -> Iterable[tuple[str, str]]:
        """What is wrong with the fields."""
        yield from super().problems()
        if self.validation in (self.source, self.train):
            which = "measured" if self.validation == self.source else "training"
            yield "validation", f"is the {which} source itself; name a source of other examples"
        if not 0 < self.held_out < 1:
            yield "held_out", f"must be between 0 and 1, got {self.held_out}"
        if self.seed < 0:
            yield "seed", f"must be at least 0, got {self.seed}"
        if not self.sweep or not min(self.sweep) > 0:
            yield "sweep", f"must hold at least one number, all above 0, got {self.sweep}"
        if self.most_steps < 1:
            yield "most_steps", f"must be at least 1, got {self.most_steps}"

    def _check_classes(
        self, labels: dict[str, Int[np.ndarray, " examples"]], data: EvaluationData
    ) -> None:
        super()._check_classes(labels, data)
        if self.validation is not None:
            return
        own = labels["train"]
        if np.bincount(own[own >= 0]).max() < 2:
            raise UserError(
                f"{self.train.full_name} has a single example of each class: none is left to"
                " validate; add examples, or set the evaluator's field validation to another source"
            )

    def probe(
        self, train: Features, test: Features, validation: Features | None
    ) -> dict[str, float]:
        """See `Probe.probe`."""
        if validation is None:
            chosen = held_out(train.labels, self.held_out, self.seed)
            validation = Features(*(each[chosen] for each in train))
            train = Features(*(each[~chosen] for each in train))
        splits = [(split.values, split.labels) for split in (train, validation, test)]
        made = probes.linear_probe(*splits, sweep=self.sweep, most_steps=self.most_steps)
        return {
            "accuracy": Sampled(made.right, test.examples),
            "mean_per_class": Sampled(made.right, test.examples, "mean_per_class", test.labels),
            "validation_accuracy": float(made.validation.max()),
            "c": made.c,
        }


def held_out(
    labels: Int[np.ndarray, " examples"], share: float, seed: int
) -> Bool[np.ndarray, " examples"]:
    """True for the examples that validate: a share of each class, at least one, and not all.

    >>> held_out(np.array([0, 0, 0, 0, 1, 1, 2]), 0.5, seed=0).tolist()
    [True, False, True, False, False, True, False]

    Args:
      labels: classes; one with a single example has none that validates.
      share: in (0, 1).
      seed: chooses the examples.
    """
    rng, chosen = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(len(members) - 1, max(1, round(share * len(members))))
        chosen[rng.permutation(members)[:count]] = True
    return chosen


@dataclass(frozen=True, kw_only=True)
class NearestNeighbours(Probe, name="knn"):
    """Accuracy of the votes of the nearest training examples by cosine, as in DINO.

    A vote is exp(cosine / temperature), as in `eval_knn.py` of DINO (Caron et al. 2021); of equal
    votes the lowest class wins.

    Metrics in [0, 1]: `accuracy`, `accuracy@5`, and `mean_per_class`.

    >>> from vljax.datasets import Builtin
    >>> NearestNeighbours(Builtin("test"), train=Builtin("train"), k=10).type_name
    'knn'
    """

    headline = ("accuracy", "accuracy@5")

    k: int = 20
    """How many neighbours vote."""
    temperature: float = 0.07
    """Smaller values give the nearest neighbours more weight."""

    def problems(self) -> Iterable[tuple[str, str]]:
        """What is wrong with the fields."""
        yield from super().problems()
        if self.k < 1:
            yield "k", f"must be at least 1, got {self.k}"
        if not self.temperature > 0:
            yield "temperature", f"must be above 0, got {self.temperature}"

    def _check_classes(
        self, labels: dict[str, Int[np.ndarray, " examples"]], data: EvaluationData
    ) -> None:
        super()._check_classes(labels, data)
        count = int(np.count_nonzero(labels["train"] >= 0))
        if count < self.k:
            raise UserError(
                f"k: {self.k} neighbours vote, but {self.train.full_name} has {count:,} examples"
                " with a class; lower k, or add training examples"
            )

    def probe(
        self, train: Features, test: Features, validation: Features | None
    ) -> dict[str, float]:
        """See `Probe.probe`."""
        votes = probes.knn_votes(
            train.values, train.labels, test.values, k=self.k, temperature=self.temperature
        )
        ranks = label_ranks(votes, test.labels, ties="first")
        return {
            "accuracy": Sampled(ranks == 1, test.examples),
            "accuracy@5": Sampled(ranks <= 5, test.examples),
            "mean_per_class": Sampled(ranks == 1, test.examples, "mean_per_class", test.labels),
        }


@dataclass(frozen=True, kw_only=True)
class FewShot(Probe, name="few_shot"):
    """Accuracy of ridge regression on a few training examples of each class, as in big_vision.

    `fewshot_lsr` of big_vision: for each seed, other examples are chosen. A class with fewer
    examples gives all that it has.

    Metrics: `K_shot/accuracy` in [0, 1], the mean over the seeds, for each K of `shots`; and with
    several seeds `K_shot/deviation`, the standard deviation of the accuracy over them.

    >>> from vljax.datasets import Builtin
    >>> FewShot(Builtin("test"), train=Builtin("train")).shots
    (1, 5, 10, 25)
    """

    shots: tuple[int, ...] = (1, 5, 10, 25)
    """Training examples of each class."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each chooses other examples."""
    l2: float = 2.0**10
    """Strength of the regularisation."""

    def problems(self) -> Iterable[tuple[str, str]]:
        """What is wrong with the fields."""
        yield from super().problems()
        if not self.shots or min(self.shots) < 1 or len({*self.shots}) < len(self.shots):
            numbers = "must hold at least one number, each at least 1 and once"
            yield "shots", f"{numbers}, got {self.shots}"
        if not self.seeds or min(self.seeds) < 0:
            yield "seeds", f"must hold at least one number, all from 0 on, got {self.seeds}"
        if not self.l2 > 0:
            yield "l2", f"must be above 0, got {self.l2}"

    def probe(
        self, train: Features, test: Features, validation: Features | None
    ) -> dict[str, float]:
        """See `Probe.probe`."""
        right = probes.few_shot_right(
            (train.values, train.labels),
            (test.values, test.labels),
            shots=self.shots,
            l2=(self.l2,),
            seeds=self.seeds,
        )[:, :, 0]
        metrics: dict[str, float] = {
            f"{count}_shot/accuracy": Sampled(right[:, i].mean(axis=0), test.examples)
            for i, count in enumerate(self.shots)
        }
        if len(self.seeds) > 1:
            of_seeds = right.mean(axis=2).std(axis=0)
            for count, deviation in zip(self.shots, of_seeds, strict=True):
                metrics[f"{count}_shot/deviation"] = float(deviation)
        return metrics
