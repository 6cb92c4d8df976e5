"""Image-to-text and text-to-image retrieval."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from vljax.config import UserError
from vljax.evaluation.evaluator import (
    Draw,
    EvaluationData,
    Evaluator,
    embed_images,
    embed_texts,
)
from vljax.evaluation.metrics.ranking import (
    chance_recall_at_k,
    embedding_ranks,
    similarities,
)
from vljax.evaluation.metrics.uncertainty import Sampled
from vljax.evaluation.predictor import Predictor
from vljax.evaluation.retrieval_grid import THUMBNAIL, GridRow, draw_grid
from vljax.models.numerics import Similarity

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class Retrieval(Evaluator, name="retrieval"):
    """Ranks all captions for each image, and all images for each caption.

    If any image has several captions, this is the protocol of published COCO and Flickr30k numbers:
    every caption is a query and a candidate of its own. For an image, each of its captions is a
    hit; for a caption, only its own image is.

    If every image has one caption, captions that are equal up to case and white space are one query
    and one candidate; every image with that caption is a hit. Otherwise the caption "cat" of ten
    images would count as wrong for nine of them.

    Ties count against the model. Examples with an unreadable image or without a caption are left
    out.

    Metrics, for `image_to_text` and `text_to_image`: `recall@1`, `@5` and `@10` in [0, 1], the
    `recall@K_chance` that a random ranking expects, and `median_rank`, from 1. Also the counts
    `examples`, `captions` (queries of text to image) and `unreadable`.

    >>> from vljax.datasets import Builtin
    >>> Retrieval(Builtin("validation"), captions=1).reads()
    ('image/embedding', 'text/embedding')
    """

    headline = ("text_to_image/recall@1", "image_to_text/recall@1")

    similarity: Similarity = "cosine"
    """How embeddings are compared; use the similarity of the objective."""
    captions: int | None = None
    """How many captions of each image to use at most, in the order of the data; None: all."""

    def problems(self) -> Iterable[tuple[str, str]]:
        """What is wrong with the fields."""
        yield from super().problems()
        if self.captions is not None and self.captions < 1:
            yield "captions", f"must be at least 1, got {self.captions}; leave it out for all"

    def reads(self) -> tuple[str, ...]:
        """The embeddings of both towers."""
        return "image/embedding", "text/embedding"

    def check(self, data: EvaluationData) -> None:
        """See `Evaluator.check`. Raises UserError if no example has a caption."""
        super().check(data)
        if not _captioned(data).any():
            raise UserError(f"no example of {self.source.full_name} has a caption")

    def measure(self, predictor: Predictor, data: EvaluationData) -> dict[str, float]:
        """See the class. Raises UserError if no readable example has a caption."""
        images = embed_images(predictor, data, self.batch_size, where=_captioned(data))
        if not len(images.index):
            raise UserError(f"no readable example of {self.source.full_name} has a caption")
        captions = [data.captions[i][: self.captions] for i in images.index]
        found = self._ranked(predictor, data, images.embedding, captions, images.index)
        return found | {"unreadable": float(images.unreadable)}

    def _ranked(
        self,
        predictor: Predictor,
        data: EvaluationData,
        embedding: Float[np.ndarray, "images embed"],
        captions: Sequence[tuple[str, ...]],
        examples: Int[np.ndarray, " images"],
    ) -> dict[str, float]:
        """The metrics of embedded images with their captions, and the counts of both."""
        texts = _grouped(captions)
        text_embeddings = embed_texts(predictor, data, texts.texts, self.batch_size)
        # The number of images and of texts in each group.
        of_images, of_texts = np.bincount(texts.image_groups), np.bincount(texts.text_groups)
        image_to_text = embedding_ranks(
            embedding,
            text_embeddings,
            texts.image_groups,
            texts.text_groups,
            similarity=self.similarity,
        )
        text_to_image = embedding_ranks(
            text_embeddings,
            embedding,
            texts.text_groups,
            texts.image_groups,
            similarity=self.similarity,
        )
        return {
            **_direction(
                "image_to_text",
                image_to_text,
                of_texts[texts.image_groups],
                len(text_embeddings),
                examples,
            ),
            **_direction(
                "text_to_image",
                text_to_image,
                of_images[texts.text_groups],
                len(examples),
                examples[texts.first_images],
            ),
            "examples": float(len(examples)),
            "captions": float(len(text_embeddings)),
        }

    def inputs(self, data: EvaluationData) -> int:
        captions = (len(each[: self.captions]) for each in data.captions)
        return len(data.labels) + sum(captions)

    def figures(self, predictor: Predictor, data: EvaluationData) -> dict[str, Draw]:
        """A grid of example queries with the images that the model ranks first."""
        rows = self.example_queries(predictor, data)
        return {"examples": functools.partial(draw_grid, rows)} if rows else {}

    def example_queries(
        self, predictor: Predictor, data: EvaluationData, *, queries: int = 8, top: int = 5
    ) -> list[GridRow]:
        """Text-to-image results of captions spread evenly over the data, the same for every model.

        Args:
          predictor: the model.
          data: the examples.
          queries: how many captions to use at most.
          top: how many images to show for each at most.

        Returns:
          One row per query; no rows if no readable example has a caption.
        """
        images = embed_images(predictor, data, self.batch_size, where=_captioned(data))
        if not len(images.index):
            return []
        texts = _grouped([data.captions[i][: self.captions] for i in images.index])
        count = min(queries, len(texts.texts))
        asked = np.linspace(0, len(texts.texts) - 1, count).round().astype(np.int64)
        captions = [texts.texts[i] for i in asked]
        found = embed_texts(predictor, data, captions, self.batch_size)
        groups = texts.text_groups[asked]
        ranks = embedding_ranks(
            found, images.embedding, groups, texts.image_groups, similarity=self.similarity
        )
        scores = similarities(found, images.embedding, self.similarity)
        rows = []
        for i, group in enumerate(groups):
            order = np.argsort(-scores[i], kind="stable")[:top]
            right = texts.image_groups == group
            rows.append(
                GridRow(
                    query=captions[i],
                    truth=data.thumbnail(int(images.index[np.argmax(right)]), THUMBNAIL),
                    found=tuple(data.thumbnail(int(images.index[j]), THUMBNAIL) for j in order),
                    hits=tuple(right[order].tolist()),
                    rank=int(ranks[i]),
                )
            )
        return rows


@dataclass(frozen=True)
class MultilingualRetrieval(Retrieval, name="multilingual_retrieval"):
    """`Retrieval` in each language by itself, and the mean over languages, as for XM3600.

    Each example has a tag for each caption, its language. Images are encoded once. `captions` is
    for each language: 1 is what CLIP_benchmark does, None takes all.

    Metrics: those of `Retrieval` as `LANGUAGE/NAME`; for recall also `mean/NAME`, the mean over
    languages; the counts `languages`, `examples` and `unreadable`.

    >>> from vljax.recipes import Xm3600
    >>> MultilingualRetrieval(Xm3600("xm3600", language="all"), captions=1).headline
    ('mean/text_to_image/recall@1', 'mean/image_to_text/recall@1')
    """

    headline = ("mean/text_to_image/recall@1", "mean/image_to_text/recall@1")

    def check(self, data: EvaluationData) -> None:
        """See `Evaluator.check`. Raises UserError unless each caption has a language."""
        super().check(data)
        for about in data.annotations:
            if len(about.captions) != len(about.tags):
                raise UserError(
                    f"{self.source.full_name}: an example has {len(about.captions)} captions, but"
                    f" {len(about.tags)} tags for their languages; for XM3600, set language to all"
                )

    def measure(self, predictor: Predictor, data: EvaluationData) -> dict[str, float]:
        """See the class. Raises UserError if no readable example has a caption."""
        images = embed_images(predictor, data, self.batch_size, where=_captioned(data))
        if not len(images.index):
            raise UserError(f"no readable example of {self.source.full_name} has a caption")
        by_language = self._by_language(data)
        metrics, means = dict[str, float](), dict[str, list[Sampled]]()
        for language, captions in by_language.items():
            rows = np.array([i for i, index in enumerate(images.index) if captions[index]])
            if not len(rows):
                continue
            index = images.index[rows]
            own = [captions[i] for i in index]
            found = self._ranked(predictor, data, images.embedding[rows], own, index)
            for name, value in found.items():
                metrics[f"{language}/{name}"] = value
                if "/recall@" in name and isinstance(value, Sampled):
                    means.setdefault(name, []).append(value)
        for name, each in means.items():
            values, examples = (
                np.concatenate([getattr(one, part) for one in each])
                for part in ("values", "examples")
            )
            language_of = np.repeat(np.arange(len(each)), [len(one.values) for one in each])
            metrics[f"mean/{name}"] = Sampled(values, examples, "mean_per_class", language_of)
        counts = {"languages": len(by_language), "examples": len(images.index)}
        counts["unreadable"] = images.unreadable
        return metrics | {name: float(count) for name, count in counts.items()}

    def inputs(self, data: EvaluationData) -> int:
        texts = (len(own) for each in self._by_language(data).values() for own in each)
        return len(data.labels) + sum(texts)

    def figures(self, predictor: Predictor, data: EvaluationData) -> dict[str, Draw]:
        """None: captions of all languages in one grid would say little."""
        return {}

    def _by_language(self, data: EvaluationData) -> dict[str, list[tuple[str, ...]]]:
        """The captions of each example in each language, without blank ones."""
        found: dict[str, list[list[str]]] = {}
        for i, (about, usable) in enumerate(zip(data.annotations, data.captions, strict=True)):
            for text, language in zip(about.captions, about.tags, strict=True):
                if text in usable:
                    of_all = found.setdefault(language, [[] for _ in data.annotations])
                    of_all[i].append(text)
        return {
            language: [tuple(own[: self.captions]) for own in of_all]
            for language, of_all in sorted(found.items())
        }


def _grouped(captions: Sequence[tuple[str, ...]]) -> _Texts:
    """The texts to rank for images that have at least one caption each."""
    if all(len(of_one) == 1 for of_one in captions):
        texts, image_groups = distinct_captions([caption for (caption,) in captions])
        return _Texts(texts, np.arange(len(texts)), image_groups)
    images = np.arange(len(captions))
    owner = np.repeat(images, [len(of_one) for of_one in captions])
    return _Texts([text for of_one in captions for text in of_one], owner, images)


@dataclass(frozen=True)
class _Texts:
    """The texts to rank. A text and an image match if they are in the same group."""

    texts: list[str]
    text_groups: Int[np.ndarray, " texts"]
    image_groups: Int[np.ndarray, " images"]

    @property
    def first_images(self) -> Int[np.ndarray, " texts"]:
        """The first image that matches each text."""
        groups, first = np.unique(self.image_groups, return_index=True)
        return first[np.searchsorted(groups, self.text_groups)]


def _captioned(data: EvaluationData) -> Bool[np.ndarray, " examples"]:
    return np.array([bool(captions) for captions in data.captions], bool)


def distinct_captions(captions: Sequence[str]) -> tuple[list[str], Int[np.ndarray, " captions"]]:
    """The captions without repetitions, and for each input the index of its caption there.

    Captions are equal if they differ in case and white space only. The first spelling is kept, in
    the order of first appearance.

    >>> distinct_captions(["A cat", "a dog", "a  CAT"])
    (['A cat', 'a dog'], array([0, 1, 0]))
    """
    number: dict[str, int] = {}
    first: list[str] = []
    groups = np.zeros(len(captions), np.int64)
    for i, caption in enumerate(captions):
        key = " ".join(caption.lower().split())
        if key not in number:
            number[key] = len(number)
            first.append(caption)
        groups[i] = number[key]
    return first, groups


def _direction(
    name: str,
    ranks: Int[np.ndarray, " queries"],
    positives: Int[np.ndarray, " queries"],
    candidates: int,
    examples: Int[np.ndarray, " queries"],
) -> dict[str, float]:
    metrics: dict[str, float] = {f"{name}/median_rank": Sampled(ranks, examples, "median")}
    for k in RECALL_AT:
        metrics[f"{name}/recall@{k}"] = Sampled(ranks <= k, examples)
        metrics[f"{name}/recall@{k}_chance"] = chance_recall_at_k(positives, candidates, k)
    return metrics
