"""FLOPs of a training step, counted before it is compiled."""

import jax
import jax.numpy as jnp
import pytest

from vljax.analysis.jaxpr_flops import training_flops
from vljax.models.compute import Compute
from vljax.models.layers.attention import Attention

ROWS, WIDTH, LAYERS = 32, 48, 5
PRODUCT = 2 * ROWS * WIDTH * WIDTH
X = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32)
W = jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)
STACK = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32)


def test_the_first_layer_has_no_gradient_to_its_input():
    assert training_flops(lambda w, x: x @ w, W, X) == 2 * PRODUCT
    assert training_flops(lambda w, x: jnp.tanh(x @ w[0]) @ w[1], [W, W], X) == (2 + 3) * PRODUCT


def test_a_frozen_layer_has_forward_flops_only():
    def both(trained, frozen, x):
        return jnp.tanh(x @ frozen) @ trained

    assert training_flops(both, W, W, X) == (1 + 2) * PRODUCT
    # Below what is trained, a frozen layer hands the gradient on.
    assert training_flops(lambda t, f, x: (x @ t) @ f, W, W, X) == (2 + 2) * PRODUCT
    assert training_flops(lambda t, f, x: jax.lax.stop_gradient(x @ t) @ f, W, W, X) == 3 * PRODUCT


@pytest.mark.parametrize("remat", [False, True])
def test_a_scan_has_the_flops_of_unrolled_layers(remat):
    """The carry depends on trained parameters only after the first layer."""

    def block(c, w):
        return jnp.tanh(c @ w), None

    def forward(w, x):
        return jax.lax.scan(jax.checkpoint(block) if remat else block, x, w)[0]

    assert training_flops(forward, STACK, X) == 3 * LAYERS * PRODUCT


def test_a_conditional_has_the_flops_of_its_largest_branch():
    def forward(w, x):
        return jax.lax.cond(x[0, 0] > 0, lambda: (x @ w) @ w, lambda: x)

    assert training_flops(forward, W, X) == (2 + 3) * PRODUCT


def test_patch_convolution():
    kernel = jax.ShapeDtypeStruct((4, 4, 3, 8), jnp.float32)
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)

    def patches(w, x):
        return jax.lax.conv_general_dilated(
            x, w, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert training_flops(patches, kernel, images) == 2 * 2 * (2 * 16 * 8 * 4 * 4 * 3)


def test_flops_equal_those_of_the_compiled_gradient():
    from vljax.analysis.hlo import executions, parse
    from vljax.analysis.hlo_costs import program_flops

    def loss(w, x):
        hidden = jax.lax.scan(lambda c, v: (jnp.tanh(c @ v), None), x @ w[0], w[1:])[0]
        return jnp.square(hidden).sum()

    text = jax.jit(jax.grad(loss)).lower(STACK, X).compile().as_text()
    module = parse(text)
    assert training_flops(loss, STACK, X) == program_flops(module, executions(module))


def test_attention_to_a_context_counts_queries_times_keys():
    """Values and keys of the context have no gradient to the context, which is not trained."""
    batch, queries, keys, width, context_width = 2, 3, 5, 16, 12
    attention = Attention(width, 2, Compute())
    x = jax.ShapeDtypeStruct((batch, queries, width), jnp.float32)
    context = jax.ShapeDtypeStruct((batch, keys, context_width), jnp.float32)
    params = jax.eval_shape(attention.init, jax.random.key(0), x, context)
    pairs = 2 * batch * queries * keys * width
    own, others = 2 * batch * queries * width * width, 2 * batch * keys * context_width * width
    # Forward and two gradients; the inputs of the projections of x and the context need none.
    expected = 3 * 2 * pairs + 2 * own + 3 * own + 2 * 2 * others
    assert training_flops(attention.apply, params, x, context) == expected
