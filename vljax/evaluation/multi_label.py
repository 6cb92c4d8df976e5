"""Classification of examples that may have several labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vljax.config import UserError
from vljax.data.transforms.labels import encoded_tags
from vljax.evaluation.evaluator import EvaluationData, Evaluator
from vljax.evaluation.metrics.classification import mean_average_precision, multi_label_f1
from vljax.evaluation.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class MultiLabel(Evaluator, name="multi_label"):
    """How well the labels of examples are predicted; an example may have several, or none.

    The labels are the tags of the source that are in the vocabulary of `EncodeTags`. A label is
    predicted if its probability, the logistic function of its logit, is at least `threshold`.

    Metrics: `mean_average_precision`, which needs no threshold, over the labels that occur;
    `f1_macro` over all labels of the vocabulary, `f1_micro` and `f1_samples`, as in scikit-learn;
    the counts `examples`, `labels` (that occur) and `unreadable`.

    >>> from vljax.datasets import Builtin
    >>> MultiLabel(source=Builtin("test")).reads()
    ('genre/logits',)
    """

    headline = ("mean_average_precision", "f1_macro", "f1_micro")

    logits: str = "genre/logits"
    """Output with the scores of the labels."""
    targets: str = "tags"
    """Batch entry with the labels, whose vocabulary is used."""
    threshold: float = 0.5
    """Smallest probability of a label that is predicted."""

    def reads(self) -> tuple[str, ...]:
        return (self.logits,)

    def problems(self) -> Iterable[tuple[str, str]]:
        """What is wrong with the fields."""
        yield from super().problems()
        if not 0 < self.threshold < 1:
            yield "threshold", f"must be between 0 and 1, got {self.threshold}"

    def check(self, data: EvaluationData) -> None:
        """See `Evaluator.check`. Raises UserError if no example has a label of the vocabulary."""
        super().check(data)
        vocabulary = data.vocabulary(self.targets)
        if not any(encoded_tags(about.tags, vocabulary).any() for about in data.annotations):
            raise UserError(f"{self.source.full_name}: no example has a tag of the vocabulary")

    def measure(self, predictor: Predictor, data: EvaluationData) -> dict[str, float]:
        """See the class. Raises UserError if no image can be read."""
        vocabulary = data.vocabulary(self.targets)
        scores, valid = [], []
        for batch in data.batches(self.batch_size):
            scores.append(predictor.run(self.reads(), batch)[self.logits])
            valid.append(np.asarray(batch["valid"]))
        count = len(data.annotations)
        readable = np.concatenate(valid)[:count]
        if not readable.any():
            raise UserError(f"{self.source.full_name}: no image can be read")
        logits = np.concatenate(scores)[:count][readable].astype(np.float64)
        targets = [encoded_tags(about.tags, vocabulary) for about in data.annotations]
        labels = np.stack(targets)[readable] > 0
        predicted = logits >= np.log(self.threshold / (1 - self.threshold))
        return {
            "mean_average_precision": mean_average_precision(logits, labels, empty="skip"),
            "f1_macro": multi_label_f1(predicted, labels, average="macro"),
            "f1_micro": multi_label_f1(predicted, labels, average="micro"),
            "f1_samples": multi_label_f1(predicted, labels, average="samples"),
            "examples": float(len(labels)),
            "labels": float(labels.any(axis=0).sum()),
            "unreadable": float(count - len(labels)),
        }
