"""A scanned stack takes the steps of an unrolled one, with every optimizer."""

import jax
import numpy as np
import pytest

from tests.optim.optimizing import directions, gradients
from vljax.models.parameters import roll, unroll
from vljax.optim import Adafactor, Optimizer

# More layers than a second dimension has, and than `factor_from`: they could be taken for one.
LAYERS = 7
BLOCK = {
    "norm": {"scale": ((6,), ("embed",))},
    "query": {
        "kernel": ((6, 2, 3), ("embed", "heads", "head_dim")),
        "bias": ((2, 3), ("heads", "head_dim")),
    },
    "up": {"kernel": ((6, 5), ("embed", "mlp")), "bias": ((5,), ("mlp",))},
}


def part(tree, index):
    pairs = lambda node: isinstance(node, tuple) and isinstance(node[0], tuple)  # noqa: E731
    return jax.tree.map(lambda pair: pair[index], tree, is_leaf=pairs)


def with_layers(axes):
    return jax.tree.map(lambda a: ("layers", *a), axes, is_leaf=lambda a: isinstance(a, tuple))


@pytest.mark.parametrize("name", sorted(Optimizer.members))
def test_scanned_and_unrolled_stacks_take_the_same_steps(name):
    kind = Optimizer.members[name]
    # Stored in float32, as bfloat16 would hide differences.
    factored = {"factor_from": 3, "clip_rms": 0.7, "moment_dtype": None}
    fields = factored if kind is Adafactor else {}
    blocks = {str(i): BLOCK for i in range(LAYERS)}
    flat = {"image": {"blocks": blocks, "norm": BLOCK["norm"]}, "scale": ((), ())}
    shapes, axes = (part(flat, index) for index in range(2))
    stacked_axes = {**axes, "image": {**axes["image"], "blocks": with_layers(part(BLOCK, 1))}}
    trees = gradients(shapes)[:3]
    unrolled, _ = directions(kind(**fields), axes, trees)
    scanned, _ = directions(kind(**fields), stacked_axes, [roll(tree) for tree in trees])
    for one, other in zip(scanned, unrolled, strict=True):
        # Sums may be taken in another order: float32 rounding.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), unroll(one), other)
