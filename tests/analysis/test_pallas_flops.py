"""FLOPs of Pallas kernels: JAX's tiled attention, compared with the formula."""

import jax
import jax.numpy as jnp
import pytest

from vljax.analysis.jaxpr_flops import kernel_flops
from vljax.models.kernels.attention.tpu import splash

BATCH, LENGTH, HEADS, DIM = 3, 256, 2, 64


@pytest.mark.parametrize("keys", [LENGTH, 3 * LENGTH], ids=["to itself", "to a context"])
def test_tiled_attention(keys):
    """Two products forward; five backward, plus two that both backward kernels recompute."""

    def loss(query, key, value):
        return splash(query, key, value, None).astype(jnp.float32).sum()

    x = jax.ShapeDtypeStruct((BATCH, LENGTH, HEADS, DIM), jnp.bfloat16)
    context = jax.ShapeDtypeStruct((BATCH, keys, HEADS, DIM), jnp.bfloat16)
    traced = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(x, context, context)
    flops = {name: count for (name, _), count in kernel_flops(traced.jaxpr).items()}
    names = {"fwd": 2, "dkv": 4, "dq": 3}
    assert len(flops) == len(names)
    for part, products in names.items():
        (count,) = (count for name, count in flops.items() if part in name)
        assert count == products * 2 * BATCH * HEADS * LENGTH * keys * DIM
