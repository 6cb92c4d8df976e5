"""Classes, labels and probabilities: accuracy, F1, AP, AUROC, calibration, perplexity."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from vljax.config import UserError
from vljax.evaluation.metrics.checks import (
    check_choice,
    check_finite,
    check_flags,
    check_labels,
    check_same_length,
    check_shape,
    check_some,
)
from vljax.evaluation.metrics.ranking import best_positive_ranks


def label_ranks(
    scores: Num[np.ndarray, "examples classes"],
    labels: Int[np.ndarray, " examples"],
    *,
    ties: Literal["wrong", "first"] = "wrong",
) -> Int[np.ndarray, " examples"]:
    """The rank, from 1, of the true class of each example, for `top_k_accuracy`.

    Without ties, top-k accuracy is that of open_clip, timm and CLIP_benchmark. Theirs leaves to
    `torch.topk` which of equal scores comes first.

    >>> label_ranks(np.array([[0.1, 0.9], [0.5, 0.5]]), np.array([0, 0])).tolist()
    [2, 2]

    Args:
      scores: larger is more likely.
      labels: true classes, from 0.
      ties: "wrong": other classes with the same score come first; "first": by class number, as
        `argmax` does.

    Raises:
      UserError: if there are no examples, a score is NaN or infinite, or a label is out of range.
    """
    check_same_length(scores=scores, labels=labels)
    check_finite(scores, "scores")
    check_labels(labels, scores.shape[1], "labels")
    check_choice(ties, "ties", "wrong", "first")
    if ties == "wrong":
        return best_positive_ranks(scores, np.arange(scores.shape[1]) == labels[:, None])
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    return 1 + np.count_nonzero((scores > own) | ((scores == own) & before), axis=1)


def top_k_accuracy(ranks: Int[np.ndarray, " examples"], k: int) -> float:
    """The fraction of examples, in [0, 1], with the true class among the first `k`.

    >>> top_k_accuracy(np.array([1, 3, 6, 2]), k=3)
    0.75

    Args:
      ranks: rank of the true class of each example, from 1 (`label_ranks`, or `embedding_ranks`
        with the class as group).
      k: how many classes count.

    Raises:
      UserError: if there are no examples.
    """
    check_some(ranks, "ranks")
    return float(np.mean(ranks <= k))


def mean_per_class_recall(
    ranks: Int[np.ndarray, " examples"], labels: Int[np.ndarray, " examples"]
) -> float:
    """Top-1 accuracy within each class, in [0, 1], averaged over the classes that have examples.

    As `balanced_accuracy_score` of scikit-learn, which CLIP_benchmark calls.

    >>> mean_per_class_recall(np.array([1, 1, 1, 2]), labels=np.array([0, 0, 0, 1]))
    0.5

    Args:
      ranks: rank of the true class of each example, from 1.
      labels: the true class of each example, from 0.

    Raises:
      UserError: if there are no examples.
    """
    return mean_by_group((ranks == 1).astype(np.float64), labels)


def mean_by_group(
    values: Float[np.ndarray, " examples"], groups: Int[np.ndarray, " examples"]
) -> float:
    """The mean within each group, averaged over the groups that have examples.

    >>> mean_by_group(np.array([1.0, 0.0, 1.0]), np.array([7, 7, 9]))
    0.75

    Raises:
      UserError: if there are no examples, or a value is NaN or infinite.
    """
    return float(_group_means(values, groups).mean())


class WorstGroup(NamedTuple):
    """The group with the lowest mean."""

    mean: float
    group: Hashable
    """The first such group."""
    examples: int
    """How many examples it has."""


def worst_group(
    values: Float[np.ndarray, " examples"], groups: Sequence[Hashable], *, smallest: int = 1
) -> WorstGroup:
    """The lowest mean of a group, such as accuracy (Sagawa et al. 2020).

    >>> worst_group(np.array([1.0, 0.0, 0.0, 1.0]), ["land", "water", "water", "water"])
    WorstGroup(mean=0.333..., group='water', examples=3)

    Args:
      values: one an example, such as 1 if it is right.
      groups: the group of each example, such as pairs of class and background.
      smallest: groups with fewer examples do not count.

    Raises:
      UserError: if there are no examples, a value is NaN, or no group has that many examples.
    """
    check_same_length(values=values, groups=groups)
    names = list(dict.fromkeys(groups))
    number = {name: i for i, name in enumerate(names)}
    index = np.array([number[name] for name in groups])
    means, counts = _group_means(values, index), np.bincount(index)
    large = np.flatnonzero(counts >= smallest)
    if not large.size:
        raise UserError(
            f"smallest is {smallest}: no group has as many examples; the largest has {counts.max()}"
        )
    worst = int(large[means[large].argmin()])
    return WorstGroup(float(means[worst]), names[worst], int(counts[worst]))


def _group_means(
    values: Float[np.ndarray, " examples"], groups: Int[np.ndarray, " examples"]
) -> Float[np.ndarray, " groups"]:
    check_same_length(values=values, groups=groups)
    check_finite(values, "values")
    _, index = np.unique(groups, return_inverse=True)
    return np.bincount(index, weights=values) / np.bincount(index)


def accuracy(
    predicted: Int[np.ndarray, " examples"], labels: Int[np.ndarray, " examples"]
) -> float:
    """The fraction of examples, in [0, 1], whose predicted class is the true one.

    >>> accuracy(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]))
    0.75

    Raises:
      UserError: if there are no examples, or the numbers differ.
    """
    check_same_length(predicted=predicted, labels=labels)
    return float(np.mean(predicted == labels))


def f1_score(
    predicted: Int[np.ndarray, " examples"],
    labels: Int[np.ndarray, " examples"],
    *,
    average: Literal["macro", "micro", "weighted"] = "macro",
    classes: int | None = None,
) -> float:
    """Harmonic mean of precision and recall, in [0, 1], as `f1_score` of scikit-learn.

    >>> round(f1_score(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1])), 4)
    0.7333

    Args:
      predicted: a class for each example, from 0.
      labels: the true classes, from 0.
      average: "macro": the mean over classes; "micro": of all examples together, which is the
        accuracy if all classes count; "weighted": by the examples of each class.
      classes: number of classes for "macro", of which each counts: one without true and predicted
        examples has F1 0. None, as officially: the classes that occur in either.

    Raises:
      UserError: if there are no examples, or a class is negative or not below `classes`.
    """
    check_same_length(predicted=predicted, labels=labels)
    check_choice(average, "average", "macro", "micro", "weighted")
    count = classes or max(int(max(predicted.max(), labels.max())), 0) + 1
    check_labels(predicted, count, "predicted")
    check_labels(labels, count, "labels")
    hits = np.bincount(labels[labels == predicted], minlength=count)
    true, given = np.bincount(labels, minlength=count), np.bincount(predicted, minlength=count)
    if average == "micro":
        return float(2 * hits.sum() / (true.sum() + given.sum()))
    scores = 2 * hits / np.maximum(true + given, 1)
    if average == "weighted":
        return float(np.average(scores, weights=true))
    return float(scores.mean() if classes else scores[true + given > 0].mean())


def multi_label_f1(
    predicted: Bool[np.ndarray, "examples classes"],
    labels: Bool[np.ndarray, "examples classes"],
    *,
    average: Literal["macro", "micro", "samples"] = "macro",
) -> float:
    """Harmonic mean of precision and recall for several labels, in [0, 1].

    As `f1_score` of scikit-learn with matrices: F1 is 0 where nothing is true and predicted.

    >>> predicted = np.array([[True, False], [True, True]])
    >>> labels = np.array([[True, False], [False, True]])
    >>> multi_label_f1(predicted, labels, average="micro")
    0.8

    Args:
      predicted: which classes are predicted for each example.
      labels: which classes each example has.
      average: "macro": the mean over classes; "micro": of all pairs of example and class together;
        "samples": the mean over examples.

    Raises:
      UserError: if there are no examples or classes, or the shapes differ.
    """
    check_same_length(predicted=predicted, labels=labels)
    check_flags(predicted, "predicted")
    check_flags(labels, "labels")
    check_shape(predicted, "predicted", *labels.shape)
    check_choice(average, "average", "macro", "micro", "samples")
    axis = {"macro": 0, "micro": None, "samples": 1}[average]
    hits = np.sum(predicted & labels, axis=axis)
    total = np.sum(predicted, axis=axis) + np.sum(labels, axis=axis)
    return float(np.mean(2 * hits / np.maximum(total, 1)))


def mean_squared_error(
    predicted: Num[np.ndarray, " examples"], truth: Num[np.ndarray, " examples"]
) -> float:
    """The mean squared difference, in float64.

    >>> mean_squared_error(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    2.0

    Raises:
      UserError: if there are no examples, the numbers differ, or one is NaN or infinite.
    """
    check_same_length(predicted=predicted, truth=truth)
    check_finite(predicted, "predicted")
    check_finite(truth, "truth")
    return float(np.mean((predicted.astype(np.float64) - truth.astype(np.float64)) ** 2))


def average_precision(
    scores: Num[np.ndarray, " examples"], positives: Bool[np.ndarray, " examples"]
) -> float:
    """Area under the steps of precision over recall, in [0, 1].

    sum_n (R_n - R_{n-1}) P_n over the thresholds n, without interpolation, as
    `average_precision_score` of scikit-learn. Examples with equal scores pass a threshold together,
    where CLIP_benchmark takes them in the order of `torch.sort`.

    >>> round(average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True])), 4)
    0.8333

    Args:
      scores: larger is more likely.
      positives: which examples are right.

    Raises:
      UserError: if there are no examples, a score is NaN or infinite, or no example is positive.
    """
    check_same_length(scores=scores, positives=positives)
    check_finite(scores, "scores")
    check_flags(positives, "positives")
    if not positives.any():
        raise UserError("positives: there are none; the average precision is undefined")
    order = np.argsort(-scores, kind="stable")
    values = scores[order]
    last = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)  # of each threshold
    hits = np.cumsum(positives[order])[last]
    return float(np.sum(np.diff(hits, prepend=0) * hits / (last + 1)) / hits[-1])


def mean_average_precision(
    scores: Num[np.ndarray, "examples classes"],
    labels: Bool[np.ndarray, "examples classes"],
    *,
    empty: Literal["error", "zero", "skip"] = "error",
) -> float:
    """Mean over the classes of `average_precision`, in [0, 1], for images with several labels.

    >>> scores = np.array([[0.9, 0.1], [0.2, 0.8]])
    >>> mean_average_precision(scores, np.array([[True, True], [False, True]]))
    1.0

    Args:
      scores: larger is more likely.
      labels: which classes each example has.
      empty: what a class without positives is: an error; "zero", as scikit-learn and
        CLIP_benchmark count it; or left out of the mean.

    Raises:
      UserError: if there are no examples or classes, a score is NaN or infinite, or a class has no
        positives.
    """
    check_same_length(scores=scores, labels=labels)
    check_finite(scores, "scores")
    check_flags(labels, "labels")
    check_shape(labels, "labels", *scores.shape)
    check_choice(empty, "empty", "error", "zero", "skip")
    lacking = np.flatnonzero(~labels.any(axis=0))
    if lacking.size and empty == "error":
        raise UserError(
            f"labels: {lacking.size} of {labels.shape[1]} classes have no example, the first is "
            f"{lacking[0]}; with empty='zero' they count as 0, with empty='skip' they do not count"
        )
    present = np.flatnonzero(labels.any(axis=0))
    if not present.size:
        raise UserError("labels: no class has an example; the mean average precision is undefined")
    found = [average_precision(scores[:, i], labels[:, i]) for i in present]
    return float(sum(found) / (labels.shape[1] if empty == "zero" else len(found)))


def auroc(scores: Num[np.ndarray, " examples"], positives: Bool[np.ndarray, " examples"]) -> float:
    """The probability that a positive example scores above a negative one, a tie being half.

    The area under the ROC curve, by ranks (Mann and Whitney 1947), as `roc_auc_score` of
    scikit-learn.

    >>> auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    0.875

    Args:
      scores: larger is more likely.
      positives: which examples are right.

    Raises:
      UserError: if a score is NaN or infinite, or there are no positives or no negatives.
    """
    check_same_length(scores=scores, positives=positives)
    check_finite(scores, "scores")
    check_flags(positives, "positives")
    own, others = int(positives.sum()), int((~positives).sum())
    if not own or not others:
        raise UserError(
            f"positives: {own} of {own + others} examples; AUROC needs both positives and negatives"
        )
    _, index, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of each value, from 1
    return float((ranks[index][positives].sum() - own * (own + 1) / 2) / (own * others))


def expected_calibration_error(
    confidence: Float[np.ndarray, " examples"],
    right: Bool[np.ndarray, " examples"],
    *,
    bins: int = 15,
) -> float:
    """How far confidence and accuracy are apart, in [0, 1] (ECE, Guo et al. 2017, eq. 5).

    The mean over bins of equal width of |accuracy - mean confidence|, weighted by their examples.
    As in the code of that paper, a bin contains its upper edge and not its lower one, so that a
    confidence of exactly 0 is in none.

    >>> ece = expected_calibration_error(np.array([0.9, 0.9, 0.6]), np.array([True, False, True]))
    >>> round(ece, 4)
    0.4

    Args:
      confidence: the probability of the predicted class, in [0, 1].
      right: whether the predicted class is the true one.
      bins: number of bins.

    Raises:
      UserError: if there are no examples, or a confidence is NaN or outside [0, 1].
    """
    check_same_length(confidence=confidence, right=right)
    check_finite(confidence, "confidence")
    wrong = np.flatnonzero((confidence < 0) | (confidence > 1))
    if wrong.size:
        raise UserError(
            f"confidence[{wrong[0]}] is {confidence[wrong[0]]}; give probabilities, from 0 to 1, "
            "not logits"
        )
    if bins < 1:
        raise UserError(f"bins: must be at least 1, got {bins}")
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.searchsorted(edges, confidence.astype(np.float64), side="left") - 1
    inside = bin_of >= 0
    gap = (right.astype(np.float64) - confidence)[inside]
    return float(np.abs(np.bincount(bin_of[inside], weights=gap)).sum() / len(confidence))


class AccuracyCoverage(NamedTuple):
    """How accurate a model is if it answers only where it is confident."""

    coverage: Float[np.ndarray, " thresholds"]
    """The fraction of examples whose confidence reaches the threshold, rising to 1."""
    accuracy: Float[np.ndarray, " thresholds"]
    """Their mean credit."""
    threshold: Float[np.ndarray, " thresholds"]
    """Each confidence that occurs, falling."""
    area: float
    """The mean over the examples, by falling confidence, of the accuracy down to each: 1 - AURC
    (Geifman et al. 2019) if the credits are 0 or 1."""


def accuracy_coverage(
    confidence: Float[np.ndarray, " examples"], credit: Float[np.ndarray, " examples"]
) -> AccuracyCoverage:
    """The accuracy-coverage curve of selective classification (El-Yaniv & Wiener 2010).

    Examples with the same confidence are answered together, so that their order does not matter.

    >>> curve = accuracy_coverage(np.array([0.9, 0.5, 0.5]), np.array([1.0, 1.0, 0.0]))
    >>> curve.coverage.round(3).tolist(), curve.accuracy.round(3).tolist()
    ([0.333, 1.0], [1.0, 0.667])
    >>> round(curve.area, 4)  # the mean of 1, 2/3 and 2/3
    0.7778

    Args:
      confidence: larger is surer, such as the probability of the predicted class.
      credit: how right each prediction is, in [0, 1].

    Raises:
      UserError: if there are no examples, or a value is NaN or infinite.
    """
    check_same_length(confidence=confidence, credit=credit)
    check_finite(confidence, "confidence")
    check_finite(credit, "credit")
    threshold, group = np.unique(-confidence.astype(np.float64), return_inverse=True)
    counts = np.bincount(group)
    reached = np.cumsum(counts)
    accuracy = np.cumsum(np.bincount(group, weights=credit)) / reached
    area = float(accuracy @ counts / len(credit))
    return AccuracyCoverage(reached / len(credit), accuracy, -threshold, area)


class Perplexity(NamedTuple):
    """How well a model predicts texts; lower is better."""

    perplexity: float
    """exp of the mean negative log-likelihood."""
    bits_per_token: float
    """The same mean in bits."""
    tokens: int
    """How many tokens count."""


def perplexity(
    log_likelihood: Float[np.ndarray, "texts length"],
    mask: Bool[np.ndarray, "texts length"],
    *,
    over: Literal["tokens", "texts"] = "tokens",
) -> Perplexity:
    """Perplexity and bits per token.

    >>> found = perplexity(np.log([[0.5, 0.25]]), np.array([[True, True]]))
    >>> round(found.perplexity, 4), round(found.bits_per_token, 4), found.tokens
    (2.8284, 1.5, 2)

    Args:
      log_likelihood: natural logarithm of the probability of each true token.
      mask: which tokens count; the others are padding, and may hold anything.
      over: "tokens": every token counts the same, as usual for a corpus; "texts": the mean of each
        text first, so that each text counts the same.

    Raises:
      UserError: if no token counts, a text has none and `over` is "texts", or a likelihood that
        counts is NaN, infinite or above 0.
    """
    check_some(log_likelihood, "log_likelihood")
    check_flags(mask, "mask")
    check_shape(mask, "mask", *log_likelihood.shape)
    check_choice(over, "over", "tokens", "texts")
    counted = log_likelihood[mask].astype(np.float64)
    check_finite(counted, "log_likelihood of the tokens in the mask")
    if (counted > 0).any():
        raise UserError(
            f"log_likelihood: {counted.max()} is above 0; give logarithms of probabilities"
        )
    if over == "texts":
        tokens = mask.sum(axis=1)
        if not tokens.all():
            raise UserError(f"mask[{int(np.argmin(tokens))}]: the text has no token; leave it out")
        sums = np.where(mask, log_likelihood, 0).astype(np.float64).sum(axis=1)
        nats = -float((sums / tokens).mean())
    else:
        nats = -float(counted.mean())
    return Perplexity(float(np.exp(nats)), nats / float(np.log(2)), int(mask.sum()))
