"""What all metrics ask of their input. A violation is a `UserError` that names the input."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence, Sized
from typing import TypeVar

import numpy as np

from vljax.config import UserError, suggest

T = TypeVar("T")
U = TypeVar("U")
_SHOWN = 3


def check_some(values: Sized, name: str) -> None:
    """Raises UserError if there are no values.

    >>> check_some([], "predictions")
    Traceback (most recent call last):
    vljax.config.UserError: predictions: there are none; a metric needs at least one
    """
    if not len(values):
        raise UserError(f"{name}: there are none; a metric needs at least one")


def check_same_length(**values: Sized) -> None:
    """Raises UserError if the named inputs are empty or differ in length.

    >>> check_same_length(scores=[0.1, 0.9], labels=[0])
    Traceback (most recent call last):
    vljax.config.UserError: scores has 2 entries and labels has 1; there must be one of each for ...
    """
    (first, of_first), *others = values.items()
    check_some(of_first, first)
    for name, of_other in others:
        if len(of_other) != len(of_first):
            raise UserError(
                f"{first} has {len(of_first)} entries and {name} has {len(of_other)}; "
                "there must be one of each for every example"
            )


def check_finite(values: np.ndarray, name: str) -> None:
    """Raises UserError if there are no values, or one is NaN or infinite.

    >>> check_finite(np.array([0.5, np.nan]), "scores")
    Traceback (most recent call last):
    vljax.config.UserError: scores[1] is nan; 1 of 2 entries is NaN or infinite: leave such ...
    """
    check_some(values, name)
    wrong = ~np.isfinite(values)
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        count = int(wrong.sum())
        raise UserError(
            f"{name}[{', '.join(map(str, first))}] is {values[first]}; {count} of {values.size} "
            f"entries {'is' if count == 1 else 'are'} NaN or infinite: leave such examples out, "
            "or mend the model that made them"
        )


def check_labels(labels: np.ndarray, classes: int, name: str) -> None:
    """Raises UserError if a label is outside 0..classes-1.

    >>> check_labels(np.array([0, 5]), 3, "labels")
    Traceback (most recent call last):
    vljax.config.UserError: labels[1] is 5; with 3 classes it must be from 0 to 2
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        first = int(wrong[0])
        raise UserError(
            f"{name}[{first}] is {labels[first]}; with {classes} classes it must be from 0 to "
            f"{classes - 1}"
        )


def check_flags(values: np.ndarray, name: str) -> None:
    """Raises UserError if values are not booleans: 0 and 1, or 0 and 255, would count wrongly.

    >>> check_flags(np.array([0, 1]), "positives")
    Traceback (most recent call last):
    vljax.config.UserError: positives: has int64 values; give booleans, such as `positives > 0`
    """
    if values.dtype != bool:
        raise UserError(f"{name}: has {values.dtype} values; give booleans, such as `{name} > 0`")


def check_shape(values: np.ndarray, name: str, *shape: int | None) -> None:
    """Raises UserError if an array has another shape; None is any size.

    >>> check_shape(np.zeros((2, 3)), "boxes", None, 4)
    Traceback (most recent call last):
    vljax.config.UserError: boxes: has the shape (2, 3); it must be (any, 4)
    """
    if len(values.shape) != len(shape) or any(
        wanted is not None and size != wanted
        for size, wanted in zip(values.shape, shape, strict=True)
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise UserError(f"{name}: has the shape {values.shape}; it must be ({wanted})")


def check_choice(value: str, name: str, *choices: str) -> None:
    """Raises UserError if an option is none of the choices.

    >>> check_choice("micor", "average", "macro", "micro")
    Traceback (most recent call last):
    vljax.config.UserError: average: unknown value 'micor'; did you mean 'micro'?
    """
    if value not in choices:
        raise UserError(f"{name}: unknown value {value!r}{suggest(str(value), choices)}")


def check_texts(texts: Sequence[str], name: str) -> None:
    """Raises UserError if there are no texts, or it is one text and not a sequence of them.

    >>> check_texts("yes please", "references")
    Traceback (most recent call last):
    vljax.config.UserError: references: is one text, 'yes please'; give a sequence of texts
    """
    if isinstance(texts, str):
        raise UserError(f"{name}: is one text, {texts!r}; give a sequence of texts")
    check_some(texts, name)


def by_id(rows: Sequence[tuple[Hashable, T]], name: str) -> dict[Hashable, T]:
    """Pairs of id and value as a dict.

    >>> by_id([("q1", "yes"), ("q1", "no")], "predictions")
    Traceback (most recent call last):
    vljax.config.UserError: predictions: id 'q1' is there 2 times; give each example once

    Raises:
      UserError: if there are none, or an id occurs twice.
    """
    check_some(rows, name)
    found = dict(rows)
    if len(found) < len(rows):
        counts: dict[Hashable, int] = {}
        for key, _ in rows:
            counts[key] = counts.get(key, 0) + 1
        first, times = next((key, n) for key, n in counts.items() if n > 1)
        raise UserError(f"{name}: id {first!r} is there {times} times; give each example once")
    return found


def matched(
    predictions: Sequence[tuple[Hashable, T]],
    references: Mapping[Hashable, U],
    *,
    names: tuple[str, str] = ("predictions", "references"),
) -> tuple[list[T], list[U]]:
    """Predictions and references of the same examples, in the order of the references.

    >>> matched([(2, "no"), (1, "a cat")], {1: ("cat",), 2: ("no",)})
    (['a cat', 'no'], [('cat',), ('no',)])

    Args:
      predictions: pairs of an example's id and what a model gave.
      references: the truth of each id.
      names: what error messages call the two, such as their files.

    Raises:
      UserError: if there are no predictions, an id occurs twice, or one of the two lacks an id.
    """
    given = by_id(predictions, names[0])
    for ours, other, (name, other_name) in (
        (given, references, names),
        (references, given, names[::-1]),
    ):
        lacking = [key for key in other if key not in ours]
        if lacking:
            shown = ", ".join(map(repr, lacking[:_SHOWN]))
            raise UserError(
                f"{name}: has no entry for {len(lacking)} of {len(other)} ids of {other_name}, "
                f"such as {shown}; both must hold the same examples"
            )
    return [given[key] for key in references], list(references.values())
