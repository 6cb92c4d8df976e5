"""The order of training examples."""

import itertools
import time
from collections import Counter
from fractions import Fraction

import grain
import pytest

from vljax.data.pipeline.order import ExampleOrder
from vljax.data.randomness import shuffle_seed

ONE = ((0, (Fraction(1),)),)
NAMES = ("a", "b", "c")
LENGTHS = (5, 22, 7)
PHASES = (
    (0, (Fraction(1), Fraction(2), Fraction(1))),
    (10, (Fraction(0), Fraction("0.25"), Fraction("0.75"))),
    (30, (Fraction(3), Fraction(1), Fraction(0))),
)


def mixed(phases=PHASES, **changes):
    fields = {"seed": 3, "names": NAMES, "lengths": LENGTHS, "phases": phases, "global_batch": 8}
    return ExampleOrder(**{**fields, **changes})


def visits(order, begin, end):
    return [order[position] for position in range(begin, end)]


def test_one_source_has_the_order_of_grains_shuffle():
    """Runs that began before mixtures existed resume in the same order."""
    order = ExampleOrder(seed=3, names=("a",), lengths=(22,), phases=ONE, global_batch=8)
    stream = grain.MapDataset.source(range(22)).shuffle(seed=shuffle_seed(3, "a")).repeat(None)
    for position in [*range(100), 10**12]:
        assert order[position] == (position // 8, 0, position // 22, stream[position])


def test_each_source_completes_its_epochs_when_weights_change():
    taken = [[], [], []]
    for visit in visits(mixed(), 0, 800):
        taken[visit.part].append((visit.epoch, visit.example_index))
    for part, length in enumerate(LENGTHS):
        epochs = [
            list(group) for _, group in itertools.groupby(taken[part], key=lambda visit: visit[0])
        ]
        assert [epoch[0][0] for epoch in epochs] == list(range(len(epochs)))
        orders = [[index for _, index in epoch] for epoch in epochs]
        assert all(sorted(order) == list(range(length)) for order in orders[:-1])
        assert len(set(orders[-1])) == len(orders[-1])
        assert len({tuple(order) for order in orders[:-1]}) > 1


def test_weights_change_with_the_step():
    order = mixed()
    for first, last, shares in [(0, 10, (20, 40, 20)), (10, 30, (0, 40, 120)), (30, 40, (60, 20))]:
        counts = Counter(visit.part for visit in visits(order, first * 8, last * 8))
        assert tuple(counts[part] for part in range(len(shares))) == shares
        assert counts.total() == sum(shares)


def test_steps_are_counted_in_batches():
    assert [visit.step for visit in visits(mixed(), 0, 24)] == [0] * 8 + [1] * 8 + [2] * 8


@pytest.mark.parametrize("step", [29, 30, 10**9])
def test_the_example_at_a_position_does_not_depend_on_earlier_reads(step):
    """An order has no state: another object, read in reverse, gives the same examples."""
    first, second = mixed(), mixed()
    expected = visits(first, step * 8, step * 8 + 40)
    assert [second[p] for p in reversed(range(step * 8, step * 8 + 40))] == expected[::-1]


def test_a_far_step_is_reached_quickly():
    order = mixed(lengths=(10**8, 10**9, 7))
    visits(order, 0, 10)
    begun = time.perf_counter()
    visits(order, 10**9 * 8, 10**9 * 8 + 1000)
    assert time.perf_counter() - begun < 5


def test_weights_by_size_give_each_example_once_per_epoch():
    weights = tuple(Fraction(length) for length in LENGTHS)
    order = mixed(((0, weights),))
    total = sum(LENGTHS)
    for epoch in (0, 1, 10**9):
        seen = {
            (visit.part, visit.example_index, visit.epoch)
            for visit in visits(order, epoch * total, (epoch + 1) * total)
        }
        assert len(seen) == total
        assert {visit[2] for visit in seen} == {epoch}


def test_seeds_and_names_decide_the_order():
    first = visits(mixed(), 0, 60)
    assert visits(mixed(), 0, 60) == first
    for changes in ({"seed": 4}, {"names": ("x", "b", "c")}):
        assert visits(mixed(**changes), 0, 60) != first
