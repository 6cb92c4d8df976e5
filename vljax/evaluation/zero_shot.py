"""Zero-shot classification by class names in prompts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vljax.config import UserError
from vljax.evaluation.embedding import embed_images, embed_texts
from vljax.evaluation.evaluator import Encode, EvaluationData, Evaluator
from vljax.evaluation.metrics.classification import mean_per_class_recall, top_k_accuracy
from vljax.evaluation.metrics.ranking import embedding_ranks

ACCURACY_AT = (1, 5)


@dataclass(frozen=True)
class ZeroShot(Evaluator, name="zero_shot"):
    """How well images are told apart by the names of their classes alone.

    The embedding of a class is the normalised mean of its normalised prompt embeddings (Radford et
    al. 2021, section 3.1.4); an image belongs to the class of the largest dot product. Examples
    without a label or a readable image take no part.

    Metrics, in [0, 1]: `accuracy@K`, `accuracy@K_chance` (a random ranking of the classes) and
    `mean_per_class`. Beside them the counts `examples`, `classes` and `unreadable`.

    Attributes:
      templates: prompts, each with `{}` once, where the class name goes.
    """

    templates: tuple[str, ...] = (
        "{}",
        "an image of {}",
        "a picture showing {}",
        "a drawing of {}",
        "something from the category {}",
    )

    def problems(self) -> Iterable[tuple[str, str]]:
        """What is wrong with the fields."""
        yield from super().problems()
        if not self.templates:
            yield "templates", "must hold at least one prompt; '{}' is the class name alone"
        for i, template in enumerate(self.templates):
            if template.count("{}") != 1:
                yield (
                    f"templates.{i}",
                    f"must hold '{{}}' once, where the class name goes, got {template!r}",
                )

    def measure(self, encode: Encode, data: EvaluationData) -> dict[str, float]:
        """See the class. Raises UserError if no example has both a label and a readable image."""
        images = embed_images(encode, data, self.batch_size, where=data.labels >= 0)
        if not len(images.index):
            raise UserError(
                f"{self.prefix}: no readable example has a class; give a source with labels"
            )
        classes = self.class_embeddings(encode, data)
        labels = data.labels[images.index]
        ranks = embedding_ranks(images.embedding, classes, labels, np.arange(len(classes)))
        metrics = {"mean_per_class": mean_per_class_recall(ranks, labels)}
        for k in ACCURACY_AT:
            metrics[f"accuracy@{k}"] = top_k_accuracy(ranks, k)
            metrics[f"accuracy@{k}_chance"] = min(k / len(classes), 1.0)
        counts = {"examples": len(ranks), "classes": len(classes), "unreadable": images.unreadable}
        return metrics | {name: float(count) for name, count in counts.items()}

    def class_embeddings(
        self, encode: Encode, data: EvaluationData
    ) -> Float[np.ndarray, "classes embed"]:
        """A unit vector a class, in float64."""
        prompts = [
            template.replace("{}", name) for name in data.class_names for template in self.templates
        ]
        embeddings = _normalise(embed_texts(encode, data, prompts, self.batch_size))
        shape = (len(data.class_names), len(self.templates), embeddings.shape[-1])
        return _normalise(embeddings.reshape(shape).mean(axis=1))


def _normalise(vectors: Float[np.ndarray, "rows embed"]) -> Float[np.ndarray, "rows embed"]:
    vectors = vectors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, np.finfo(np.float64).tiny)
