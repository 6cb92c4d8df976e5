"""Optimizers: what they refuse, and their first steps against the papers' formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.optim.optimizing import directions, gradients
from vljax import config
from vljax.config import UserError
from vljax.optim import SGD, Adafactor, AdamW, Lion, Muon, Optimizer, apply_direction


def test_names():
    assert set(Optimizer.members) == {"adamw", "adafactor", "lion", "muon", "sgd"}


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (AdamW(epsilon=0.0), "epsilon: must be positive, not 0.0"),
        (AdamW(epsilon=-1e-8), "epsilon: must be positive, not -1e-08"),
        (AdamW(learning_rate=0.0), "learning_rate: must be positive, not 0.0"),
        (AdamW(learning_rate=float("nan")), "learning_rate: must be finite, got nan"),
        (AdamW(weight_decay=-0.1), "weight_decay: must be at least 0, not -0.1"),
        (AdamW(weight_decay=float("inf")), "weight_decay: must be finite, got inf"),
        (AdamW(clip_norm=0.0), "clip_norm: must be positive, or None for no clipping, not 0.0"),
        (AdamW(b1=1.0), "b1: must be in [0, 1), not 1.0"),
        (AdamW(b2=-0.1), "b2: must be in [0, 1), not -0.1"),
        (AdamW(decay_rules=((".*", float("nan")),)), "decay_rules.0.1: must be finite, got nan"),
        (AdamW(rate_rules=((".*", 0.0),)), "rate_rules.0.1: must be positive, not 0.0; see frozen"),
        (AdamW(layer_decay=0.0), "layer_decay: must be in (0, 1], not 0.0"),
        (AdamW(layer_decay=1.1), "layer_decay: must be in (0, 1], not 1.1"),
        (AdamW(moment_dtype="float16"), "moment_dtype: unknown value 'float16'"),
        (Adafactor(b2_cap=1.0), "b2_cap: must be in [0, 1), not 1.0"),
        (Adafactor(momentum=1.0), "momentum: must be in [0, 1), not 1.0"),
        (Adafactor(decay_exponent=0.0), "decay_exponent: must be positive, not 0.0"),
        (Adafactor(factor_from=1), "factor_from: must be at least 2, not 1"),
        (Adafactor(clip_rms=0.0), "clip_rms: must be positive, or None for no clipping, not 0.0"),
        (Lion(b1=1.0), "b1: must be in [0, 1), not 1.0"),
        (Lion(b2=1.0), "b2: must be in [0, 1), not 1.0"),
        (Muon(momentum=1.0), "momentum: must be in [0, 1), not 1.0"),
        (Muon(b1=1.0), "b1: must be in [0, 1), not 1.0"),
        (Muon(iterations=0), "iterations: must be at least 1, not 0"),
        (Muon(update_rms=0.0), "update_rms: must be positive, or None, not 0.0"),
        (SGD(momentum=1.0), "momentum: must be in [0, 1), not 1.0"),
        (SGD(momentum=0.0, nesterov=True), "nesterov: needs momentum; set it above 0"),
    ],
)
def test_bad_fields(optimizer, message):
    with pytest.raises(UserError) as error:
        config.validate(optimizer)
    assert str(error.value).startswith(message)


def adam(trees, b1=0.8, b2=0.95, epsilon=1e-3):
    """Kingma & Ba 2015, algorithm 1."""
    mean = square = 0
    for step, g in enumerate(trees, 1):
        mean, square = b1 * mean + (1 - b1) * g, b2 * square + (1 - b2) * g**2
        yield mean / (1 - b1**step) / (np.sqrt(square / (1 - b2**step)) + epsilon)


def lion(trees, b1=0.8, b2=0.95):
    """Chen et al. 2023, algorithm 2."""
    momentum = 0
    for g in trees:
        yield np.sign(b1 * momentum + (1 - b1) * g)
        momentum = b2 * momentum + (1 - b2) * g


def heavy_ball(trees, momentum=0.8):
    """Polyak 1964, without the learning rate in the sum (as in PyTorch's documentation)."""
    total = 0
    for g in trees:
        total = momentum * total + g
        yield total


def nesterov(trees, momentum=0.8):
    """Sutskever et al. 2013, in the form of Bengio et al. 2013: the step is taken ahead."""
    for g, total in zip(trees, heavy_ball(trees, momentum), strict=True):
        yield g + momentum * total


CASES = {
    "adamw": (AdamW(b1=0.8, b2=0.95, epsilon=1e-3, clip_norm=None), adam),
    "lion": (Lion(b1=0.8, b2=0.95, clip_norm=None), lion),
    "sgd": (SGD(momentum=0.8, clip_norm=None), heavy_ball),
    "nesterov": (SGD(momentum=0.8, nesterov=True, clip_norm=None), nesterov),
    "plain": (SGD(momentum=0.0, clip_norm=None), list),
}


@pytest.mark.parametrize("name", CASES)
def test_five_directions(name):
    optimizer, reference = CASES[name]
    trees = gradients({"kernel": (4, 3), "bias": (3,)})
    found, _ = directions(optimizer, {"kernel": ("embed", "mlp"), "bias": ("mlp",)}, trees)
    for part in ("kernel", "bias"):
        truth = reference([tree[part] for tree in trees])
        for ours, expected in zip(found, truth, strict=True):
            np.testing.assert_allclose(ours[part], expected, rtol=1e-5)  # float32 rounding


@pytest.mark.parametrize("kind", [AdamW, Lion, SGD])
def test_a_moment_in_bfloat16(kind):
    """Stored in bfloat16, it is off by up to 2^-9 of itself; signs near 0 may change."""
    trees = gradients({"kernel": (4, 3)})
    axes = {"kernel": ("embed", "mlp")}
    exact, _ = directions(kind(), axes, trees)
    rounded, state = directions(kind(moment_dtype="bfloat16"), axes, trees)
    types = [leaf.dtype for leaf in jax.tree.leaves(state) if leaf.shape == (4, 3)]
    assert types.count(jnp.bfloat16) == 1
    if kind is not Lion:
        np.testing.assert_allclose(rounded[-1]["kernel"], exact[-1]["kernel"], atol=0.01)
        assert np.any(rounded[-1]["kernel"] != exact[-1]["kernel"])


def test_clipping_comes_before_the_direction():
    trees = gradients({"kernel": (4, 3)})
    found, _ = directions(SGD(momentum=0.8, clip_norm=0.5), {"kernel": ("embed", "mlp")}, trees)
    clipped = [g * min(1, 0.5 / np.linalg.norm(g)) for g in (tree["kernel"] for tree in trees)]
    for ours, expected in zip(found, heavy_ball(clipped), strict=True):
        np.testing.assert_allclose(ours["kernel"], expected, rtol=1e-5)


def test_five_steps_with_decay_and_factors():
    """Loshchilov & Hutter 2019, algorithm 2, the learning rate of each layer its own."""
    trees = gradients({"w": (2, 5)})
    start = np.random.default_rng(0).normal(size=(2, 5))
    rate, decay = 0.1, 0.3
    decays, rates = {"w": 0.5}, {"w": np.array([[0.25], [1.0]])}
    optimizer, _ = CASES["adamw"]
    found, _ = directions(optimizer, {"w": ("layers", "embed")}, trees)
    expected, params = start, {"w": jnp.float32(start)}
    for ours, truth in zip(found, adam([tree["w"] for tree in trees]), strict=True):
        expected = expected - rate * rates["w"] * (truth + decay * 0.5 * expected)
        params = apply_direction(params, ours, jnp.float32(rate), jnp.float32(decay), decays, rates)
    np.testing.assert_allclose(params["w"], expected, rtol=5e-6)


def test_factors_of_zero_and_one_leave_no_trace_in_the_program():
    tree = {"w": jnp.ones((2, 5))}

    def with_factors(params, toward, rate, decay):
        return apply_direction(params, toward, rate, decay, {"w": 0.0}, {"w": 1.0})

    def without(params, toward, rate, decay):
        return {"w": params["w"] - rate * toward["w"]}

    arguments = (tree, tree, jnp.ones(()), jnp.ones(()))
    texts = []
    for step in (with_factors, without):
        text = jax.jit(step).lower(*arguments).as_text()
        texts.append(text.replace(step.__name__, "step"))
    assert texts[0] == texts[1]
