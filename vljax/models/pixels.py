"""What image encoders do with pixels and places."""

from __future__ import annotations

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, UInt8

from vljax.models.compute import Compute

Channels = tuple[float, float, float]


def normalised(
    image: UInt8[Array, "... 3"] | Float[Array, "... 3"],
    mean: Channels,
    std: Channels,
    compute: Compute,
) -> Float[Array, "... 3"]:
    """uint8 images with `mean` subtracted and divided by `std`, both of pixels in [0, 1]; others as
    they are."""
    if image.dtype == jnp.uint8:
        wide = image.astype(compute.reduction_dtype) / 255
        image = (wide - jnp.asarray(mean)) / jnp.asarray(std)
    return image.astype(compute.dtype)


def centres(rows: int, columns: int) -> Float[Array, "places 2"]:
    """Centres of the cells of a grid as (y, x) in [0, 1], row-major."""
    y, x = jnp.mgrid[:rows, :columns]
    both = jnp.stack([(y + 0.5) / rows, (x + 0.5) / columns], axis=-1)
    return rearrange(both, "r c d -> (r c) d")
