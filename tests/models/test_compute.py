from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from vljax.config import UserError, validate
from vljax.models.compute import Compute
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
