from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vljax.models.layers.inputs import patchify


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("height", "width"), [(8, 12), (11, 14)], ids=["whole", "leftover"])
def test_patchify_and_a_kernel_are_a_convolution(height: int, width: int) -> None:
    image, kernel = normal(2, height, width, 3), normal(4, 4, 3, 7, seed=1)
    patches = patchify(jnp.asarray(image), 4)
    ours = jnp.tensordot(patches, kernel, 3)
    theirs = jax.lax.conv_general_dilated(
        image, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
