"""Losses that stand out, on series made by hand."""

import math

import numpy as np
import pytest

from vljax.training.loop import BOUND, MIN_LOSSES, WINDOW, SpikeDetector


def flagged(losses):
    """Position -> deviations of the losses that are called spikes."""
    detector = SpikeDetector()
    found = {i: detector.deviations(float(loss)) for i, loss in enumerate(losses)}
    return {i: above for i, above in found.items() if above is not None}


def alternating(count, middle=2.0, swing=0.1):
    """Median absolute deviation `swing` about the middle."""
    return [middle + swing * (-1) ** i for i in range(count)]


def test_a_spike_is_measured_in_deviations():
    losses = alternating(40)
    expected = (4.0 - np.median(losses)) / (1.4826 * 0.1)
    assert flagged([*losses, 4.0]) == {40: pytest.approx(expected, rel=1e-9)}


@pytest.mark.parametrize(("distance", "found"), [(BOUND + 0.1, {40}), (BOUND - 0.1, set())])
def test_the_bound(distance, found):
    assert set(flagged([*alternating(40), 2.0 + distance * 0.14826])) == found


def test_a_drop_is_not_a_spike():
    assert flagged([*alternating(40), -50.0]) == {}


def test_noise_is_not_a_spike():
    rng = np.random.default_rng(0)
    steps = np.arange(20_000)
    assert flagged(0.5 + 6 * np.exp(-steps / 500) + rng.normal(0, 0.2, len(steps))) == {}


def test_a_plateau_has_a_least_deviation():
    losses = [2.0] * 40
    assert flagged([*losses, 2.0 + 0.9 * BOUND * 2e-3]) == {}
    assert set(flagged([*losses, 2.0 + 1.1 * BOUND * 2e-3])) == {40}


def test_too_few_losses_give_no_spike():
    assert flagged([*alternating(MIN_LOSSES - 1), 100.0]) == {}


def test_a_spike_does_not_hide_the_next():
    assert set(flagged([*alternating(40), 4.0, 2.0, 4.0, 2.0, 4.0])) == {40, 42, 44}


def test_old_losses_are_forgotten():
    """A higher level is a spike at first and the normal state later."""
    found = flagged([*alternating(200, 2.0), *alternating(WINDOW, 4.0), 4.1])
    assert 200 in found
    assert max(found) < 200 + WINDOW // 2 + 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_losses_that_are_not_finite_are_ignored(value):
    assert flagged([*alternating(40), *[value] * 100, 4.0]).keys() == {140}
