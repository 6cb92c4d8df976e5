"""Optimizers: what they refuse, and one step against the papers' formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from vljax import config
from vljax.config import UserError
from vljax.training.optim import AdamW, apply_direction


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epsilon": 0.0}, "epsilon: must be positive, not 0.0"),
        ({"epsilon": -1e-8}, "epsilon: must be positive, not -1e-08"),
        ({"learning_rate": 0.0}, "learning_rate: must be positive, not 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate: must be finite, got nan"),
        ({"weight_decay": -0.1}, "weight_decay: must be at least 0, not -0.1"),
        ({"weight_decay": float("inf")}, "weight_decay: must be finite, got inf"),
        ({"clip_norm": 0.0}, "clip_norm: must be positive, or None for no clipping, not 0.0"),
        ({"b1": 1.0}, "b1: must be in [0, 1), not 1.0"),
        ({"b2": -0.1}, "b2: must be in [0, 1), not -0.1"),
        ({"decay_rules": ((".*", float("nan")),)}, "decay_rules.0.1: must be finite, got nan"),
    ],
)
def test_values_that_cannot_be(values, message):
    with pytest.raises(UserError) as error:
        config.validate(AdamW(**values))
    assert str(error.value) == message


def test_two_steps_of_adamw():
    """Loshchilov & Hutter 2019, algorithm 2, in float64 NumPy."""
    rng = np.random.default_rng(0)
    start, *gradients = rng.normal(size=(3, 5))
    rate, decay, factor, b1, b2, epsilon = 0.1, 0.3, 0.5, 0.8, 0.95, 1e-3
    first, second, expected = np.zeros(5), np.zeros(5), start
    for step, gradient in enumerate(gradients, 1):
        first = b1 * first + (1 - b1) * gradient
        second = b2 * second + (1 - b2) * gradient**2
        direction = first / (1 - b1**step) / (np.sqrt(second / (1 - b2**step)) + epsilon)
        expected = expected - rate * (direction + decay * factor * expected)

    adamw = AdamW(b1=b1, b2=b2, epsilon=epsilon, clip_norm=None).transformation()
    params = {"w": jnp.float32(start)}
    state = adamw.init(params)
    for gradient in gradients:
        toward, state = adamw.update({"w": jnp.float32(gradient)}, state, params)
        params = apply_direction(
            params, toward, jnp.float32(rate), jnp.float32(decay), {"w": factor}
        )
    np.testing.assert_allclose(params["w"], expected, rtol=2e-6)
