"""Questions, answers, boxes and groups in the columns of a source."""

from __future__ import annotations

import abc
from collections import Counter
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy as np

from vljax.data.records import ExampleError, Question, Region, Source, is_nan
from vljax.files import encodable, parse_json

BoxFormat = Literal["ltrb", "ltwh"]
"""What the four numbers of a box are: left, top, and right, bottom or width, height; in pixels."""


@dataclass(frozen=True)
class AnnotatedSource(Source, abc.ABC):
    """A source whose columns may hold questions, boxes and the group of an example.

    In tables of text, lists are JSON.
    """

    _: KW_ONLY
    question: str | None = None
    """Column with a question, or a list: of texts, or of objects with `question`, `answer` or
    `answers`, and perhaps `kind`."""
    answers: str | None = None
    """Column with the answer, or a list of the answers of several people: texts, or objects with
    `answer`. For a list of questions, a list with one of these for each."""
    boxes: str | None = None
    """Column with a list of boxes, each four numbers in pixels."""
    box_format: BoxFormat = "ltrb"
    """"ltrb": left, top, right, bottom; "ltwh": left, top, width, height, as in COCO."""
    box_names: str | None = None
    """Column with the names of the boxes: a list, or one text for all."""
    group: str | None = None
    """Column with the group of an example, such as "waterbird on land"; evaluation measures the
    worst group too."""

    @property
    def named_columns(self) -> dict[str, str]:
        """Field -> column, for the fields above that are set."""
        names = ("question", "answers", "boxes", "box_names", "group")
        return {name: column for name in names if (column := getattr(self, name)) is not None}

    def annotations(self, values: dict[str, Any]) -> dict[str, Any]:
        """The fields `questions`, `regions` and `group` of an annotation.

        Args:
          values: the value of each column.

        Raises:
          ExampleError: if a value is not as described above; it names the column.
        """
        found: dict[str, Any] = {}
        if self.question is not None:
            answers = None if self.answers is None else _plain(values[self.answers])
            found["questions"] = _questions(
                _plain(values[self.question]), answers, self.question, self.answers
            )
        if self.boxes is not None:
            names = None if self.box_names is None else _plain(values[self.box_names])
            found["regions"] = _regions(
                _plain(values[self.boxes]), names, self.boxes, self.box_names, self.box_format
            )
        if self.group is not None:
            group = _plain(values[self.group])
            found["group"] = None if group is None else _text(group, self.group) or None
        return found


def _plain(value: Any) -> Any:
    """A value as JSON data: text that begins like a list or object is parsed, NaN is None."""
    if is_nan(value):
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8-sig", "replace")
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return parse_json(value)
        except ValueError:
            return value
    return value


def _damaged(column: str | None, message: str) -> ExampleError:
    return ExampleError(f"{column} {message}", kind="damaged")


def _questions(
    value: Any, answers: Any, column: str, answer_column: str | None
) -> tuple[Question, ...]:
    if value is None or value == "" or value == []:
        return ()
    if not isinstance(value, list):
        return (_question(_text(value, column), answers, "question", answer_column or column),)
    if answers is None:
        answers = [None] * len(value)
    if not isinstance(answers, list) or len(answers) != len(value):
        count = len(answers) if isinstance(answers, list) else 1
        raise _damaged(answer_column, f"has {count} answers for {len(value)} questions")
    found = []
    for item, given in zip(value, answers, strict=True):
        kind = "question"
        if isinstance(item, dict):
            kind = encodable(str(item.get("kind", kind)))
            given = item.get("answers", item.get("answer", given))
            item = item.get("question")
        found.append(_question(_text(item, column), given, kind, answer_column or column))
    return tuple(found)


def _question(text: str, given: Any, kind: str, column: str) -> Question:
    people = given if isinstance(given, list) else [] if given is None else [given]
    weights: Counter[str] = Counter()
    for item in people:
        answer = item.get("answer") if isinstance(item, dict) else item
        weights[_text(answer, column)] += 1
    weights.pop("", None)
    if not weights:
        raise _damaged(column, f"has no answer to {text!r}")
    ((main, _),) = weights.most_common(1)
    several = tuple((answer, float(count)) for answer, count in weights.items())
    return Question(kind, text, main, several if len(several) > 1 else ())


def _text(value: Any, column: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _damaged(column, f"must hold texts, got {value!r}")
    return encodable(str(value).strip())


def _regions(
    value: Any, names: Any, column: str, name_column: str | None, form: BoxFormat
) -> tuple[Region, ...]:
    if value is None or value == "" or value == []:
        return ()
    if not isinstance(value, list):
        raise _damaged(column, f"must be a list of boxes, got {value!r}")
    items = value if isinstance(value[0], list) else [value]
    boxes = [_box(item, column, form) for item in items]
    if not isinstance(names, list):
        names = ["" if names is None else names] * len(boxes)
    if len(names) != len(boxes):
        raise _damaged(name_column, f"has {len(names)} names for {len(boxes)} boxes")
    return tuple(
        Region(_text(name, name_column or column), box)
        for name, box in zip(names, boxes, strict=True)
    )


_LARGEST_EDGE = 2**31  # neither NaN nor infinity is below it


def _box(value: Any, column: str, form: BoxFormat) -> tuple[int, int, int, int]:
    numbers = value if isinstance(value, list) else []
    finite = [isinstance(n, int | float) and abs(n) < _LARGEST_EDGE for n in numbers]
    if finite != [True] * 4:
        raise _damaged(column, f"must hold boxes of four numbers, got {value!r}")
    left, top, right, bottom = numbers
    if form == "ltwh":
        right, bottom = left + right, top + bottom
    return round(left), round(top), round(right), round(bottom)
