"""Image-text matching as questions: does this caption belong to this image?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from vljax.config import UserError
from vljax.data.records import Annotation, ExampleError, Question, Record, Records, Source
from vljax.data.sources.mixture import Mixture
from vljax.data.vocabulary import normalised

_TRIES = 20


@dataclass(frozen=True)
class Matching(Source, name="matching"):
    """Another source whose captions become questions: `yes` for its own, `no` for another image's.

    Each caption of a record is asked `mismatched` times, and as many captions of other images, so
    that half of the answers are yes. A wrong caption never has the text of one of the record's own
    captions. `csv`, `tsv` and `jsonl` tell by the path of the file which records show the same
    image; tar shards and parquet files count each record as another image. Which captions are asked
    depends only on the index of the record and on `seed`.

    Every model that answers questions can learn image-text matching from it: choose among the
    questions by `ChooseQuestions`, or use `Expand(..., by="question")`.

    >>> from vljax.datasets import Builtin
    >>> [(q.text, q.answer) for q in Matching(Builtin("test")).open().annotation(0).questions]
    [('2 dead frogs', 'yes'), ('dots square grid pattern', 'no')]
    """

    source: Source
    """The source of images with captions."""
    mismatched: int = 1
    """Captions of other images for each caption of an image."""
    seed: int = 0
    """Seed of the choice of captions."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if isinstance(self.source, Mixture | Matching):
            yield "source", f"cannot be of type {self.source.type_name}; name one of its sources"
        if self.mismatched < 1:
            yield "mismatched", f"must be at least 1, got {self.mismatched}"
        if self.seed < 0:
            yield "seed", f"must not be negative, got {self.seed}"

    @property
    def full_name(self) -> str:
        return f"{self.type_name}:{self.source.full_name}"

    @property
    def dataset(self) -> str:
        """The name of the source of the captions."""
        return self.source.dataset

    @property
    def split_name(self) -> str:
        """The split of the source of the captions."""
        return self.source.split_name

    def open(self) -> Records:
        try:
            records = self.source.open()
        except UserError as error:
            raise UserError(str(error).replace("data.source.", "data.source.source.")) from error
        return MatchingRecords(self, records)


class MatchingRecords(Records):
    """The records of another source with questions of matching in place of its own.

    Args:
      config: how captions are chosen.
      records: the opened source.

    Raises:
      UserError: if there are fewer than two images.
    """

    def __init__(self, config: Matching, records: Records):
        self._config, self._records = config, records
        self._images = records.image_numbers()
        images = len(np.unique(self._images))
        if images < 2:
            found = "has one image" if images else "has no examples"
            raise UserError(f"{config.source.full_name}: {found}; matching needs two images")
        self.class_names, self.image_count = records.class_names, records.image_count
        key = f"matching {config.mismatched} {config.seed} {records.identity}"
        self.identity = hashlib.sha256(key.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._records)

    def image_numbers(self) -> Int64[np.ndarray, " examples"]:
        return self._images

    def annotation(self, index: int) -> Annotation:
        return self._asked(index, self._records.annotation(index))

    def image(self, index: int) -> bytes:
        return self._records.image(index)

    def more_images(self, index: int) -> tuple[bytes, ...]:
        return self._records.more_images(index)

    def masks(self, index: int) -> bytes | None:
        return self._records.masks(index)

    def __getitem__(self, index: int) -> Record:
        whole = self._records[index]
        return replace(whole, questions=self._asked(index, whole).questions)

    def _asked(self, index: int, about: Annotation) -> Annotation:
        own = [caption for caption in about.captions if caption.strip()]
        texts = {normalised(caption) for caption in own}
        rng = np.random.default_rng((self._config.seed, index))
        questions = []
        for caption in own:
            wrong = [self._other(index, texts, rng) for _ in range(self._config.mismatched)]
            questions += [Question("match", caption, "yes")] * self._config.mismatched
            questions += [Question("match", text, "no") for text in wrong]
        return replace(about, questions=tuple(questions))

    def _other(self, index: int, own: set[str], rng: np.random.Generator) -> str:
        """A caption of another image, whose text is none of `own`."""
        for _ in range(_TRIES):
            other = int(rng.integers(len(self)))
            if self._images[other] == self._images[index]:
                continue
            try:
                captions = [c for c in self._records.annotation(other).captions if c.strip()]
            except ExampleError:
                continue
            captions = [caption for caption in captions if normalised(caption) not in own]
            if captions:
                return captions[int(rng.integers(len(captions)))]
        raise ExampleError(f"no caption of another image in {_TRIES} draws", kind="no_caption")
