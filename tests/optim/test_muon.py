"""Muon against its formula in float64 NumPy, by singular values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.optim.optimizing import directions, gradients
from tests.optim.test_optimizers import adam
from vljax.optim import Muon
from vljax.optim.muon import matrix_of


def muon(trees, *, momentum=0.8, nesterov=True, iterations=5, rms=None):
    """Jordan 2024: the quintic acts on singular values, apart from U and V.

    Liu et al. 2025, eq. 4, for `rms`.
    """
    total = 0
    for g in trees:
        total = momentum * total + g
        u, s, v = np.linalg.svd(g + momentum * total if nesterov else total, full_matrices=False)
        s /= np.linalg.norm(s)
        for _ in range(iterations):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        rows, columns = g.shape
        scale = max(1, columns / rows) ** 0.5 if rms is None else rms * max(rows, columns) ** 0.5
        yield scale * (u * s) @ v


@pytest.mark.parametrize(
    "fields",
    [{}, {"update_rms": None}, {"nesterov": False}, {"iterations": 3}],
    ids=lambda fields: "-".join(fields) or "default",
)
def test_five_directions_of_matrices(fields):
    trees = gradients({"up": (4, 7), "down": (7, 4), "query": (6, 2, 4), "output": (3, 2, 2, 5)})
    axes = {
        "up": ("embed", "mlp"),
        "down": ("mlp", "embed"),
        "query": ("embed", "heads", "head_dim"),
        "output": ("layers", "heads", "head_dim", "embed"),
    }
    found, _ = directions(Muon(momentum=0.8, clip_norm=None, **fields), axes, trees)
    options = {"rms": 0.2, **fields}
    options["rms"] = options.pop("update_rms", options["rms"])

    def check(name, shape, at=()):
        truth = muon([tree[name][at].reshape(shape) for tree in trees], **options)
        for ours, expected in zip(found, truth, strict=True):
            # float32 rounding: 1e-6 here, as small singular values grow by up to 3.4 an iteration.
            np.testing.assert_allclose(
                np.reshape(ours[name][at], shape), expected, atol=1e-5, err_msg=name
            )

    check("up", (4, 7))
    check("down", (7, 4))
    check("query", (6, 8))
    for layer in range(3):
        check("output", (4, 5), layer)


def test_other_parameters_are_trained_by_adam():
    shapes = {"embedding": (4, 7), "projection": (4, 3), "bias": (2, 3), "norm": (3, 4)}
    axes = {
        "embedding": ("vocab", "embed"),
        "projection": ("embed", "none"),
        "bias": ("heads", "head_dim"),
        "norm": ("layers", "embed"),
    }
    trees = gradients(shapes)
    found, _ = directions(Muon(b1=0.8, b2=0.95, epsilon=1e-3, clip_norm=None), axes, trees)
    for name in shapes:
        truth = adam([tree[name] for tree in trees])
        for ours, expected in zip(found, truth, strict=True):
            np.testing.assert_allclose(ours[name], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (("embed", "mlp"), "1 (embed) (mlp)"),
        (("layers", "mlp", "embed"), "layers (mlp) (embed)"),
        (("layers", "embed", "heads", "head_dim"), "layers (embed) (heads head_dim)"),
        (("heads", "head_dim", "embed"), "1 (heads head_dim) (embed)"),
        (("patch", "patch", "conv_in", "conv_out"), "1 (patch_0 patch_1 conv_in) (conv_out)"),
    ],
)
def test_matrices_by_their_logical_axes(names, folded):
    assert matrix_of(names).folded == folded


@pytest.mark.parametrize(
    "names",
    [
        ("layers", "heads", "head_dim"),
        ("layers", "embed"),
        ("vocab", "embed"),
        ("positions", "embed"),
        ("patch", "patch", "conv_in", "embed"),
        ("patch", "patch", "none", "conv_out"),
        ("embed", "none"),
        (),
    ],
    ids="-".join,
)
def test_all_other_arrays_are_not_matrices(names):
    assert matrix_of(names) is None


def test_the_direction_of_optax_itself_is_another():
    """Why `optax.contrib.muon` is not used: from step 2 on, its Nesterov momentum differs."""
    trees = gradients({"up": (4, 7)})
    (_, ours, *_), _ = directions(
        Muon(momentum=0.8, clip_norm=None), {"up": ("embed", "mlp")}, trees
    )
    theirs = optax.contrib.muon(-1.0, beta=0.8, consistent_rms=0.2)
    params = {"up": jnp.zeros((4, 7))}
    state = theirs.init(params)
    for tree in trees[:2]:
        found, state = theirs.update(jax.tree.map(jnp.float32, tree), state, params)
    distance = np.linalg.norm(found["up"] - ours["up"]) / np.linalg.norm(ours["up"])
    assert distance > 0.02
