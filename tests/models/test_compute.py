from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.config import UserError, validate
from vljax.models.compute import Call, Compute
from vljax.models.numerics import Precision, widened


@pytest.mark.parametrize(
    ("platform", "dtype"), [("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")]
)
def test_auto_follows_the_platform_that_is_targeted(platform: str, dtype: str) -> None:
    assert Precision().resolve(platform) == Precision(compute=dtype)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_chosen_precision_stays(platform: str, dtype: str) -> None:
    assert Precision(compute=dtype).resolve(platform) == Precision(compute=dtype)


def test_float64_has_to_be_on_in_jax() -> None:
    with pytest.raises(UserError, match=r"^compute: float64 is off in JAX; set .* JAX_ENABLE"):
        validate(Precision(compute="float64"))
    with jax.enable_x64(True):
        validate(Precision(compute="float64", params="float64"))


@pytest.mark.parametrize(("dtype", "sums"), [("bfloat16", "float32"), ("float64", "float64")])
def test_sums_are_at_least_float32(dtype: str, sums: str) -> None:
    with jax.enable_x64(True):
        assert Compute(jnp.dtype(dtype)).reduction_dtype == sums
        assert widened(jnp.ones(3, dtype)).dtype == sums


def test_a_call_for_several_rows_in_place_of_each() -> None:
    call = Call(train=True, example_index=jnp.array([5, 0, 7]), key=jax.random.key(0))
    repeated = call.repeated(2)
    assert np.array_equal(repeated.example_index, [10, 11, 0, 1, 14, 15])
    assert (repeated.train, repeated.key) == (call.train, call.key)
    assert Call(train=True).repeated(2) == Call(train=True)


def test_training_is_static_in_a_call() -> None:
    def example_index(call: Call) -> jax.Array:
        assert call.train is True  # a Python value while it is traced
        return call.example_index

    index = jnp.array([3])
    assert jax.jit(example_index)(Call(True, index)) == index
    assert jax.tree.leaves(Call(True, index)) == [index]
