"""Depthwise convolutions: one filter for each channel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float


def grouped_convolution(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns 1 channels"],
    stride: int,
) -> Float[Array, "batch new_height new_width channels"]:
    """A depthwise convolution by XLA, with zeros around the image as in TensorFlow ("SAME")."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def shifted_sum(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns 1 channels"],
    stride: int,
) -> Float[Array, "batch new_height new_width channels"]:
    """`grouped_convolution` as a sum of shifted images.

    On CPU, XLA computes a convolution with groups more than ten times slower.
    """
    size = kernel.shape[0]
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
    rows, columns = (-(-side // stride) for side in x.shape[1:3])
    # Padded to whole strides, so that the rearrangement below is possible. This may add a phase
    # more than needed, which is cut off.
    ends = [-(side + sum(pad)) % stride for side, pad in zip(x.shape[1:3], pads, strict=True)]
    widths = [(low, high + end) for (low, high), end in zip(pads, ends, strict=True)]
    x = jnp.pad(x, ((0, 0), *widths, (0, 0)))
    # Pixels with the same position within a stride, side by side: each shift is then a slice.
    phases = rearrange(x, "b (h p) (w q) c -> p q b h w c", p=stride, q=stride)
    total = jnp.zeros((), x.dtype)
    for i in range(size):
        for j in range(size):
            (top, p), (left, q) = divmod(i, stride), divmod(j, stride)
            shifted = phases[p, q, :, top : top + rows, left : left + columns]
            total = total + shifted * kernel[i, j, 0]
    return total
