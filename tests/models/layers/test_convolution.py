"""Convolutions by other means, and what batch normalisation keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.models.compute import Compute
from vljax.models.layers.convolution import BatchNorm, Convolution

# Of a 5 x 5 or 6 x 6 image by hand: TensorFlow's SAME, zeros before and behind.
PADS = {
    (5, 3, 1): (1, 1),
    (6, 3, 2): (0, 1),
    (5, 3, 2): (1, 1),
    (6, 5, 1): (2, 2),
    (6, 5, 2): (1, 2),
    (5, 5, 2): (2, 2),
}


def by_hand(x, kernel, size, stride, pads, depthwise):
    """The definition, in float64."""
    x = np.pad(np.float64(x), ((0, 0), pads, pads, (0, 0)))
    out = range(0, x.shape[1] - size + 1, stride)
    rows = []
    for i in out:
        windows = [x[:, i : i + size, j : j + size] for j in out]
        if depthwise:
            rows.append(
                [np.einsum("bpqc,pqc->bc", w, np.float64(kernel[:, :, 0])) for w in windows]
            )
        else:
            rows.append([np.einsum("bpqc,pqcd->bd", w, np.float64(kernel)) for w in windows])
    return np.moveaxis(np.array(rows), 2, 0)


@pytest.mark.parametrize("kind", ["full", "depthwise", "by_shifts"])
@pytest.mark.parametrize(("side", "size", "stride"), PADS)
def test_a_convolution_is_padded_as_in_tensorflow(side, size, stride, kind):
    x = jax.random.normal(jax.random.key(1), (2, side, side, 3))
    depthwise = kind != "full"
    compute = Compute(depthwise_by_shifts=kind == "by_shifts")
    features = 3 if depthwise else 4
    module = Convolution(features, size, compute, stride=stride, depthwise=depthwise)
    variables = module.init(jax.random.key(0), x)
    kernel = variables["params"]["kernel"].unbox()
    wanted = by_hand(x, kernel, size, stride, PADS[side, size, stride], depthwise)
    np.testing.assert_allclose(module.apply(variables, x), wanted, atol=2e-6)


def test_batch_norm_normalises_by_the_batch_and_moves_its_statistics():
    x = 3 + 2 * jax.random.normal(jax.random.key(1), (4, 5, 5, 3))
    module = BatchNorm(Compute(), 1e-3, 0.9)
    variables = module.init(jax.random.key(0), x, update=False)
    y, moved = module.apply(variables, x, update=True, mutable=["batch_stats"])
    wide = np.float64(x)
    mean, variance = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    np.testing.assert_allclose(y, (wide - mean) / np.sqrt(variance + 1e-3), atol=2e-6)
    np.testing.assert_allclose(moved["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(moved["batch_stats"]["variance"], 0.9 + 0.1 * variance, rtol=1e-5)


def test_without_update_the_stored_statistics_count_and_stay():
    x = jax.random.normal(jax.random.key(1), (4, 5, 5, 3))
    module = BatchNorm(Compute(), 1e-3, 0.9)
    params = module.init(jax.random.key(0), x, update=False)["params"]
    stored = {"mean": jnp.array([1.0, 2.0, 3.0]), "variance": jnp.array([4.0, 5.0, 6.0])}
    given = {"params": params, "batch_stats": stored}
    y, after = module.apply(given, x, update=False, mutable=["batch_stats"])
    wanted = (np.float64(x) - stored["mean"]) / np.sqrt(stored["variance"] + 1e-3)
    np.testing.assert_allclose(y, wanted, atol=2e-6)
    assert jax.tree.all(jax.tree.map(np.array_equal, dict(after["batch_stats"]), stored))
