"""Convolutions by other means, and what batch normalisation keeps."""

import jax
import numpy as np
import pytest

from vljax.models.compute import Compute
from vljax.models.kernels.choose import Kernels
from vljax.models.kernels.depthwise import grouped_convolution, shifted_sum
from vljax.models.layers.convolution import Convolution, max_pool

KINDS = {"depthwise": grouped_convolution, "shifted_sum": shifted_sum}
# Of a 5 x 5 or 6 x 6 image by hand: TensorFlow's SAME, zeros before and behind.
PADS = {
    (5, 3, 1): (1, 1),
    (6, 3, 2): (0, 1),
    (5, 3, 2): (1, 1),
    (6, 5, 1): (2, 2),
    (6, 5, 2): (1, 2),
    (5, 5, 2): (2, 2),
    (5, 1, 2): (0, 0),
    (6, 1, 2): (0, 0),
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


@pytest.mark.parametrize("kind", ["full", *KINDS])
@pytest.mark.parametrize(("side", "size", "stride"), PADS)
def test_a_convolution_is_padded_as_in_tensorflow(side, size, stride, kind):
    x = jax.random.normal(jax.random.key(1), (2, side, side, 3))
    depthwise = kind != "full"
    kernels = Kernels(depthwise_convolution=KINDS[kind]) if depthwise else Kernels()
    features = 3 if depthwise else 4
    module = Convolution(
        features, size, Compute(kernels=kernels), stride=stride, depthwise=depthwise
    )
    variables = module.init(jax.random.key(0), x)
    kernel = variables["params"]["kernel"].unbox()
    wanted = by_hand(x, kernel, size, stride, PADS[side, size, stride], depthwise)
    np.testing.assert_allclose(module.apply(variables, x), wanted, atol=2e-6)


@pytest.mark.parametrize(("side", "size"), [(5, 3), (6, 3), (6, 7), (6, 1)])
def test_a_symmetric_convolution_is_padded_as_in_pytorch(side, size):
    x = jax.random.normal(jax.random.key(1), (2, side, side, 3))
    module = Convolution(4, size, Compute(), stride=2, symmetric=True)
    variables = module.init(jax.random.key(0), x)
    kernel = variables["params"]["kernel"].unbox()
    wanted = by_hand(x, kernel, size, 2, (size // 2, size // 2), False)
    assert wanted.shape[1:] == (-(-side // 2), -(-side // 2), 4)
    np.testing.assert_allclose(module.apply(variables, x), wanted, atol=2e-6)


@pytest.mark.parametrize("side", [5, 6])
def test_a_maximum_over_windows_and_its_gradient(side):
    x = jax.random.normal(jax.random.key(1), (2, side, side, 3))
    padded = np.pad(np.float64(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    wanted, counts = [], np.zeros_like(padded)
    for i in range(0, side, 2):
        for j in range(0, side, 2):
            window = np.s_[:, i : i + 3, j : j + 3]
            largest = padded[window].max((1, 2), keepdims=True)
            wanted.append(largest[:, 0, 0])
            counts[window] += padded[window] == largest
    made = np.asarray(max_pool(x)).reshape(2, -1, 3)
    np.testing.assert_array_equal(made, np.float32(np.stack(wanted, axis=1)))
    gradient = jax.grad(lambda x: max_pool(x).sum())(x)
    np.testing.assert_array_equal(gradient, counts[:, 1:-1, 1:-1])
