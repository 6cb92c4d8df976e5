"""A released model's numbers, measured here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from vljax.config import UserError, suggest
from vljax.evaluation.evaluator import Batch, Encode, ImageEmbeddings, embed_images, embed_texts
from vljax.evaluation.metrics.ranking import embedding_ranks, recall_at_k
from vljax.evaluation.zero_shot import ZeroShot
from vljax.host_process import enable_compilation_cache
from vljax.interop.foreign_model import Mapped, read_model
from vljax.programs import make_encode
from vljax.verify.data import Given, NamedSet
from vljax.verify.released import RELEASED, Figure, Released

Report = Callable[[int, int], None]
"""Is told how many images and texts are done, of how many."""


@dataclass(frozen=True)
class Compared:
    """A published number and our own, in percent."""

    figure: Figure
    own: float

    @property
    def difference(self) -> float:
        """Ours less the published one, in points."""
        return self.own - self.figure.percent

    def as_dict(self) -> dict[str, Any]:
        """The same for programs."""
        figure = self.figure
        numbers = {"published": figure.percent, "own": self.own, "difference": self.difference}
        return {"task": figure.task, "metric": figure.metric, **numbers, "source": figure.source}


def released(name: str) -> Released:
    """The released model of that name. Raises UserError for an unknown one."""
    if name not in RELEASED:
        raise UserError(f"unknown model {name!r}{suggest(name, RELEASED)}")
    return RELEASED[name]


def verify(
    name: str, weights: str, data: Sequence[Given], batch_size: int, report: Report
) -> list[Compared]:
    """Each published number of a model on the data that is here, beside our own.

    Args:
      name: a key of `RELEASED`.
      weights: what import reads.
      data: the data sets.
      batch_size: images or texts encoded at a time; no result depends on it.
      report: is told of progress.

    Raises:
      UserError: if weights or data are others than the published numbers are about.
    """
    model = released(name)
    mapped = read_model(weights)
    _check_tower(name, model, mapped, weights)
    config = mapped.reading.tokenizer.config  # that of the run has lost the path of its vocabulary
    pipeline = dataclasses.replace(mapped.prepared.run.data, tokenizer=config)
    opened = [(one, one.open(pipeline)) for one in data]
    enable_compilation_cache()
    variables = jax.device_put(mapped.variables(), jax.devices()[0])
    encode = _counted(
        make_encode(mapped.prepared)(variables), sum(_amount(*one) for one in opened), report
    )
    compared = []
    for one, examples in opened:
        own = _measured(encode, one, examples, batch_size)
        wanted = [figure for figure in model.figures if figure.task == one.task]
        compared += [Compared(figure, 100 * own[figure.metric]) for figure in wanted]
    return compared


def _check_tower(name: str, model: Released, mapped: Mapped, weights: str) -> None:
    encoders = mapped.prepared.run.model.encoders
    if set(encoders) != {"image", "text"}:
        towers = " and ".join(encoders)
        raise UserError(f"{weights}: holds {towers} alone; {name} has an image and a text tower")
    tower = encoders["image"]
    for field, value in model.tower.items():
        found = getattr(tower, field, None)
        if found != value:
            raise UserError(f"{weights}: {field} is {found!r}, and {name} has {value!r}")


def _amount(one: Given, examples: NamedSet) -> int:
    """Images and texts to encode."""
    if one.task == "imagenet":
        return len(examples) + len(one.class_names) * len(one.templates)
    captions = (examples.records.annotation(i).captions for i in range(len(examples)))
    return len(examples) + sum(map(len, captions))


def _counted(encode: Encode, total: int, report: Report) -> Encode:
    done = 0

    def counting(batch: Batch) -> dict[str, np.ndarray]:
        nonlocal done
        outputs = encode(batch)
        done += len(next(iter(outputs.values())))
        report(min(done, total), total)
        return outputs

    return counting


def _measured(encode: Encode, one: Given, examples: NamedSet, batch_size: int) -> dict[str, float]:
    if one.task == "imagenet":
        evaluator = ZeroShot(one.source, batch_size, templates=one.templates)
        found = evaluator(encode, examples)
        metrics = {key.removeprefix(f"{evaluator.prefix}/"): v for key, v in found.items()}
        _all_readable(one, int(metrics["unreadable"]))
        return metrics
    every = np.ones(len(examples), bool)
    images = embed_images(encode, examples, batch_size, where=every)
    _all_readable(one, images.unreadable)
    return retrieval(encode, examples, images, batch_size)


def _all_readable(one: Given, unreadable: int) -> None:
    if unreadable:
        raise UserError(
            f"{one.source.full_name}: {unreadable:,} images cannot be read; the published figures"
            " are of all"
        )


def retrieval(
    encode: Encode, examples: NamedSet, images: ImageEmbeddings, batch_size: int
) -> dict[str, float]:
    """Recall@1 where each image has several captions, as CLIP's paper and its successors count.

    An image finds any of its own captions, a caption its own image; equal captions of two images
    stay two.
    """
    captions = [examples.records.annotation(i).captions for i in images.index.tolist()]
    owner = np.repeat(np.arange(len(captions)), [len(of_one) for of_one in captions])
    texts = embed_texts(encode, examples, [text for one in captions for text in one], batch_size)
    own = np.arange(len(captions))
    ranks = {
        "image_to_text": embedding_ranks(images.embedding, texts, own, owner, similarity="cosine"),
        "text_to_image": embedding_ranks(texts, images.embedding, owner, own, similarity="cosine"),
    }
    return {f"{name}/recall@1": recall_at_k(found, 1) for name, found in ranks.items()}
