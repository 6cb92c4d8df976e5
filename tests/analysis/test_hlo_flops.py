"""FLOPs of compiled programs, compared with 2 m n k by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.analysis.hlo import executions, parse
from vljax.analysis.hlo_costs import program_flops, unknown_kernels


def flops(text):
    module = parse(text)
    return program_flops(module, executions(module))


def compiled(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile().as_text()


def test_batched_products():
    text = compiled(lambda a, b: jnp.einsum("bqhd,bkhd->bhqk", a, b), (2, 5, 3, 7), (2, 11, 3, 7))
    assert flops(text) == 2 * 2 * 3 * 5 * 11 * 7


def test_a_scan_counts_every_trip():
    def forward(x, w):
        return jax.lax.scan(lambda c, v: (jnp.tanh(c @ v), None), x, w)[0].sum()

    layers, rows, width = 6, 32, 48
    shapes = (rows, width), (layers, width, width)
    product = 2 * rows * width * width
    assert flops(compiled(forward, *shapes)) == layers * product
    gradient = jax.grad(forward, argnums=(0, 1))
    assert flops(compiled(gradient, *shapes)) == 3 * layers * product


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window_strides": (2, 3)},
        {"padding": ((2, 1), (0, 3))},
        {"rhs_dilation": (2, 1)},
        {"lhs_dilation": (1, 2)},
        {"feature_group_count": 2},
    ],
)
def test_convolutions_do_not_count_padding(options):
    """The same convolution of ones gives the number of terms of each result."""
    options = {"window_strides": (1, 1), "padding": ((0, 0), (0, 0)), **options}
    groups = options.get("feature_group_count", 1)

    def convolve(x, w):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, dimension_numbers=numbers, **options)

    shapes = (2, 9, 8, 4), (3, 2, 4 // groups, 6)
    terms = np.asarray(convolve(*map(jnp.ones, shapes))).sum()
    assert flops(compiled(convolve, *shapes)) == 2 * int(terms)


ENTRY = """\
ENTRY %main (a: {left}, b: {right}) -> {out} {{
  %a = {left} parameter(0)
  %b = {right} parameter(1)
  ROOT %c = {out} {operation}
}}
"""


@pytest.mark.parametrize(
    ("left", "right", "out", "attributes", "expected"),
    [
        # As libtpu writes products: heads are a window, reversed.
        (
            *("bf16[64,196,768]", "bf16[768,12,64]", "bf16[64,196,12,64]"),
            "window={size=1x12 pad=0_0x11_11 rhs_reversal=0x1}, dim_labels=0bf1_i1o0->0b1f",
            None,
        ),
        # Batch and heads of attention are dilated dimensions.
        (
            *("bf16[64,196,12,64]", "bf16[64,196,12,64]", "f32[64,12,196,196]"),
            "window={size=64x12 stride=63x11 lhs_dilate=64x12}, dim_labels=0b1f_0o1i->01bf",
            2 * 64 * 12 * 196 * 196 * 64,
        ),
        (
            *("bf16[64,768]", "bf16[768,512]", "bf16[64,512]"),
            "dim_labels=bf_io->bf",
            2 * 64 * 768 * 512,
        ),
    ],
)
def test_tpu_convolutions_that_are_products(left, right, out, attributes, expected):
    if expected is None:  # [64, 196, 768, 1] has no second spatial size: add it
        left, expected = "bf16[64,196,768,1]", 2 * 64 * 196 * 768 * 12 * 64
        right = "bf16[768,12,64,1]"
    operation = f"convolution(%a, %b), {attributes}"
    text = ENTRY.format(left=left, right=right, out=out, operation=operation)
    assert flops(text) == expected


def test_cublas_calls():
    config = (
        '{"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}'
    )
    call = f'custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config={config}'
    text = ENTRY.format(
        left="f32[8,32]", right="f32[32,5]", out="(f32[8,5], s8[99])", operation=call
    )
    assert flops(text) == 2 * 8 * 32 * 5


def test_cudnn_attention():
    """Two products forward; five backward."""
    config = '{"cudnn_fmha_backend_config":{"intermediate_tensor_shape":{"dimensions":%s}}}'
    config = config % '["4","12","196","100"]'
    target = 'custom_call_target="__cudnn$fmhaSoftmax%s"'
    shapes = {"left": "bf16[4,196,12,64]", "right": "bf16[4,100,12,64]", "out": "bf16[4,12,196,64]"}
    for suffix, products in (("", 2), ("Backward", 5)):
        call = f"custom-call(%a, %b), {target % suffix}, backend_config={config}"
        expected = products * 2 * 4 * 12 * 196 * 100 * 64
        assert flops(ENTRY.format(operation=call, **shapes)) == expected


KERNEL = """\
ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8] parameter(0)
  %tiled.1.clone = f32[8]{0:T(8)} custom-call(%a), custom_call_target="tpu_custom_call", \
frontend_attributes={kernel_metadata={
"block":"{\\"rows\\": 256}"
}}, metadata={op_name="jit(f)/tiled"}
  ROOT %tiled.2 = f32[8]{0} custom-call(%tiled.1.clone), custom_call_target="tpu_custom_call"
}
"""


def test_pallas_kernels():
    """The metadata of a kernel contain line breaks."""
    module = parse(KERNEL)
    assert module.entry.instructions["tiled.1.clone"].op_name == "jit(f)/tiled"
    assert unknown_kernels(module) == ["tiled"]
    assert program_flops(module, executions(module)) == 0
    known = dataclasses.replace(module, kernels={("tiled", ((8,),)): 123, ("tiled", ((9,),)): 5})
    assert unknown_kernels(known) == []
    assert program_flops(known, executions(known)) == 2 * 123


def test_gradient_of_attention():
    """Each product of the forward pass (3 projections, q k, p v) has two in the backward pass."""
    batch, length, heads, dim = 2, 16, 4, 8
    width = heads * dim

    def loss(w, x):
        q, k, v = (jnp.einsum("btd,dhe->bthe", x, w[i]) for i in range(3))
        p = jax.nn.softmax(jnp.einsum("bqhe,bkhe->bhqk", q, k))
        return jnp.square(jnp.einsum("bhqk,bkhe->bqhe", p, v)).sum()

    shapes = (3, width, heads, dim), (batch, length, width)
    projections = 3 * 2 * batch * length * width * width
    attention = 2 * 2 * batch * length * length * width
    both = compiled(jax.grad(loss, argnums=(0, 1)), *shapes)
    assert flops(both) == 3 * projections + 3 * attention
    assert flops(compiled(loss, *shapes)) == projections + attention
