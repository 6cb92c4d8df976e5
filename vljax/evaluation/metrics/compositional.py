"""Right against wrong pairs of image and caption: Winoground and SugarCrepe."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from vljax.evaluation.metrics.checks import (
    check_choice,
    check_finite,
    check_same_length,
    check_shape,
)


class Winoground(NamedTuple):
    """1 for each example that is right, else 0; the scores of a set are the means."""

    text: Float[np.ndarray, " examples"]
    """For each image, its own caption scores higher."""
    image: Float[np.ndarray, " examples"]
    """For each caption, its own image scores higher."""
    group: Float[np.ndarray, " examples"]
    """Both."""


def winoground(scores: Float[np.ndarray, "examples captions=2 images=2"]) -> Winoground:
    """Text, image and group score of each example (Thrush et al. 2022, eq. 1-3). Ties are wrong.

    >>> scores = np.array([[[0.9, 0.8], [0.1, 0.85]]])
    >>> winoground(scores)
    Winoground(text=array([1.]), image=array([1.]), group=array([1.]))

    Args:
      scores: of caption c with image i, larger is nearer; caption 0 belongs to image 0.

    Raises:
      UserError: if there are no examples, or a score is NaN or infinite.
    """
    check_finite(scores, "scores")
    check_shape(scores, "scores", None, 2, 2)
    (c0_i0, c0_i1), (c1_i0, c1_i1) = np.moveaxis(scores, 0, -1)
    text = (c0_i0 > c1_i0) & (c1_i1 > c0_i1)
    image = (c0_i0 > c0_i1) & (c1_i1 > c1_i0)
    return Winoground(*(right.astype(np.float64) for right in (text, image, text & image)))


def caption_choice(
    right: Float[np.ndarray, " examples"],
    wrong: Float[np.ndarray, " examples"],
    *,
    ties: Literal["wrong", "right"] = "wrong",
) -> Float[np.ndarray, " examples"]:
    """1 for each image that is nearer to its caption than to the other one, else 0.

    SugarCrepe (Hsieh et al. 2023, `main_eval.py`), for each of its seven categories by itself.

    >>> right, wrong = np.array([0.3, 0.2]), np.array([0.1, 0.2])
    >>> caption_choice(right, wrong).tolist(), caption_choice(right, wrong, ties="right").tolist()
    ([1.0, 0.0], [1.0, 1.0])

    Args:
      right: score of each image with its own caption.
      wrong: score with the changed caption.
      ties: "wrong" as in the official script; CLIP_benchmark takes the first of equal scores, which
        is the right caption.

    Raises:
      UserError: if there are no examples, the numbers differ, or a score is NaN or infinite.
    """
    check_same_length(right=right, wrong=wrong)
    check_finite(right, "right")
    check_finite(wrong, "wrong")
    check_choice(ties, "ties", "wrong", "right")
    return (right > wrong if ties == "wrong" else right >= wrong).astype(np.float64)
