"""All pairs of images and texts of a batch, by parts of which none is of batch x batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from vljax.models.similarity import Similarity, unit
from vljax.parallel.ring import tour


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


# --- The logits of all pairs, a tile at a time: no device ever holds more of them than one tile ---

LOGITS = 2**21
"""How many logits a device holds at a time, 8 MiB of float32, unless 128 texts make more of them:
large enough for matrix units, small beside the embeddings of the batches that it matters for."""

Tree = Any
Tile = Callable[[Tree, Any, Float[Array, "images texts"]], tuple[Tree, Tree]]


class Layout(NamedTuple):
    """How the computation of all pairs is laid out; it changes results by rounding only."""

    mesh: Mesh | None = None
    """The devices that the batch is split over; without, there is one."""
    chunk: int | None = None
    """Texts in a tile of logits; without, as many as `LOGITS` allows."""

    def texts(self, images: int) -> int:
        """Texts in a tile, given the number of images."""
        return self.chunk or max(128, LOGITS // images // 128 * 128)


ONE_DEVICE = Layout()


def sweep(
    tile: Tile,
    mine: Tree,
    images: Side,
    block: tuple[Side, Tree],
    merge: Callable[[Tree, Tree], Tree],
    layout: Layout,
) -> tuple[Tree, Tree]:
    """Shows the logits of a device's images with all texts, pairs left out, to a function.

    To be called within `ring.on_each_part`.

    Args:
      tile: `(mine, block, logits) -> (mine, theirs)`, for the part of the block that the logits are
        of; those of pairs, and of examples that are not valid, are minus infinity.
      mine: what the images begin with.
      images: the images on this device.
      block: its texts, and what else travels with them from device to device.
      merge: how two results of the same texts with different images become one.
      layout: devices and tiles.

    Returns:
      What all tiles made of `mine`, and the merged `theirs` of this device's texts.
    """
    count = len(images.offset)

    def visit(mine: Tree, block: tuple[Side, Tree], *, own: bool) -> tuple[Tree, Tree]:
        def part(mine: Tree, block: tuple[Side, Tree], start: Int[Array, ""]) -> tuple[Tree, Tree]:
            logits = _logits(images, block[0])
            if own:
                texts = start + jnp.arange(logits.shape[1])
                logits = jnp.where(jnp.arange(count)[:, None] == texts, -jnp.inf, logits)
            return tile(mine, block, logits)

        return _in_chunks(part, mine, block, layout.texts(count))

    return tour(visit, mine, block, merge, layout.mesh)


def slopes_of_sides(
    slope: Float[Array, "images texts"], images: Side, texts: Side
) -> tuple[Side, Side]:
    """The gradients of both sides, given those of the logits."""
    return (
        Side(_product("it,td->id", slope, texts.vector), jnp.sum(slope, axis=1)),
        Side(_product("it,id->td", slope, images.vector), jnp.sum(slope, axis=0)),
    )


def zeros(tree: Tree) -> Tree:
    """Zeros of the shapes of the arrays."""
    return jax.tree.map(jnp.zeros_like, tree)


def plus(a: Tree, b: Tree) -> Tree:
    """The sums of corresponding arrays."""
    return jax.tree.map(jnp.add, a, b)


def _logits(images: Side, texts: Side) -> Float[Array, "images texts"]:
    inner = _product("id,td->it", images.vector, texts.vector)
    return inner + images.offset[:, None] + texts.offset


def _product(axes: str, left: Array, right: Array) -> Array:
    return jnp.einsum(axes, left, right, precision=jax.lax.Precision.HIGHEST)


def _in_chunks(
    visit: Callable[[Tree, Tree, Int[Array, ""]], tuple[Tree, Tree]],
    mine: Tree,
    block: Tree,
    chunk: int,
) -> tuple[Tree, Tree]:
    """Visits the block by parts of at most `chunk` rows; a block that is no larger without loop."""
    rows = len(jax.tree.leaves(block)[0])
    if rows <= chunk:
        return visit(mine, block, jnp.int32(0))
    whole = rows // chunk * chunk
    parts = jax.tree.map(lambda x: x[:whole].reshape(-1, chunk, *x.shape[1:]), block)
    starts = jnp.arange(0, whole, chunk, dtype=jnp.int32)
    mine, theirs = jax.lax.scan(lambda mine, part: visit(mine, *part), mine, (parts, starts))
    theirs = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), theirs)
    if whole < rows:
        rest = jax.tree.map(lambda x: x[whole:], block)
        mine, last = visit(mine, rest, jnp.int32(whole))
        theirs = jax.tree.map(lambda *x: jnp.concatenate(x), theirs, last)
    return mine, theirs
