"""Classification metrics: top-k accuracy and mean per-class recall."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def top_k_accuracy(ranks: Int[np.ndarray, " examples"], k: int) -> float:
    """The fraction of examples, in [0, 1], with the true class among the first `k`.

    >>> top_k_accuracy(np.array([1, 3, 6, 2]), k=3)
    0.75

    Args:
      ranks: rank of the true class of each example, from 1, with ties against the model
        (`embedding_ranks` with the class as group).
      k: how many classes count.

    Raises:
      ValueError: if there are no examples.
    """
    if not len(ranks):
        raise ValueError("the accuracy of no examples is undefined")
    return float(np.mean(ranks <= k))


def mean_per_class_recall(
    ranks: Int[np.ndarray, " examples"], labels: Int[np.ndarray, " examples"]
) -> float:
    """Top-1 accuracy within each class, in [0, 1], averaged over the classes that have examples.

    >>> mean_per_class_recall(np.array([1, 1, 1, 2]), labels=np.array([0, 0, 0, 1]))
    0.5

    Args:
      ranks: rank of the true class of each example, from 1.
      labels: the true class of each example, from 0.

    Raises:
      ValueError: if there are no examples.
    """
    if not len(ranks):
        raise ValueError("the accuracy of no examples is undefined")
    examples = np.bincount(labels)
    right = np.bincount(labels, weights=ranks == 1)
    present = examples > 0
    return float(np.mean(right[present] / examples[present]))
