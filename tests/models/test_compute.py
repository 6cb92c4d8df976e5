from __future__ import annotations

import jax.numpy as jnp
import pytest

from vljax.models.compute import Compute, Precision


@pytest.mark.parametrize(
    ("platform", "dtype"), [("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")]
)
def test_auto_follows_the_platform_that_is_targeted(platform: str, dtype: str) -> None:
    assert Precision().resolve(platform) == Precision(compute=dtype)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_chosen_precision_stays(platform: str, dtype: str) -> None:
    compute = Compute.of(Precision(compute=dtype), platform, lambda x, axes: x)
    assert compute.dtype == jnp.dtype(dtype)
    assert compute.param_dtype == jnp.float32
