"""The learning rate over time, against the formula in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from vljax import config
from vljax.config import UserError
from vljax.training.schedules import WarmupCosine


@pytest.mark.parametrize(("warmup", "final"), [(0, 0.0), (10, 0.0), (10, 0.1)])
def test_warmup_and_cosine(warmup, final):
    steps = 50
    schedule = WarmupCosine(warmup, final)
    ours = [float(schedule(jnp.int32(k), steps)) for k in range(steps)]
    truth = []
    for k in range(steps):
        if k < warmup:
            truth.append((k + 1) / warmup)
        else:
            done = (k - warmup) / (steps - warmup)
            truth.append(final + (1 - final) * (1 + np.cos(np.pi * done)) / 2)
    np.testing.assert_allclose(ours, truth, atol=1e-6)
    assert max(ours) == 1


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (WarmupCosine(-1), "warmup_steps: must be at least 0, not -1"),
        (WarmupCosine(0, 1.5), "final: must be in"),
    ],
)
def test_bad_fields(schedule, message):
    with pytest.raises(UserError, match=message):
        config.validate(schedule)


def test_a_warmup_that_takes_the_whole_run():
    assert list(WarmupCosine(10).problems_in(11)) == []
    [(name, message)] = WarmupCosine(10).problems_in(10)
    assert (name, message) == ("warmup_steps", "10 leaves nothing of a run of 10 steps")
