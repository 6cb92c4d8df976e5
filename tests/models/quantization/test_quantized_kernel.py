"""Quantized kernels against the formulas in float64 and whole numbers of NumPy."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.config import UserError
from vljax.models.compute import Compute
from vljax.models.kernels.linear import matmul_2d, tensordot
from vljax.models.layers.basic import Linear
from vljax.models.quantization.forms import FORMS, Form
from vljax.models.quantization.quantized_kernel import dequantized, quantize, quantized_linear

SHAPES = [((128, 2, 12), 1), ((2, 64, 24), 2), ((96, 20), 1)]


def array(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def matrix(kernel, inputs):
    return np.asarray(kernel, np.float64).reshape(np.prod(kernel.shape[:inputs]), -1)


def reference_scale(kernel, groups, top):
    """max |kernel| / (top + 1/2), in each group of inputs and for each output."""
    grouped = kernel.reshape(groups, -1, kernel.shape[1])
    return np.abs(grouped).max(1) / (top + 0.5)


@pytest.mark.parametrize(("shape", "inputs"), SHAPES)
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_symmetric_quantization_is_off_by_half_a_scale_at_most(name, shape, inputs):
    form, kernel = FORMS[name], array(shape)
    made = quantize(jnp.asarray(kernel), inputs, form)
    exact = matrix(kernel, inputs)
    groups = {128: 2, 96: 2}[exact.shape[0]] if name == "int4" else 1
    scale = reference_scale(exact, groups, {"int8": 127, "int4": 7}[name])
    np.testing.assert_allclose(made.scale, scale, rtol=3e-7)

    assert made.values.shape == shape
    assert made.values.dtype == {"int8": jnp.int8, "int4": jnp.int4}[name]
    spread = np.repeat(scale, exact.shape[0] // groups, axis=0)
    expected = np.clip(np.rint(exact / spread), -form.top - 1, form.top)
    values = matrix(np.asarray(made.values).astype(np.int32), inputs)
    # The largest of a group lies just between two numbers, where float32 may fall to either side.
    between = np.abs(np.abs(exact / spread) % 1 - 0.5) < 1e-4
    np.testing.assert_array_equal(values[~between], expected[~between])
    assert np.abs(values - expected).max() <= 1

    errors = np.abs(matrix(dequantized(made), inputs) - exact) / spread
    assert 0.49 < errors.max() <= 0.5 * (1 + 1e-4)


@pytest.mark.parametrize(
    ("inputs", "groups"), [(64, 1), (128, 2), (96, 2), (768, 12), (80, 2), (67, 1), (1, 1)]
)
def test_groups_divide_the_inputs_evenly(inputs, groups):
    assert FORMS["int4"].groups(inputs) == groups
    assert FORMS["int8"].groups(inputs) == 1


def test_a_column_of_zeros_stays_one():
    kernel = array((16, 3))
    kernel[:, 1] = 0
    made = dequantized(quantize(jnp.asarray(kernel), 1, FORMS["int8"]))
    assert np.isfinite(made).all()
    np.testing.assert_array_equal(made[:, 1], 0)


@pytest.mark.parametrize("linear", [tensordot, matmul_2d])
@pytest.mark.parametrize(("shape", "inputs"), SHAPES)
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_weights_alone_are_products_with_the_dequantized_kernel(name, shape, inputs, linear):
    made = quantize(jnp.asarray(array(shape)), inputs, FORMS[name])
    x = array((5, 7, *shape[:inputs]), 1)
    expected = np.tensordot(x, np.asarray(dequantized(made), np.float64), inputs)
    product = quantized_linear(jnp.asarray(x), made, inputs, linear)
    np.testing.assert_allclose(product, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("shape", "inputs"), SHAPES)
def test_dynamic_products_are_of_whole_numbers(shape, inputs):
    kernel, x = array(shape), array((5, 7, *shape[:inputs]), 1)
    made = quantize(jnp.asarray(kernel), inputs, FORMS["int8-dynamic"])
    rows = x.reshape(35, -1)
    # The largest of a row lies just between two numbers; where it is positive, both are clipped.
    rows *= np.sign(np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1))
    row_scale = (np.abs(rows).max(1, keepdims=True) / np.float32(127.5)).astype(np.float32)
    whole_rows = np.clip(np.rint(rows / row_scale), -128, 127).astype(np.int64)
    whole_kernel = np.asarray(made.values).astype(np.int64).reshape(rows.shape[1], -1)
    expected = (whole_rows @ whole_kernel) * row_scale.astype(np.float64) * np.asarray(made.scale)
    product = np.asarray(quantized_linear(jnp.asarray(x), made, inputs))
    assert product.shape == (5, 7, *shape[inputs:])
    largest = np.abs(expected).max()
    np.testing.assert_allclose(product.reshape(35, -1), expected, rtol=1e-6, atol=1e-6 * largest)
    # Features are rounded, too: the product with the same kernel is another one.
    floats = rows.astype(np.float64) @ matrix(dequantized(made), inputs)
    assert 1e-4 * largest < np.abs(expected - floats).max() < 0.05 * largest


def test_a_dynamic_product_is_compiled_as_one_of_bytes():
    made = quantize(jnp.asarray(array((16, 8))), 1, FORMS["int8-dynamic"])
    program = jax.jit(lambda x: quantized_linear(x, made, 1)).lower(jnp.ones((4, 16))).as_text()
    assert re.search(r"dot_general.*tensor<4x16xi8>, tensor<16x8xi8>\) -> tensor<4x8xi32>", program)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_linear_map_takes_a_quantized_kernel_for_its_parameter(name, dtype):
    layer = Linear((12,), ("heads", "head_dim", "embed"), Compute(dtype), 2)
    x = jnp.asarray(array((3, 2, 64), 1))
    params = layer.init(jax.random.key(0), x)["params"]
    kernel = jnp.asarray(params["kernel"].unbox())
    bias = jnp.arange(12.0)
    made = {"kernel": quantize(kernel, 2, FORMS[name]), "bias": bias}
    y = jax.jit(layer.apply)({"params": made}, x)
    assert y.dtype == dtype
    rounded = dequantized(made["kernel"])
    expected = np.tensordot(x, np.asarray(rounded, np.float64), 2) + np.arange(12.0)
    tolerance = 0.05 if dtype == jnp.bfloat16 or FORMS[name].dynamic else 1e-5
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=0, atol=tolerance * 2)


def test_without_qwix_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(UserError, match=r"pip install 'vljax\[quantize\]'"):
        quantize(jnp.ones((2, 2)), 1, Form("", 8))
