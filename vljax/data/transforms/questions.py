"""Questions about an image, and their answers as soft targets."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vljax.config import UserError
from vljax.data.records import ExampleError, Question, Records
from vljax.data.transforms.base import Arrays, Context, Example, Transform, check_probability
from vljax.data.vocabulary import Vocabulary, indices, normalised, problems, vocabulary_size


@dataclass(frozen=True)
class ChooseQuestions(Transform, name="choose_questions"):
    """Choose questions of a record at random.

    It makes `question`, a tuple of `count` texts, and `answers`: for each question a tuple of pairs
    of an answer and its weight. Questions are drawn without replacement; if there are too few, all
    are drawn before any comes again. With `count` None, the record must have exactly one question,
    as those of `Expand` do; then `question` is a text and `answers` a tuple of pairs.

    >>> from vljax.data.records import Record
    >>> asked = Question("count", "How many cats?", "2"), Question("colour", "Which colour?", "red")
    >>> record = Record(captions=(), image=b"", questions=asked)
    >>> chosen = ChooseQuestions(count=3)({"record": record}, np.random.default_rng(0))
    >>> chosen["question"]
    ('How many cats?', 'Which colour?', 'How many cats?')
    >>> chosen["answers"][0]
    (('2', 1.0),)
    """

    count: int | None = 1
    """Number of questions for each image; None means the only question of an expanded record."""
    kinds: tuple[str, ...] = ()
    """Kinds of questions to choose from; all if empty."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.count is not None and self.count < 1:
            yield "count", f"must be at least 1, or None for expanded records, got {self.count}"

    def reads(self) -> tuple[str, ...]:
        return ("record",)

    def makes(self) -> tuple[str, ...]:
        return "question", "answers"

    def counts(self) -> dict[str, int]:
        return {} if self.count is None else {"question": self.count, "answers": self.count}

    def asks(self, question: Question) -> bool:
        """Whether a question is of a kind to choose from."""
        return not self.kinds or question.kind in self.kinds

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        questions = [q for q in example["record"].questions if self.asks(q)]
        if not questions:
            raise ExampleError("no question", kind="no_question")
        for question in questions:
            if not question.text.strip():
                raise ExampleError("a question is empty", kind="no_question")
            if not any(answer.strip() for answer, _ in question.weighted_answers):
                raise ExampleError(f"question {question.text!r} has no answer", kind="no_question")
        if self.count is None:
            if len(questions) > 1:
                raise ExampleError(f"{len(questions)} questions; expand the source, or set count")
            (one,) = questions
            return {**example, "question": one.text, "answers": one.weighted_answers}
        order: list[int] = []
        while len(order) < self.count:
            order += rng.permutation(len(questions)).tolist()
        chosen = [questions[i] for i in order[: self.count]]
        return {
            **example,
            "question": tuple(question.text for question in chosen),
            "answers": tuple(question.weighted_answers for question in chosen),
        }


_CHECK_SECONDS = 3.0
_SHOWN = 5


@dataclass(frozen=True)
class EncodeAnswers(Transform, name="encode_answers"):
    """Turn the answers to each question into a distribution over a vocabulary.

    It makes `answer`, float32[count, size] (or float32[size] if `choose_questions` has no count):
    the weights of the answers in the vocabulary, normalised to the sum 1. Other answers are
    dropped; a row without any known answer is all zeros, which objectives ignore.

    >>> encode = EncodeAnswers(("yes", "no", "red"))
    >>> example = {"answers": ((("Red", 3.0), ("no", 1.0), ("pink", 4.0)), (("blue", 1.0),))}
    >>> encode(example, np.random.default_rng(0))["answer"].tolist()
    [[0.0, 0.25, 0.75], [0.0, 0.0, 0.0]]
    """

    vocabulary: Vocabulary
    """Answers, or a file of them, as `vljax data answers` writes it."""
    max_unknown: float = 0.2
    """Largest share of questions without a known answer, among the records of the training data
    that are looked at: the first 2000 when training opens them, a sample in `vljax check`. A larger
    share is an error."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from (("vocabulary", message) for message in problems(self.vocabulary))
        yield from check_probability("max_unknown", self.max_unknown)

    def reads(self) -> tuple[str, ...]:
        return ("answers",)

    def makes(self) -> tuple[str, ...]:
        return ("answer",)

    def arrays(self, context: Context) -> Arrays:
        size, count = vocabulary_size(self.vocabulary), context.counts.get("answers")
        return {"answer": ((size,) if count is None else (count, size), np.dtype(np.float32))}

    def classes(self) -> Vocabulary:
        return self.vocabulary

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        answers = example["answers"]
        if answers and isinstance(answers[0][0], str):
            return {**example, "answer": self._target(answers)}
        return {**example, "answer": np.stack([self._target(pairs) for pairs in answers])}

    def _target(self, answers: Sequence[tuple[str, float]]) -> np.ndarray:
        known = indices(self.vocabulary)
        target = np.zeros(len(known), np.float32)
        for answer, weight in answers:
            i = known.get(normalised(answer))
            if i is not None:
                target[i] += weight
        total = target.sum()
        return target / total if total > 0 else target

    def check_records(
        self, records: Records, before: Sequence[Transform], record_indices: Sequence[int]
    ) -> tuple[str, ...]:
        choices = [t for t in before if isinstance(t, ChooseQuestions)]
        known = indices(self.vocabulary)
        asked, unknown = 0, Counter[str]()
        end = time.monotonic() + _CHECK_SECONDS
        for i in record_indices:
            if time.monotonic() > end:
                break
            try:
                questions = records.annotation(i).questions
            except ExampleError:
                continue
            for question in questions:
                if not all(choice.asks(question) for choice in choices):
                    continue
                asked += 1
                if not any(normalised(a) in known for a, _ in question.weighted_answers):
                    unknown[normalised(question.answer)] += 1
        missing = unknown.total()
        if not missing:
            return ()
        names = ", ".join(f"{term!r} ({n})" for term, n in unknown.most_common(_SHOWN))
        share = missing / asked
        message = (
            f"{share:.1%} of {asked:,} questions have no answer in the vocabulary of "
            f"{len(known):,}: {names}"
        )
        if share > self.max_unknown:
            raise UserError(
                f"encode_answers: {message}; make a larger one with `vljax data answers`, or raise "
                f"max_unknown above {self.max_unknown}"
            )
        return (f"encode_answers: {message}",)
