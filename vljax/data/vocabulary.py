"""Vocabularies of answers and of object names: files, tuples in a recipe, and how they are made.

A vocabulary is a tuple of texts, or a file with one text per line, the most frequent first. Texts
are compared in lower case, with single spaces.
"""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass

from vljax.config import UserError, setting
from vljax.data.cache import cached
from vljax.data.records import Annotation, ExampleError, Progress, Source
from vljax.files import read_names


def normalised(text: str) -> str:
    """A text as vocabularies hold it.

    >>> normalised(" Red  wine")
    'red wine'
    """
    return " ".join(text.lower().split())


@dataclass(frozen=True)
class VocabularyFile:
    """A file with one text per line, the most frequent first, as `vljax data answers` writes.

    >>> with open("answers.txt", "w") as file:
    ...     _ = file.write("yes\\nno\\nred\\n")
    >>> terms(VocabularyFile("answers.txt", size=2))
    ('yes', 'no')
    """

    path: str | None = setting(None, path=True)
    """The file, local or remote: lines of text, or a JSON list."""
    _: KW_ONLY
    size: int
    """Number of texts to use, from the first on. The shapes of arrays follow from it, so that a
    recipe can be checked without the file."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.size < 1:
            yield "size", f"must be at least 1, got {self.size}"


Vocabulary = tuple[str, ...] | VocabularyFile


def vocabulary_size(vocabulary: Vocabulary) -> int:
    """Number of texts; reads no file.

    >>> vocabulary_size(("yes", "no"))
    2
    """
    return vocabulary.size if isinstance(vocabulary, VocabularyFile) else len(vocabulary)


def terms(vocabulary: Vocabulary) -> tuple[str, ...]:
    """The texts of a vocabulary, normalised.

    Raises:
      UserError: if the file is unset, missing, malformed, too short, or has a text twice.
    """
    if isinstance(vocabulary, VocabularyFile):
        return _read(vocabulary)
    return tuple(normalised(term) for term in vocabulary)


@functools.lru_cache(maxsize=8)
def indices(vocabulary: Vocabulary) -> dict[str, int]:
    """Text -> index in a vocabulary; raises as `terms` does.

    >>> indices(("Yes", "no"))
    {'yes': 0, 'no': 1}
    """
    return {term: i for i, term in enumerate(terms(vocabulary))}


def problems(vocabulary: Vocabulary) -> Iterator[str]:
    """What is wrong with a vocabulary in a recipe, without reading a file."""
    if isinstance(vocabulary, VocabularyFile):
        return
    if not vocabulary:
        yield "is empty; name texts, or a file with path and size"
    for term, count in Counter(terms(vocabulary)).items():
        if count > 1:
            yield f"has {term!r} {count} times"


def _read(file: VocabularyFile) -> tuple[str, ...]:
    if file.path is None:
        raise UserError("path of a vocabulary: unset; `vljax data answers` writes such a file")
    found = [normalised(name) for name in read_names(file.path)]
    if len(found) < file.size:
        raise UserError(f"{file.path}: has {len(found)} texts, fewer than size {file.size}")
    found = found[: file.size]
    for term, count in Counter(found).items():
        if count > 1:
            raise UserError(f"{file.path}: has {term!r} {count} times")
    return tuple(found)


# --- Vocabularies from data -----------------------------------------------------------------------


@dataclass(frozen=True)
class TermCounts:
    """How often each text occurs in a source, the most frequent first."""

    counts: tuple[tuple[str, int], ...]
    """Texts with their number; equal numbers in alphabetical order."""

    @property
    def total(self) -> int:
        """Number of occurrences."""
        return sum(count for _, count in self.counts)

    @classmethod
    def of(cls, counter: Mapping[str, int]) -> TermCounts:
        """The counts of a counter.

        >>> TermCounts.of({"no": 1, "yes": 2, "a": 1}).counts
        (('yes', 2), ('a', 1), ('no', 1))
        """
        return cls(tuple(sorted(counter.items(), key=lambda item: (-item[1], item[0]))))

    def most_frequent(self, most: int | None, min_count: int = 1) -> tuple[str, ...]:
        """The most frequent texts.

        >>> TermCounts((("yes", 5), ("no", 4), ("two", 1))).most_frequent(3, min_count=2)
        ('yes', 'no')
        """
        return tuple(term for term, count in self.counts[:most] if count >= min_count)

    def share(self, known: tuple[str, ...]) -> float:
        """Share of the occurrences that a vocabulary covers, 0..1."""
        inside = {*known}
        covered = sum(count for term, count in self.counts if term in inside)
        return covered / self.total if self.total else 0.0


def answer_vocabulary(
    source: Source,
    most: int | None = None,
    *,
    min_count: int = 1,
    kinds: tuple[str, ...] = (),
    examples: int | None = None,
) -> tuple[str, ...]:
    """The most frequent answers to the questions of a source, for `EncodeAnswers`.

    The counts are kept in the user's cache folder, so that only the first call reads the source.

    >>> from vljax.recipes import Scenes
    >>> answer_vocabulary(Scenes(size=64, max_objects=2), most=2, examples=50)
    ('1', 'no')

    Args:
      source: the training data.
      most: largest number of answers; None for all.
      min_count: smallest number of questions that an answer must belong to.
      kinds: kinds of questions to count; all if empty.
      examples: number of records to count, from the first on; None for all.

    Raises:
      UserError: if the source cannot be opened or has no question.
    """
    found = count_answers(source, kinds, examples=examples).most_frequent(most, min_count)
    if not found:
        raise UserError(f"{source.full_name}: has no questions with answers")
    return found


def object_names(
    source: Source, most: int | None = None, *, min_count: int = 1, examples: int | None = None
) -> tuple[str, ...]:
    """The most frequent names of regions in a source, for `GridLabels`.

    >>> from vljax.recipes import Scenes
    >>> len(object_names(Scenes(size=64, max_objects=2), most=5, examples=50))
    5

    Args:
      source: the training data.
      most: largest number of names; None for all.
      min_count: smallest number of regions that a name must belong to.
      examples: number of records to count, from the first on; None for all.

    Raises:
      UserError: if the source cannot be opened or has no region.
    """
    found = count_names(source, examples=examples).most_frequent(most, min_count)
    if not found:
        raise UserError(f"{source.full_name}: has no regions")
    return found


def tag_vocabulary(
    source: Source, most: int | None = None, *, min_count: int = 1, examples: int | None = None
) -> tuple[str, ...]:
    """The most frequent tags in a source, for `EncodeTags`.

    >>> from vljax.recipes import Builtin
    >>> tag_vocabulary(Builtin("test"), most=2)
    ('signs and symbols', 'flags')

    Args:
      source: the training data.
      most: largest number of tags; None for all.
      min_count: smallest number of records that a tag must belong to.
      examples: number of records to count, from the first on; None for all.

    Raises:
      UserError: if the source cannot be opened or has no tag.
    """
    found = count_tags(source, examples=examples).most_frequent(most, min_count)
    if not found:
        raise UserError(f"{source.full_name}: has no tags")
    return found


def count_answers(
    source: Source,
    kinds: tuple[str, ...] = (),
    *,
    examples: int | None = None,
    progress: Progress | None = None,
) -> TermCounts:
    """How often each answer occurs as the main answer to a question.

    Args:
      source: the data.
      kinds: kinds of questions to count; all if empty.
      examples: number of records to count; None for all.
      progress: called with the number of records that are counted and the total.

    Raises:
      UserError: if the source cannot be opened.
    """

    def answers(annotation: Annotation) -> list[str]:
        return [q.answer for q in annotation.questions if not kinds or q.kind in kinds]

    return _counted(source, f"answers {json.dumps(kinds)}", answers, examples, progress)


def count_names(
    source: Source, *, examples: int | None = None, progress: Progress | None = None
) -> TermCounts:
    """How often each name of a region occurs.

    Args:
      source: the data.
      examples: number of records to count; None for all.
      progress: called with the number of records that are counted and the total.

    Raises:
      UserError: if the source cannot be opened.
    """
    return _counted(source, "names", lambda a: [r.name for r in a.regions], examples, progress)


def count_tags(
    source: Source, *, examples: int | None = None, progress: Progress | None = None
) -> TermCounts:
    """How often each tag occurs.

    Args:
      source: the data.
      examples: number of records to count; None for all.
      progress: called with the number of records that are counted and the total.

    Raises:
      UserError: if the source cannot be opened.
    """
    return _counted(source, "tags", lambda a: list(a.tags), examples, progress)


_SECONDS_BETWEEN_CALLS = 0.2


def _counted(
    source: Source,
    what: str,
    terms_of: Callable[[Annotation], list[str]],
    examples: int | None,
    progress: Progress | None,
) -> TermCounts:
    records = source.open()
    total = len(records) if examples is None else min(examples, len(records))

    def count() -> list[tuple[str, int]]:
        counter: Counter[str] = Counter()
        last = time.monotonic()
        for i in range(total):
            try:
                found = terms_of(records.annotation(i))
            except ExampleError:
                continue
            counter.update(filter(None, map(normalised, found)))
            if progress is not None and time.monotonic() - last > _SECONDS_BETWEEN_CALLS:
                last = time.monotonic()
                progress(i + 1, total)
        return list(TermCounts.of(counter).counts)

    found = cached("vocabularies", f"{records.identity} {what} {total}", count)
    return TermCounts(tuple((term, count) for term, count in found))
