"""How good frozen features are: linear probe, nearest neighbours, few-shot regression.

All compute in float32 with JAX and are deterministic: the same features give the same result.
Features are rows, labels are classes from 0.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from vljax.config import UserError
from vljax.evaluation.metrics.checks import (
    check_choice,
    check_finite,
    check_labels,
    check_same_length,
    check_shape,
)

_CHUNK_ELEMENTS = 1 << 24


class LinearClassifier(NamedTuple):
    """Scores of classes: features @ weights + bias."""

    weights: Float[np.ndarray, "embed classes"]
    bias: Float[np.ndarray, " classes"]

    def scores(self, features: Float[np.ndarray, "examples embed"]) -> np.ndarray:
        """Scores float32[examples, classes], larger is more likely."""
        return features.astype(np.float32) @ self.weights + self.bias


def logistic_regression(
    features: Float[np.ndarray, "examples embed"],
    labels: Int[np.ndarray, " examples"],
    *,
    c: float = 1.0,
    classes: int | None = None,
    tolerance: float = 1e-6,
    most_steps: int = 1000,
) -> LinearClassifier:
    """Multinomial logistic regression by L-BFGS (`optax.lbfgs`, memory 10, zoom line search).

    It minimises the mean cross-entropy + |W|^2 / (2 c examples), without a penalty on the bias: the
    objective of `LogisticRegression(C=c)` of scikit-learn, with which CLIP's probes are made
    (Radford et al. 2021, appendix A.3). Features are used as they are.

    >>> x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    >>> found = logistic_regression(x, np.array([0, 0, 1, 1]))
    >>> found.scores(x).argmax(axis=1).tolist()
    [0, 0, 1, 1]

    Args:
      features: of the training examples.
      labels: their classes.
      c: inverse strength of the regularisation.
      classes: number of classes; None: as many as the labels need.
      tolerance: it stops when no entry of the gradient is larger. scikit-learn stops at 1e-4, where
        weak regularisation still moves weights by several tenths.
      most_steps: or after so many steps.

    Raises:
      UserError: if there are no examples, a feature is NaN or infinite, a label is out of range, a
        class has no example, or `c` is not above 0.
    """
    count = _check_training(features, labels, "features", classes)
    if not c > 0:
        raise UserError(f"c: must be above 0, got {c}")
    weights, bias = _fit(
        jnp.asarray(features, jnp.float32), jnp.asarray(labels), c, tolerance, most_steps, count
    )
    return LinearClassifier(np.asarray(weights), np.asarray(bias))


@functools.partial(jax.jit, static_argnames="classes")
def _fit(
    x: Float[Array, "examples embed"],
    y: Int[Array, " examples"],
    c: Float[Array, ""] | float,
    tolerance: Float[Array, ""] | float,
    most_steps: Int[Array, ""] | int,
    classes: int,
) -> tuple[Float[Array, "embed classes"], Float[Array, " classes"]]:
    def loss(params: tuple[Array, Array]) -> Array:
        weights, bias = params
        logits = jnp.matmul(x, weights, precision="highest") + bias
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return entropy + jnp.sum(weights**2) / (2 * c * len(y))

    solver = optax.lbfgs(memory_size=10)
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: tuple) -> tuple:
        params, state, _, number = carry
        value, gradient = value_and_grad(params, state=state)
        updates, state = solver.update(
            gradient, state, params, value=value, grad=gradient, value_fn=loss
        )
        params = optax.apply_updates(params, updates)
        # The line search leaves the gradient at the new parameters in the state.
        largest = optax.tree.norm(optax.tree.get(state, "grad"), ord=jnp.inf)
        return params, state, largest, number + 1

    def unfinished(carry: tuple) -> Array:
        *_, largest, number = carry
        return (largest > tolerance) & (number < most_steps)

    params = jnp.zeros((x.shape[1], classes)), jnp.zeros(classes)
    carry = params, solver.init(params), jnp.float32(jnp.inf), 0
    return jax.lax.while_loop(unfinished, step, carry)[0]


class LinearProbe(NamedTuple):
    """What a linear probe finds."""

    accuracy: float
    """On the test examples, in [0, 1]."""
    right: Bool[np.ndarray, " test"]
    """Which test examples are right."""
    c: float
    """The inverse regularisation that was best on the validation examples."""
    validation: Float[np.ndarray, " sweep"]
    """The accuracy on the validation examples for each value of the sweep."""


Split = tuple[Float[np.ndarray, "_ embed"], Int[np.ndarray, " _"]]


def linear_probe(
    train: Split,
    validation: Split,
    test: Split,
    *,
    sweep: Sequence[float] = (1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6),
    refit: Literal["train_and_validation", "no"] = "train_and_validation",
    most_steps: int = 1000,
) -> LinearProbe:
    """Test accuracy of logistic regression, with the regularisation chosen on a validation split.

    The protocol of CLIP (Radford et al. 2021, appendix A.3): sweep on the validation split, then
    fit training and validation examples together. The default sweep is where their binary
    search over 96 values starts; give finer values as `sweep`.

    >>> x, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    >>> linear_probe((x, y), (x, y), (x + 0.1, y), sweep=(0.1, 1.0)).accuracy
    1.0

    Args:
      train: features and labels to fit.
      validation: those that choose among the sweep; of equally good values the smallest is taken.
      test: those that are measured.
      sweep: values of `c` (`logistic_regression`).
      refit: what the final fit uses, beside the training examples.
      most_steps: of each fit.

    Raises:
      UserError: if `sweep` is empty, and as `logistic_regression`, for each split.
    """
    check_choice(refit, "refit", "train_and_validation", "no")
    if not sweep:
        raise UserError("sweep: is empty; give at least one value of c")
    classes = _check_training(*train, "train", None)
    for (features, labels), name in ((validation, "validation"), (test, "test")):
        _check_features(features, labels, name)
        check_shape(features, name, None, train[0].shape[1])
        check_labels(labels, classes, f"{name} labels")
    fit = functools.partial(logistic_regression, classes=classes, most_steps=most_steps)
    values, found = sorted(sweep), []
    for c in values:
        scores = fit(*train, c=c).scores(validation[0])
        found.append((scores.argmax(axis=1) == validation[1]).mean())
    best = values[int(np.argmax(found))]
    features, labels = train
    if refit != "no":
        features = np.concatenate([features, validation[0]])
        labels = np.concatenate([labels, validation[1]])
    final = fit(features, labels, c=best)
    right = final.scores(test[0]).argmax(axis=1) == test[1]
    return LinearProbe(float(right.mean()), right, best, np.array(found))


def knn_votes(
    train: Float[np.ndarray, "train embed"],
    labels: Int[np.ndarray, " train"],
    test: Float[np.ndarray, "test embed"],
    *,
    k: int = 20,
    weights: Literal["dino", "uniform"] = "dino",
    temperature: float = 0.07,
    classes: int | None = None,
    chunk_elements: int = _CHUNK_ELEMENTS,
) -> Float[np.ndarray, "test classes"]:
    """The votes of the k nearest training examples, by cosine, for the class of each test example.

    With "dino", a neighbour's vote is exp(cosine / temperature) over that of the nearest one (Wu et
    al. 2018; `eval_knn.py` of DINO); with "uniform" it is 1. Accuracy is that of
    `classification.label_ranks(votes, labels, ties="first")`: of equal votes the lowest class wins,
    as in scikit-learn.

    >>> train = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> knn_votes(train, np.array([0, 0, 1]), train[:1], k=2, weights="uniform").tolist()
    [[2.0, 0.0]]

    Args:
      train: features of the examples that vote; their lengths do not matter.
      labels: their classes.
      test: features of the examples to classify.
      k: how many neighbours vote.
      weights: what a vote is.
      temperature: for "dino".
      classes: number of classes; None: as many as the labels need.
      chunk_elements: how many similarities are held at a time (at least those of one test example).

    Raises:
      UserError: if there are no examples, a feature is NaN or infinite, a label is out of range,
        `temperature` is not above 0, or `k` is not between 1 and the number of training examples.
    """
    _check_features(train, labels, "train")
    check_finite(test, "test")
    check_shape(test, "test", None, train.shape[1])
    check_choice(weights, "weights", "dino", "uniform")
    if not temperature > 0:
        raise UserError(f"temperature: must be above 0, got {temperature}")
    count = classes or int(labels.max()) + 1
    check_labels(labels, count, "labels")
    if not 1 <= k <= len(train):
        raise UserError(f"k: must be between 1 and the {len(train)} training examples, got {k}")
    rows = max(1, min(len(test), chunk_elements // len(train)))
    own, classes_of = _unit(jnp.asarray(train, jnp.float32)), jnp.asarray(labels)
    found = []
    for start in range(0, len(test), rows):
        block = test[start : start + rows].astype(np.float32)
        padded = np.pad(block, ((0, rows - len(block)), (0, 0)))  # one shape, one compile
        heat = temperature if weights == "dino" else None
        found.append(np.asarray(_votes(own, classes_of, padded, k, heat, count))[: len(block)])
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnames=("k", "temperature", "classes"))
def _votes(
    train: Float[Array, "train embed"],
    labels: Int[Array, " train"],
    test: Float[Array, "rows embed"],
    k: int,
    temperature: float | None,
    classes: int,
) -> Float[Array, "rows classes"]:
    cosine = jnp.matmul(_unit(test), train.T, precision="highest")
    nearest, index = jax.lax.top_k(cosine, k)
    # Divided by the largest vote of each row, which changes no order: exp(1 / 0.01) is infinite.
    heat = 1.0 if temperature is None else temperature
    votes = jnp.exp((nearest - nearest[:, :1]) / heat)
    votes = jnp.ones_like(nearest) if temperature is None else votes
    rows = jnp.arange(len(test))[:, None]
    return jnp.zeros((len(test), classes)).at[rows, labels[index]].add(votes)


def _unit(x: Float[Array, "rows embed"]) -> Float[Array, "rows embed"]:
    # As torch.nn.functional.normalize.
    return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def few_shot_right(
    train: Split,
    test: Split,
    *,
    shots: Sequence[int] = (1, 5, 10, 25),
    l2: Sequence[float] = (2.0**10,),
    seeds: Sequence[int] = (0, 1, 2),
    bias: float = 100.0,
) -> Bool[np.ndarray, "seeds shots l2 test"]:
    """Which test examples are right by ridge regression on a few examples of each class.

    `fewshot_lsr` of big_vision: for each seed, `numpy.random.default_rng(seed)` shuffles the
    examples of each class, and the first of them are taken. Features are standardised over these
    examples (deviation + 1e-5), the bias is one more feature, large so that it is hardly
    regularised, and targets are 1 for the class and -1 for others. The strengths of a sweep share
    one eigendecomposition. Choose among them by other examples than those of `test`. The accuracy
    is the mean over the last axis.

    >>> x, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    >>> few_shot_right((x, y), (x, y), shots=(1, 2), seeds=(0,)).shape
    (1, 2, 1, 4)

    Args:
      train: features and labels to choose from. A class with fewer examples gives all it has.
      test: those that are measured.
      shots: examples of each class.
      l2: strengths of the regularisation.
      seeds: each makes another choice of examples.
      bias: the value of the feature for the bias.

    Raises:
      UserError: if `shots`, `l2` or `seeds` is empty or has a number out of range; if there are no
        examples, a feature is NaN or infinite, a label is out of range, or a class
        has no training example.
    """
    for given, name in ((shots, "shots"), (l2, "l2")):
        if not given or min(given) <= 0:
            raise UserError(f"{name}: give at least one number above 0, got {tuple(given)}")
    if not seeds or min(seeds) < 0:
        raise UserError(f"seeds: give at least one number from 0 on, got {tuple(seeds)}")
    (features, labels), (test_features, test_labels) = train, test
    classes = _check_training(features, labels, "train", None)
    _check_features(test_features, test_labels, "test")
    check_shape(test_features, "test", None, features.shape[1])
    check_labels(test_labels, classes, "test labels")
    right = np.zeros((len(seeds), len(shots), len(l2), len(test_labels)), bool)
    x_test, y_test = jnp.asarray(test_features, jnp.float32), jnp.asarray(test_labels)
    for i, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        order = [rng.permutation(np.flatnonzero(labels == one)) for one in range(classes)]
        for j, count in enumerate(shots):
            chosen = np.concatenate([of_class[:count] for of_class in order])
            x, y = jnp.asarray(features[chosen], jnp.float32), jnp.asarray(labels[chosen])
            strengths = jnp.asarray(l2, jnp.float32)
            right[i, j] = _ridge_right(x, y, x_test, y_test, strengths, bias, classes)
    return right


@functools.partial(jax.jit, static_argnames="classes")
def _ridge_right(
    x: Float[Array, "examples embed"],
    y: Int[Array, " examples"],
    x_test: Float[Array, "test embed"],
    y_test: Int[Array, " test"],
    l2: Float[Array, " sweep"],
    bias: Float[Array, ""] | float,
    classes: int,
) -> Bool[Array, "sweep test"]:
    mean, deviation = x.mean(axis=0), x.std(axis=0) + 1e-5

    def standardised(values: Array) -> Array:
        ones = jnp.full((len(values), 1), bias, values.dtype)
        return jnp.concatenate([(values - mean) / deviation, ones], axis=1)

    x, targets = standardised(x), 2 * jax.nn.one_hot(y, classes) - 1
    # (X'X + l2 I)^-1 X'Y = X' (XX' + l2 I)^-1 Y; the smaller matrix is decomposed.
    with jax.default_matmul_precision("highest"):
        if x.shape[0] >= x.shape[1]:
            eigenvalues, q = jnp.linalg.eigh(x.T @ x)
            left, right = q, q.T @ (x.T @ targets)
        else:
            eigenvalues, q = jnp.linalg.eigh(x @ x.T)
            left, right = x.T @ q, q.T @ targets
        predicted = standardised(x_test) @ left

        def right_with(strength: Array) -> Array:
            scores = (predicted / (eigenvalues + strength)) @ right
            return scores.argmax(axis=1) == y_test

        return jax.lax.map(right_with, l2)


def _check_features(
    features: Float[np.ndarray, "examples embed"], labels: Int[np.ndarray, " examples"], name: str
) -> None:
    check_finite(features, name)
    check_same_length(**{name: features, f"{name} labels": labels})


def _check_training(
    features: Float[np.ndarray, "examples embed"],
    labels: Int[np.ndarray, " examples"],
    name: str,
    classes: int | None,
) -> int:
    """The number of classes, each of which has an example."""
    _check_features(features, labels, name)
    count = classes or int(labels.max()) + 1
    check_labels(labels, count, f"{name} labels")
    lacking = np.flatnonzero(np.bincount(labels, minlength=count) == 0)
    if lacking.size:
        raise UserError(
            f"{name} labels: {lacking.size} of {count} classes have no example, the first is "
            f"{lacking[0]}; give examples of it, or number the classes without gaps"
        )
    return count
