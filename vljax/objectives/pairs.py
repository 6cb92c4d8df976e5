"""All pairs of images and texts of a batch, by parts of which none is of batch x batch size."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vljax.models.heads import unit

Similarity = Literal["cosine", "dot", "euclidean"]


class Side(NamedTuple):
    """What a modality contributes to the logits."""

    vector: Float[Array, "batch dim"]
    offset: Float[Array, "batch"]


class Pairs(NamedTuple):
    """The logits of all pairs: `images.vector . texts.vector + images.offset + texts.offset`.

    An example that is not valid has offsets of minus infinity and vectors of zero; so it is
    nobody's negative, whatever its embeddings were.
    """

    images: Side
    texts: Side
    positive: Float[Array, "batch"]
    """The logit of each image with its own text, computed apart; 0 where not valid."""
    valid: Bool[Array, "batch"]
    rounding: Float[Array, "batch"]
    """How far apart two logits of an image may be although they are equal."""


def pairs(
    image: Float[Array, "batch dim"],
    text: Float[Array, "batch dim"],
    valid: Bool[Array, "batch"],
    similarity: Similarity,
    scale: Float[Array, ""] | float = 1.0,
    bias: Float[Array, ""] | float = 0.0,
) -> Pairs:
    """The pairs whose logits are `scale * similarity + bias`, in float32 or what is wider.

    Args:
      image: embeddings of the images.
      text: embeddings of the texts, in the same order.
      valid: the examples that count.
      similarity: cosine, dot product, or negative squared Euclidean distance, which is the
        similarity of Chou & Alam 2024 (Embedding Geometries of CLIP).
      scale: factor of the similarities.
      bias: what is added to all logits.
    """
    image, text = (
        jnp.where(valid[:, None], x.astype(jnp.promote_types(x.dtype, jnp.float32)), 0)
        for x in (image, text)
    )
    if similarity == "cosine":
        image, text = unit(image), unit(text)
    elif similarity == "euclidean":
        # Distances stay the same; the nearer to the origin, the less of them is lost in squares.
        centre = jnp.sum(image + text, axis=0) / (2 * jnp.maximum(jnp.sum(valid), 1))
        image, text = (x - jax.lax.stop_gradient(centre) for x in (image, text))
        image, text = (jnp.where(valid[:, None], x, 0) for x in (image, text))
    image_offset = text_offset = jnp.zeros_like(image[:, 0])
    vector, positive = scale * image, scale * jnp.sum(image * text, axis=1)
    if similarity == "euclidean":
        # -|x - y|^2 = 2 x.y - |x|^2 - |y|^2; of a pair, the difference itself is the more exact.
        vector, positive = 2 * vector, -scale * jnp.sum(jnp.square(image - text), axis=1)
        image_offset = -scale * jnp.sum(jnp.square(image), axis=1)
        text_offset = -scale * jnp.sum(jnp.square(text), axis=1)
    image_offset += bias
    return Pairs(
        Side(vector, jnp.where(valid, image_offset, -jnp.inf)),
        Side(text, jnp.where(valid, text_offset, -jnp.inf)),
        jnp.where(valid, positive + bias, 0),
        valid,
        jax.lax.stop_gradient(_rounding(vector, text, image_offset, text_offset)),
    )


def _rounding(
    image: Float[Array, "batch dim"],
    text: Float[Array, "batch dim"],
    image_offset: Float[Array, "batch"],
    text_offset: Float[Array, "batch"],
) -> Float[Array, "batch"]:
    """Twice the error that a sum of `dim` products is likely to have, |x| |y| sqrt(dim) eps.

    It grows with the root of `dim` where errors are independent (Higham & Mary 2019).
    """
    eps = jnp.finfo(image.dtype).eps
    largest = jnp.max(jnp.linalg.norm(text, axis=1))
    offsets = jnp.abs(image_offset) + jnp.max(jnp.abs(text_offset))
    products = jnp.linalg.norm(image, axis=1) * largest
    return 2 * eps * image.shape[1] ** 0.5 * (products + offsets)
