"""Adafactor against the paper's formulas in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.optim.optimizing import directions, gradients
from vljax.optim import Adafactor

SHAPES = {
    "kernel": (6, 5),
    "query": (7, 2, 5),
    "square": (4, 4),
    "narrow": (6, 3),
    "bias": (5,),
    "stack": (9, 6, 5),
    "norms": (9, 6),
}
AXES = {
    "kernel": ("embed", "mlp"),
    "query": ("embed", "heads", "head_dim"),
    "square": ("embed", "none"),
    "narrow": ("embed", "mlp"),
    "bias": ("mlp",),
    "stack": ("layers", "embed", "mlp"),
    "norms": ("layers", "embed"),
}


def adafactor(trees, factored, *, cap, clip=None, momentum=0.0):
    """Shazeer & Stern 2018, algorithms 4 and 5, with Zhai et al. 2022's cap, then a mean.

    `factored` says whether the last dimension and the first are factored.
    """
    rows = columns = full = mean = 0
    for step, g in enumerate(trees, 1):
        b2 = min(cap, 1 - step**-0.8)
        squared = g**2 + 1e-30
        if factored:
            rows = b2 * rows + (1 - b2) * squared.sum(-1, keepdims=True)
            columns = b2 * columns + (1 - b2) * squared.sum(0, keepdims=True)
            estimate = rows * columns / rows.sum(0, keepdims=True)
        else:
            full = b2 * full + (1 - b2) * squared
            estimate = full
        scaled = g / np.sqrt(estimate)
        if clip is not None:
            scaled = scaled / max(1, np.sqrt(np.mean(scaled**2)) / clip)
        mean = momentum * mean + (1 - momentum) * scaled
        yield mean


@pytest.mark.parametrize(
    "fields",
    [{"momentum": 0.0}, {"momentum": 0.9}, {"momentum": 0.0, "clip_rms": 0.7}],
    ids=lambda fields: "-".join(fields),
)
def test_five_directions(fields):
    """Layers of a stack are arrays of their own; heads too, the dimensions being larger."""
    trees = gradients(SHAPES)
    optimizer = Adafactor(factor_from=4, b2_cap=0.5, moment_dtype=None, clip_norm=None, **fields)
    found, _ = directions(optimizer, AXES, trees)
    options = {"cap": 0.5, "clip": fields.get("clip_rms"), "momentum": fields["momentum"]}

    def check(name, factored, at=()):
        truth = adafactor([tree[name][at] for tree in trees], factored, **options)
        for ours, expected in zip(found, truth, strict=True):
            # float32 rounding of values near 1, which may cancel in the mean.
            np.testing.assert_allclose(ours[name][at], expected, rtol=1e-5, atol=1e-6, err_msg=name)

    for name in ("kernel", "square"):
        check(name, factored=True)
    for name in ("narrow", "bias"):
        check(name, factored=False)
    for layer in range(9):
        check("stack", factored=True, at=layer)
        check("norms", factored=False, at=layer)
    if "clip_rms" not in fields:
        for head in range(2):
            check("query", factored=True, at=(slice(None), head))


def test_the_state_is_factored():
    """big_vision's: a column and a row of mean squares, the momentum in bfloat16."""
    shapes = {"kernel": (64, 32), "narrow": (64, 31)}
    axes = {"kernel": ("embed", "mlp"), "narrow": ("embed", "mlp")}
    _, state = directions(Adafactor(), axes, gradients(shapes))
    sizes = {
        name: sum(leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(state)
                  if f"'{name}'" in jax.tree_util.keystr(path) and leaf.dtype == jnp.float32)
        for name in shapes
    }  # fmt: skip
    # Placeholders of one element stand for what an array does not have.
    assert sizes == {"kernel": 64 + 32 + 1, "narrow": 64 * 31 + 2}
    halves = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.bfloat16]
    assert sorted(halves) == sorted(shapes.values())


def test_without_momentum_nothing_of_a_kernels_size_is_stored():
    _, state = directions(
        Adafactor(momentum=0.0), {"kernel": ("embed", "mlp")}, gradients({"kernel": (64, 32)})
    )
    assert max(leaf.size for leaf in jax.tree.leaves(state)) == 64


def test_the_momentum_in_bfloat16():
    """Off by up to 2^-9 of the mean each step, of which 0.9 stay: below 0.01 of values near 1."""
    trees, axes = gradients({"kernel": (40, 33)}), {"kernel": ("embed", "mlp")}
    exact, _ = directions(Adafactor(moment_dtype=None), axes, trees)
    rounded, _ = directions(Adafactor(), axes, trees)
    np.testing.assert_allclose(rounded[-1]["kernel"], exact[-1]["kernel"], atol=0.01)
