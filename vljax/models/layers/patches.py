"""Pixels of images to patches: normalisation, cutting, and centres of patches."""

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
    """Images normalised by channel: (pixels - mean) / std, with pixels in [0, 1].

    Only uint8 images are normalised; images of other types are returned as they are.

    >>> white = jnp.full((1, 1, 3), 255, jnp.uint8)
    >>> normalised(white, (0.5,) * 3, (0.5,) * 3, Compute()).tolist()
    [[[1.0, 1.0, 1.0]]]
    """
    if image.dtype == jnp.uint8:
        wide = image.astype(compute.reduction_dtype) / 255
        image = (wide - jnp.asarray(mean)) / jnp.asarray(std)
    return image.astype(compute.dtype)


def centres(rows: int, columns: int) -> Float[Array, "cells 2"]:
    """Centres of the cells of a grid as (y, x) in [0, 1], row-major."""
    y, x = jnp.mgrid[:rows, :columns]
    both = jnp.stack([(y + 0.5) / rows, (x + 0.5) / columns], axis=-1)
    return rearrange(both, "r c d -> (r c) d")


def patchify(image: Float[Array, "batch height width channels"], size: int) -> Float[Array, "..."]:
    """Cuts an image into `size` x `size` patches: [batch, rows, columns, size, size, channels].

    Pixels left over at the bottom and right are dropped, as by a convolution without padding.

    >>> patchify(jnp.zeros((1, 32, 50, 3)), 16).shape
    (1, 2, 3, 16, 16, 3)
    """
    rows, columns = image.shape[1] // size, image.shape[2] // size
    image = image[:, : rows * size, : columns * size]
    return rearrange(image, "b (r p) (c q) d -> b r c p q d", p=size, q=size)
