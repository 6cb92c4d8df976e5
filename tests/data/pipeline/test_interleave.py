"""The proportions of an interleaving in every window of the stream."""

from fractions import Fraction

import numpy as np
import pytest

from vljax.data.pipeline.order import WINDOW_BOUND, Interleaving

FAR = 10**15 + 7
FIBONACCI = [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144]
WEIGHTS = {
    "one": [1],
    "a third": [1, 2],
    "decimals": [Fraction("0.7"), Fraction("0.2"), Fraction("0.1")],
    "equal": [1] * 7,
    "a hundred": list(range(1, 101)),
    "nearly none": [1, 10**6, 10**6],
    "none": [0, 3, 2],
    "as slow as it grows": FIBONACCI,
    "sizes": [123_456_789, 3_000_017, 99_999_999, 1_000],
    "two heavy ones above light ones": [1000, 1001, 1, 1, 1],
}


def fractions(name):
    return [Fraction(weight) for weight in WEIGHTS[name]]


def parts(interleaving, begin, length):
    return np.array([interleaving.at(begin + n)[0] for n in range(length)])


@pytest.mark.parametrize("begin", [0, FAR])
@pytest.mark.parametrize("name", WEIGHTS)
def test_every_window_has_the_proportions(name, begin):
    """The largest difference of two prefix sums covers all windows in 1,500 elements."""
    weights = fractions(name)
    interleaving = Interleaving(weights)
    found = parts(interleaving, begin, 1500)
    length = np.arange(1501)
    for part, weight in enumerate(weights):
        taken = np.concatenate([[0], np.cumsum(found == part)])
        excess = taken - length * float(weight / sum(weights))
        bound = interleaving.bound(part)
        assert excess.max() - excess.min() < bound + 1e-9, part
        assert bound < WINDOW_BOUND
        if begin == 0:  # windows that begin at the start have at most half the error
            assert np.abs(excess).max() <= bound / 2 + 1e-9


def test_random_weights_keep_the_bound():
    rng = np.random.default_rng(0)
    for _ in range(25):
        count = int(rng.integers(2, 12))
        weights = [Fraction(int(w)) for w in np.ceil(np.exp(rng.uniform(0, 12, count)))]
        interleaving = Interleaving(weights)
        found = parts(interleaving, int(rng.integers(2**50)), 300)
        for part, weight in enumerate(weights):
            taken = np.concatenate([[0], np.cumsum(found == part)])
            excess = taken - np.arange(301) * float(weight / sum(weights))
            assert excess.max() - excess.min() < interleaving.bound(part) + 1e-9
            assert interleaving.bound(part) < WINDOW_BOUND


@pytest.mark.parametrize("name", ["a third", "equal", "none", "as slow as it grows"])
def test_integer_weights_give_exact_counts(name):
    weights = WEIGHTS[name]
    total = sum(weights)
    interleaving = Interleaving(fractions(name))
    for multiple in (0, 1, 10**12):
        found = parts(interleaving, multiple * total, total)
        assert np.bincount(found, minlength=len(weights)).tolist() == weights


def test_decimal_weights_are_exact():
    found = parts(Interleaving(fractions("decimals")), 10 * FAR, 10)
    assert np.bincount(found).tolist() == [7, 2, 1]


def test_the_bound_of_two_parts_is_one():
    assert [Interleaving(fractions("a third")).bound(part) for part in (0, 1)] == [1, 1]


def test_bounds_include_a_share_of_the_bound_above():
    """Weights 7, 2 and 1: 10 is split into 7 and 3, then 3 into 2 and 1."""
    bounds = [Interleaving(fractions("decimals")).bound(part) for part in range(3)]
    assert bounds == pytest.approx([1, 1 + 2 / 3, 1 + 1 / 3])


@pytest.mark.parametrize("name", WEIGHTS)
def test_elements_of_a_part_are_numbered_without_gaps(name):
    interleaving = Interleaving(fractions(name))
    before = interleaving.counts(FAR)
    assert sum(before) == FAR
    for n in range(300):
        part, number = interleaving.at(FAR + n)
        assert number == before[part]
        before[part] += 1
    assert interleaving.counts(FAR + 300) == before


@pytest.mark.parametrize("weights", [[0, 0], [1, -1]])
def test_negative_or_all_zero_weights_are_refused(weights):
    with pytest.raises(ValueError, match="must be 0 or more and not all 0"):
        Interleaving([Fraction(weight) for weight in weights])
