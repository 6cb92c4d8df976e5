"""The learning rate over time, against the formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax import config
from vljax.config import UserError
from vljax.optim.schedules import (
    Schedule,
    WarmupConstant,
    WarmupCosine,
    WarmupLinear,
    WarmupRsqrt,
    WarmupStableDecay,
    WarmupSteps,
)

STEPS = 50


def values(schedule, steps=STEPS):
    return jax.jit(jax.vmap(lambda step: schedule(step, steps)))(jnp.arange(steps))


def test_names():
    assert set(Schedule.members) == {"constant", "cosine", "linear", "rsqrt", "step", "wsd"}


def cosine(k, final):
    return final + (1 - final) * (1 + np.cos(np.pi * k / 40)) / 2


@pytest.mark.parametrize(
    ("schedule", "after_warmup"),
    [
        (WarmupConstant(10), lambda k: 1),
        (WarmupCosine(10), lambda k: cosine(k, 0)),
        (WarmupCosine(10, 0.1), lambda k: cosine(k, 0.1)),
        (WarmupLinear(10), lambda k: 1 - k / 40),
        (WarmupLinear(10, 0.2), lambda k: 1 - 0.8 * k / 40),
        (WarmupRsqrt(10, 8), lambda k: np.sqrt(8 / (8 + k))),
        (WarmupRsqrt(10, 8, 4), lambda k: np.sqrt(8 / (8 + k)) * min(1, (40 - k) / 4)),
        (WarmupStableDecay(10), lambda k: min(1, (40 - k) / 10)),
        (
            WarmupStableDecay(10, 0.4, "one_minus_sqrt", 0.1),
            lambda k: 1 if k < 20 else 1 - 0.9 * np.sqrt((k - 20) / 20),
        ),
        (WarmupStableDecay(10, 0.4, "linear", 0.1), lambda k: 1 - 0.9 * max(0, (k - 20) / 20)),
        (WarmupSteps(10, (20, 35), (0.5, 0.1)), lambda k: 1 if k < 10 else 0.5 if k < 25 else 0.1),
        (WarmupSteps(10, (5,), (0.5,)), lambda k: 0.5),
    ],
    ids=lambda x: str(x) if isinstance(x, Schedule) else "",
)
def test_formula(schedule, after_warmup):
    config.validate(schedule)
    assert list(schedule.problems_in(STEPS)) == []
    early = WarmupSteps(10, (5,), (0.5,))
    truth = [(k + 1) / 10 * (0.5 if schedule == early and k >= 5 else 1) for k in range(10)]
    truth += [after_warmup(k) for k in range(40)]
    np.testing.assert_allclose(values(schedule), truth, atol=1e-6)


def test_without_warmup_the_first_step_is_at_the_peak():
    for kind in Schedule.members.values():
        fields = {"boundaries": (5,), "factors": (0.5,)} if kind is WarmupSteps else {}
        ours = values(kind(**fields))
        assert ours[0] == 1
        assert max(ours) == 1
        assert min(ours) > 0  # no step is spent at a rate of 0


def test_points_by_hand():
    assert values(WarmupLinear(2), 6).tolist() == [0.5, 1, 1, 0.75, 0.5, 0.25]
    assert values(WarmupStableDecay(0, 0.5), 4).tolist() == [1, 1, 1, 0.5]
    assert values(WarmupSteps(0, (1, 3), (0.5, 2.0)), 5).tolist() == [1, 0.5, 0.5, 2, 2]
    np.testing.assert_allclose(values(WarmupRsqrt(1, 3), 11)[10], 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (WarmupCosine(-1), "warmup_steps: must be at least 0, not -1"),
        (WarmupConstant(-1), "warmup_steps: must be at least 0, not -1"),
        (WarmupCosine(0, 1.5), "final: must be in [0, 1], not 1.5"),
        (WarmupLinear(0, -0.1), "final: must be in [0, 1], not -0.1"),
        (WarmupRsqrt(0, 0), "timescale: must be at least 1, not 0"),
        (WarmupRsqrt(0, 1, -1), "cooldown_steps: must be at least 0, not -1"),
        (WarmupStableDecay(0, 0.0), "decay_fraction: must be in (0, 1], not 0.0"),
        (WarmupStableDecay(final=2.0), "final: must be in [0, 1], not 2.0"),
        (
            WarmupStableDecay(decay_shape="lienar"),  # type: ignore[arg-type]
            "decay_shape: unknown value 'lienar'; did you mean 'linear'?",
        ),
        (
            WarmupSteps(),
            "boundaries: names no step; use the schedule 'constant' or give some",
        ),
        (WarmupSteps(0, (3, 3), (1.0, 1.0)), "boundaries: must rise and be positive, not (3, 3)"),
        (WarmupSteps(0, (0,), (1.0,)), "boundaries: must rise and be positive, not (0,)"),
        (WarmupSteps(0, (3,), ()), "factors: 0 for 1 boundaries; give one for each"),
        (WarmupSteps(0, (3,), (-0.5,)), "factors.0: must be at least 0, not -0.5"),
    ],
)
def test_bad_fields(schedule, message):
    with pytest.raises(UserError) as error:
        config.validate(schedule)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("schedule", "steps", "problem"),
    [
        (WarmupCosine(10), 10, ("warmup_steps", "10 leaves nothing of a run of 10 steps")),
        (
            WarmupRsqrt(10, 8, 6),
            15,
            ("cooldown_steps", "6 is more than the 5 steps after the warm-up"),
        ),
        (
            WarmupStableDecay(10, 0.5),
            19,
            ("decay_fraction", "0.5 of 19 steps is more than the 9 after the warm-up"),
        ),
        (
            WarmupSteps(0, (3, 10), (0.1, 0.2)),
            10,
            ("boundaries.1", "10 is not reached in a run of 10 steps"),
        ),
    ],
)
def test_a_run_that_is_too_short(schedule, steps, problem):
    assert list(schedule.problems_in(steps)) == [problem]
    assert list(schedule.problems_in(steps + 1)) == []
