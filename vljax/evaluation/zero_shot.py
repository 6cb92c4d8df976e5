"""Zero-shot classification: images are classified by prompts with the class names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from einops import reduce
from jaxtyping import Bool, Float, Int

from vljax.config import UserError
from vljax.data.records import Annotation
from vljax.evaluation.evaluator import EvaluationData, Evaluator, embed_images, embed_texts
from vljax.evaluation.metrics.ranking import embedding_ranks
from vljax.evaluation.metrics.uncertainty import Sampled
from vljax.evaluation.predictor import Predictor
from vljax.models.numerics import Similarity, unit

ACCURACY_AT = (1, 5)


@dataclass(frozen=True)
class ZeroShot(Evaluator, name="zero_shot"):
    """Accuracy of classifying images by the text embeddings of their class names.

    The predicted class is the one with the most similar embedding. With cosine similarity, the
    embedding of a class is the normalised mean of the normalised prompt embeddings (Radford et al.
    2021, section 3.1.4). With the others, the length of an embedding matters,
    so it is the plain mean. Examples without a label or with an unreadable image are left out.

    Metrics in [0, 1]: `accuracy@1`, `accuracy@5`, the `accuracy@K_chance` of a random ranking of
    the classes, `mean_per_class`, and `worst_class`, the accuracy of the class where it is lowest.
    Also the counts `examples`, `classes` and `unreadable`. If the source names the groups of its
    examples (its field `group`), also the accuracy `group/NAME` of each, and `worst_group`, the
    lowest of these (Sagawa et al. 2020, section 2).

    >>> from vljax.datasets import Builtin
    >>> ZeroShot(Builtin("test"), templates=("a photo of a {}",)).reads()
    ('image/embedding', 'text/embedding')
    """

    headline = ("accuracy@1", "accuracy@5")

    templates: tuple[str, ...] = (
        "{}",
        "an image of {}",
        "a picture showing {}",
        "a drawing of {}",
        "something from the category {}",
    )
    """Prompts, each with `{}` once for the class name."""
    similarity: Similarity = "cosine"
    """How embeddings are compared; use the similarity of the objective."""
    same_name: Literal["wrong", "first"] = "wrong"
    """Classes of the same name tie on every image. "wrong": each is before the others, so none is
    ever right at K = 1; "first": the first of them is before the others, as for published figures
    of ImageNet, which has two such pairs ("missile", "sunglasses")."""

    def problems(self) -> Iterable[tuple[str, str]]:
        """What is wrong with the fields."""
        yield from super().problems()
        yield from template_problems(self.templates)

    def reads(self) -> tuple[str, ...]:
        """The embeddings of both towers."""
        return "image/embedding", "text/embedding"

    def check(self, data: EvaluationData) -> None:
        """See `Evaluator.check`. Raises UserError if there are no class names or no labels."""
        super().check(data)
        if not data.class_names:
            raise UserError(f"{self.source.full_name} has no classes; give a source with labels")
        if not (data.labels >= 0).any():
            raise UserError(
                f"no example of {self.source.full_name} has a class; give a source with labels"
            )

    def measure(self, predictor: Predictor, data: EvaluationData) -> dict[str, float]:
        """See the class. Raises UserError if no example has both a label and a readable image."""
        images = embed_images(predictor, data, self.batch_size, where=data.labels >= 0)
        if not len(images.index):
            raise UserError(
                f"no readable example of {self.source.full_name} has a class;"
                " give a source with labels"
            )
        classes = self.class_embeddings(predictor, data)
        labels = data.labels[images.index]
        own = np.arange(len(classes))
        ranks = embedding_ranks(images.embedding, classes, labels, own, similarity=self.similarity)
        if self.same_name == "first":
            ranks -= later_of_same_name(data.class_names)[labels]
        metrics: dict[str, float] = {
            "mean_per_class": Sampled(ranks == 1, images.index, "mean_per_class", labels),
            "worst_class": Sampled(ranks == 1, images.index, "worst_class", labels),
        }
        for k in ACCURACY_AT:
            metrics[f"accuracy@{k}"] = Sampled(ranks <= k, images.index)
            metrics[f"accuracy@{k}_chance"] = min(k / len(classes), 1.0)
        metrics |= _by_group(ranks == 1, data.annotations, images.index)
        counts = {"examples": len(ranks), "classes": len(classes), "unreadable": images.unreadable}
        return metrics | {name: float(count) for name, count in counts.items()}

    def inputs(self, data: EvaluationData) -> int:
        return len(data.labels) + len(data.class_names) * len(self.templates)

    def class_embeddings(
        self, predictor: Predictor, data: EvaluationData
    ) -> Float[np.ndarray, "classes embed"]:
        """The mean prompt embedding of each class in float64; of unit length for cosine."""
        return class_embeddings(
            data.class_names,
            self.templates,
            lambda prompts: embed_texts(predictor, data, prompts, self.batch_size),
            self.similarity,
        )


def _by_group(
    right: Bool[np.ndarray, " images"],
    annotations: Sequence[Annotation],
    examples: Int[np.ndarray, " images"],
) -> dict[str, float]:
    """The accuracy of each group and the lowest of them; nothing without groups."""
    groups = [annotations[i].group for i in examples]
    named = np.array([group is not None for group in groups], bool)
    if not named.any():
        return {}
    names, number = np.unique([g for g in groups if g is not None], return_inverse=True)
    right, examples = right[named], examples[named]
    metrics: dict[str, float] = {"worst_group": Sampled(right, examples, "worst_class", number)}
    for i, name in enumerate(names.tolist()):
        metrics[f"group/{name}"] = Sampled(right[number == i], examples[number == i])
    return metrics


def later_of_same_name(names: Sequence[str]) -> Int[np.ndarray, " classes"]:
    """How many later classes have the name of each class.

    >>> later_of_same_name(["missile", "crane", "missile"]).tolist()
    [1, 0, 0]
    """
    seen: Counter[str] = Counter()
    later = []
    for name in reversed(names):
        later.append(seen[name])
        seen[name] += 1
    return np.array(later[::-1], np.int64)


def template_problems(templates: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with prompts: field and message."""
    if not templates:
        yield "templates", "must hold at least one prompt; '{}' is the class name alone"
    for i, template in enumerate(templates):
        if template.count("{}") != 1:
            message = f"must hold '{{}}' once, where the class name goes, got {template!r}"
            yield f"templates.{i}", message


def class_embeddings(
    names: Sequence[str],
    templates: Sequence[str],
    encode: Callable[[list[str]], np.ndarray],
    similarity: Similarity,
) -> Float[np.ndarray, "classes embed"]:
    """The mean prompt embedding of each class in float64; of unit length for cosine.

    Args:
      names: the class names.
      templates: prompts, each with `{}` once for the class name.
      encode: gives the embeddings of texts.
      similarity: how embeddings are compared.

    >>> class_embeddings(["cat"], ["{}", "a {}"], lambda t: np.eye(2, dtype="f4"), "dot").tolist()
    [[0.5, 0.5]]
    """
    prompts = [template.replace("{}", name) for name in names for template in templates]
    embeddings = encode(prompts).astype(np.float64)
    by_class = {"classes": len(names), "templates": len(templates)}
    grouped = "(classes templates) embed -> classes embed"
    if similarity != "cosine":
        return reduce(embeddings, grouped, "mean", **by_class)
    return unit(reduce(unit(embeddings), grouped, "mean", **by_class))
