"""Zero-shot classification by class names in prompts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from einops import reduce
from jaxtyping import Float

from vljax.config import UserError
from vljax.evaluation.evaluator import Encode, EvaluationData, Evaluator, embed_images, embed_texts
from vljax.evaluation.metrics.classification import mean_per_class_recall, top_k_accuracy
from vljax.evaluation.metrics.ranking import embedding_ranks
from vljax.models.similarity import Similarity, unit

ACCURACY_AT = (1, 5)


@dataclass(frozen=True)
class ZeroShot(Evaluator, name="zero_shot"):
    """How well images are told apart by the names of their classes alone.

    An image belongs to the class whose embedding is most similar. By cosine, that embedding is the
    normalised mean of the normalised embeddings of the prompts (Radford et al. 2021, section
    3.1.4); otherwise, where lengths have a meaning, it is their plain mean. Examples without a
    label or a readable image take no part.

    Metrics, in [0, 1]: `accuracy@K`, `accuracy@K_chance` (a random ranking of the classes) and
    `mean_per_class`. Beside them the counts `examples`, `classes` and `unreadable`.
    """

    templates: tuple[str, ...] = (
        "{}",
        "an image of {}",
        "a picture showing {}",
        "a drawing of {}",
        "something from the category {}",
    )
    """Prompts, each with `{}` once, where the class name goes."""
    similarity: Similarity = "cosine"
    """What the model was trained to compare embeddings by."""

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

    def check(self, data: EvaluationData) -> None:
        """See `Evaluator.check`. Raises UserError if there are no class names or no labels."""
        super().check(data)
        if not data.class_names:
            raise UserError(
                f"{self.prefix}: {self.source.full_name} has no classes; give a source with labels"
            )
        if not (data.labels >= 0).any():
            raise UserError(f"{self.prefix}: no example has a class; give a source with labels")

    def measure(self, encode: Encode, data: EvaluationData) -> dict[str, float]:
        """See the class. Raises UserError if no example has both a label and a readable image."""
        images = embed_images(encode, data, self.batch_size, where=data.labels >= 0)
        if not len(images.index):
            raise UserError(
                f"{self.prefix}: no readable example has a class; give a source with labels"
            )
        classes = self.class_embeddings(encode, data)
        labels = data.labels[images.index]
        own = np.arange(len(classes))
        ranks = embedding_ranks(images.embedding, classes, labels, own, similarity=self.similarity)
        metrics = {"mean_per_class": mean_per_class_recall(ranks, labels)}
        for k in ACCURACY_AT:
            metrics[f"accuracy@{k}"] = top_k_accuracy(ranks, k)
            metrics[f"accuracy@{k}_chance"] = min(k / len(classes), 1.0)
        counts = {"examples": len(ranks), "classes": len(classes), "unreadable": images.unreadable}
        return metrics | {name: float(count) for name, count in counts.items()}

    def class_embeddings(
        self, encode: Encode, data: EvaluationData
    ) -> Float[np.ndarray, "classes embed"]:
        """An embedding a class, in float64: the mean over prompts, a unit vector by cosine."""
        prompts = [
            template.replace("{}", name) for name in data.class_names for template in self.templates
        ]
        embeddings = embed_texts(encode, data, prompts, self.batch_size).astype(np.float64)
        by_class = {"classes": len(data.class_names), "templates": len(self.templates)}
        grouped = "(classes templates) embed -> classes embed"
        if self.similarity != "cosine":
            return reduce(embeddings, grouped, "mean", **by_class)
        return unit(reduce(unit(embeddings), grouped, "mean", **by_class))
