"""The logits of all image-text pairs of a batch, and sums over the pairs that do not match.

No device ever holds a batch x batch array. The texts go round the ring of devices
(`ring_scan`), and each device compares its own images with them a tile at a time. The gradients
are written out (`jax.custom_vjp`), because automatic differentiation would store every tile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from vljax.models.numerics import Similarity, unit
from vljax.parallel.per_device import on_batch_shards, ring_scan

Direction = Literal["both", "image_to_text", "text_to_image"]
Vector = Float[Array, "batch"]
Tree = Any


class LogitFactors(NamedTuple):
    """What one modality contributes to the logits of all pairs."""

    vector: Float[Array, "batch dim"]
    offset: Vector


class PairLogits(NamedTuple):
    """The logits of all pairs: `images.vector . texts.vector + images.offset + texts.offset`.

    An example that is not valid has offsets of minus infinity and vectors of zero. So it is never a
    negative, whatever its embeddings were.
    """

    images: LogitFactors
    texts: LogitFactors
    positive: Vector
    """The logit of each image with its own text; 0 where not valid. It is computed apart from the
    negatives, so that a tiny loss keeps its digits in float32."""
    valid: Bool[Array, "batch"]
    rounding: Vector
    """How far rounding may drive two equal logits of an image apart."""


def pair_logits(
    image: Float[Array, "batch dim"],
    text: Float[Array, "batch dim"],
    valid: Bool[Array, "batch"],
    similarity: Similarity,
    scale: Float[Array, ""] | float = 1.0,
    bias: Float[Array, ""] | float = 0.0,
) -> PairLogits:
    """The logits `scale * similarity + bias` of all pairs, in float32 or a wider type.

    >>> import jax.numpy as jnp
    >>> image, text = jnp.array([[3.0, 4.0], [0.0, 2.0]]), jnp.array([[0.0, 1.0], [0.0, 5.0]])
    >>> logits = pair_logits(image, text, jnp.array([True, True]), "cosine", scale=10.0, bias=-1.0)
    >>> [round(float(x), 3) for x in logits.positive]
    [7.0, 9.0]

    Args:
      image: embeddings of the images.
      text: embeddings of the texts, in the same order.
      valid: the examples that count.
      similarity: cosine, dot product, or negative squared Euclidean distance, which is the
        similarity of Chou & Alam 2024 (Embedding Geometries of CLIP).
      scale: factor of the similarities.
      bias: added to all logits.
    """
    image, text = (
        jnp.where(valid[:, None], x.astype(jnp.promote_types(x.dtype, jnp.float32)), 0)
        for x in (image, text)
    )
    if similarity == "cosine":
        image, text = unit(image), unit(text)
    elif similarity == "euclidean":
        # A common shift changes no distance. Near the origin, squares lose fewer digits.
        centre = jnp.sum(image + text, axis=0) / (2 * jnp.maximum(jnp.sum(valid), 1))
        image, text = (x - jax.lax.stop_gradient(centre) for x in (image, text))
        image, text = (jnp.where(valid[:, None], x, 0) for x in (image, text))
    image_offset = text_offset = jnp.zeros_like(image[:, 0])
    vector, positive = scale * image, scale * jnp.sum(image * text, axis=1)
    if similarity == "euclidean":
        # -|x - y|^2 = 2 x.y - |x|^2 - |y|^2. For the matching pair, |x - y| itself is more exact.
        vector, positive = 2 * vector, -scale * jnp.sum(jnp.square(image - text), axis=1)
        image_offset = -scale * jnp.sum(jnp.square(image), axis=1)
        text_offset = -scale * jnp.sum(jnp.square(text), axis=1)
    image_offset += bias
    return PairLogits(
        LogitFactors(vector, jnp.where(valid, image_offset, -jnp.inf)),
        LogitFactors(text, jnp.where(valid, text_offset, -jnp.inf)),
        jnp.where(valid, positive + bias, 0),
        valid,
        jax.lax.stop_gradient(_rounding(vector, text, image_offset, text_offset)),
    )


def _rounding(
    image: Float[Array, "batch dim"],
    text: Float[Array, "batch dim"],
    image_offset: Vector,
    text_offset: Vector,
) -> Vector:
    """Twice the likely error of a sum of `dim` products, |x| |y| sqrt(dim) eps.

    It grows with the root of `dim` where errors are independent (Higham & Mary 2019).
    """
    eps = jnp.finfo(image.dtype).eps
    largest = jnp.max(jnp.linalg.norm(text, axis=1))
    offsets = jnp.abs(image_offset) + jnp.max(jnp.abs(text_offset))
    products = jnp.linalg.norm(image, axis=1) * largest
    return 2 * eps * image.shape[1] ** 0.5 * (products + offsets)


# --- The scan over tiles --------------------------------------------------------------------------

MAX_LOGITS = 2**21
"""Logits that a device holds at a time, 8 MiB of float32; a tile has at least 128 texts, though.
That is large enough for matrix units, and small beside the embeddings of a batch this large."""


class Tiling(NamedTuple):
    """How the logits of all pairs are split; it changes results by rounding only."""

    mesh: Mesh | None = None
    """The devices that the batch is split over; None for one device."""
    texts: int | None = None
    """Texts in a tile; None: as many as `MAX_LOGITS` allows."""

    def texts_of(self, images: int) -> int:
        """The number of texts in a tile of that many images."""
        return self.texts or max(128, MAX_LOGITS // images // 128 * 128)


ONE_DEVICE = Tiling()


def _scan_tiles(
    tile: Callable[[Tree, Any, Float[Array, "images texts"]], tuple[Tree, Tree]],
    carry: Tree,
    images: LogitFactors,
    block: tuple[LogitFactors, Tree],
    merge: Callable[[Tree, Tree], Tree],
    tiling: Tiling,
) -> tuple[Tree, Tree]:
    """Scans the logits of a device's images with the texts of all devices, a tile at a time.

    To be called within `per_device.on_batch_shards`.

    Args:
      tile: `(carry, block, logits) -> (carry, collected)`, where `block` has the rows of this tile.
        The logits of matching pairs and of examples that are not valid are minus infinity.
      carry: what the local images start with.
      images: the local images.
      block: the local texts, and what else travels with them from device to device.
      merge: merges what two tiles collected for the same texts.
      tiling: devices and tile size.

    Returns:
      The last carry of the local images, and what all tiles collected for the local texts.
    """
    count = len(images.offset)

    def visit(
        carry: Tree, block: tuple[LogitFactors, Tree], *, is_local: bool
    ) -> tuple[Tree, Tree]:
        def part(
            carry: Tree, block: tuple[LogitFactors, Tree], start: Int[Array, ""]
        ) -> tuple[Tree, Tree]:
            texts = block[0]
            logits = _product("id,td->it", images.vector, texts.vector)
            logits = logits + images.offset[:, None] + texts.offset
            if is_local:
                numbers = start + jnp.arange(logits.shape[1])
                logits = jnp.where(jnp.arange(count)[:, None] == numbers, -jnp.inf, logits)
            return tile(carry, block, logits)

        return _scan_chunks(part, carry, block, tiling.texts_of(count))

    return ring_scan(visit, carry, block, merge, tiling.mesh)


def _scan_chunks(
    visit: Callable[[Tree, Tree, Int[Array, ""]], tuple[Tree, Tree]],
    carry: Tree,
    block: Tree,
    chunk: int,
) -> tuple[Tree, Tree]:
    """Scans a block by chunks of at most `chunk` rows; without a loop where one chunk suffices."""
    rows = len(jax.tree.leaves(block)[0])
    if rows <= chunk:
        return visit(carry, block, jnp.int32(0))
    whole = rows // chunk * chunk
    chunks = jax.tree.map(lambda x: x[:whole].reshape(-1, chunk, *x.shape[1:]), block)
    starts = jnp.arange(0, whole, chunk, dtype=jnp.int32)
    carry, collected = jax.lax.scan(lambda carry, x: visit(carry, *x), carry, (chunks, starts))
    collected = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), collected)
    if whole < rows:
        rest = jax.tree.map(lambda x: x[whole:], block)
        carry, last = visit(carry, rest, jnp.int32(whole))
        collected = jax.tree.map(lambda *x: jnp.concatenate(x), collected, last)
    return carry, collected


def _factor_cotangents(
    cotangent: Float[Array, "images texts"], images: LogitFactors, texts: LogitFactors
) -> tuple[LogitFactors, LogitFactors]:
    """The cotangents of the factors of a tile, given those of its logits."""
    return (
        LogitFactors(_product("it,td->id", cotangent, texts.vector), jnp.sum(cotangent, axis=1)),
        LogitFactors(_product("it,id->td", cotangent, images.vector), jnp.sum(cotangent, axis=0)),
    )


def _product(axes: str, left: Array, right: Array) -> Array:
    # TPUs and GPUs would round float32 factors to bfloat16 or TF32 otherwise.
    return jnp.einsum(axes, left, right, precision=jax.lax.Precision.HIGHEST)


def _zeros(tree: Tree) -> Tree:
    return jax.tree.map(jnp.zeros_like, tree)


def _plus(a: Tree, b: Tree) -> Tree:
    return jax.tree.map(jnp.add, a, b)


# --- Negatives of the softmax loss ----------------------------------------------------------------
# The backward pass computes the logits again from the embeddings, as attention does in Dao et al.
# 2022 (FlashAttention, section 3.1). Both directions come out of one pass.


class SoftmaxNegatives(NamedTuple):
    """Reductions of the logits of each example with those that it does not match."""

    image: Vector | None
    """Log-sum-exp over the texts; None where the direction does not use it."""
    text: Vector | None
    """Log-sum-exp over the images; None where the direction does not use it."""
    best: Vector
    """The largest logit of each image; no gradient goes through it."""


class _Sum(NamedTuple):
    """A sum of exponentials that cannot overflow: `total * exp(largest)`."""

    largest: Vector
    total: Vector

    def log(self) -> Vector:
        return self.largest + jnp.log(self.total)


def _sum(logits: Float[Array, "images texts"], axis: int) -> _Sum:
    largest = jnp.max(logits, axis=axis)
    powers = jnp.exp(logits - jnp.expand_dims(_finite(largest), axis))
    return _Sum(largest, jnp.sum(powers, axis=axis))


def _add(a: _Sum | None, b: _Sum | None) -> _Sum | None:
    if a is None or b is None:
        return None
    largest = jnp.maximum(a.largest, b.largest)
    shift = _finite(largest)
    total = a.total * jnp.exp(a.largest - shift) + b.total * jnp.exp(b.largest - shift)
    return _Sum(largest, total)


def _finite(x: Array) -> Array:
    # The maximum of no logits is minus infinity, and -inf - (-inf) would be NaN.
    return jnp.where(x == -jnp.inf, 0, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def softmax_negatives(
    images: LogitFactors, texts: LogitFactors, direction: Direction, tiling: Tiling
) -> SoftmaxNegatives:
    """Log-sum-exps of the logits of negatives; minus infinity for an example without negatives."""

    def local(images: LogitFactors, texts: LogitFactors) -> SoftmaxNegatives:
        def tile(
            carry: tuple[Vector, _Sum | None], _: Any, logits: Float[Array, "images texts"]
        ) -> tuple[tuple[Vector, _Sum | None], _Sum | None]:
            best, rows = carry
            best = jnp.maximum(best, jnp.max(logits, axis=1))
            rows = rows and _add(rows, _sum(logits, axis=1))
            return (best, rows), None if direction == "image_to_text" else _sum(logits, axis=0)

        none = jnp.full_like(images.offset, -jnp.inf)
        nothing = None if direction == "text_to_image" else _Sum(none, _zeros(none))
        carry = none, nothing
        (best, rows), columns = _scan_tiles(tile, carry, images, (texts, None), _add, tiling)
        return SoftmaxNegatives(rows and rows.log(), columns and columns.log(), best)

    return on_batch_shards(local, tiling.mesh)(images, texts)


def _softmax_forward(
    images: LogitFactors, texts: LogitFactors, direction: Direction, tiling: Tiling
) -> tuple[SoftmaxNegatives, Any]:
    result = softmax_negatives(images, texts, direction, tiling)
    return result, (images, texts, result.image, result.text)


class _LogSumExps(NamedTuple):
    value: Vector | None
    cotangent: Vector | None


def _softmax_backward(
    direction: Direction, tiling: Tiling, residuals: Any, cotangent: SoftmaxNegatives
) -> tuple[LogitFactors, LogitFactors]:
    def local(
        images: LogitFactors, texts: LogitFactors, rows: _LogSumExps, columns: _LogSumExps
    ) -> tuple[LogitFactors, LogitFactors]:
        def tile(
            carry: LogitFactors, block: Any, logits: Float[Array, "images texts"]
        ) -> tuple[LogitFactors, LogitFactors]:
            texts, columns = block
            of_logits = _softmax_cotangent(logits, rows, columns)
            image, text = _factor_cotangents(of_logits, images, texts)
            return _plus(carry, image), text

        return _scan_tiles(tile, _zeros(images), images, (texts, columns), _plus, tiling)

    images, texts, image, text = residuals
    rows, columns = _LogSumExps(image, cotangent.image), _LogSumExps(text, cotangent.text)
    return on_batch_shards(local, tiling.mesh)(images, texts, rows, columns)


def _softmax_cotangent(
    logits: Float[Array, "images texts"], rows: _LogSumExps, columns: _LogSumExps
) -> Float[Array, "images texts"]:
    """The cotangents of logits: their softmax in each log-sum-exp, times its cotangent."""
    terms = []
    for (value, cotangent), axis in ((rows, 1), (columns, 0)):
        if value is not None and cotangent is not None:
            softmax = jnp.exp(logits - jnp.expand_dims(_finite(value), axis))
            terms.append(softmax * jnp.expand_dims(cotangent, axis))
    return functools.reduce(jnp.add, terms)


softmax_negatives.defvjp(_softmax_forward, _softmax_backward)


# --- Negatives of the sigmoid loss ----------------------------------------------------------------


class SigmoidNegatives(NamedTuple):
    """Reductions of the logits of each image with the texts that it does not match."""

    total: Float[Array, ""]
    """The sum of log(1 + exp(logit)) over all images and texts."""
    best: Vector
    """The largest logit of each image; no gradient goes through it."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def sigmoid_negatives(
    images: LogitFactors, texts: LogitFactors, tiling: Tiling
) -> SigmoidNegatives:
    """The sum of the losses of negatives, -log sigmoid(-logit)."""
    return _sigmoid(images, texts, tiling, gradients=False)[0]


def _sigmoid(
    images: LogitFactors, texts: LogitFactors, tiling: Tiling, *, gradients: bool
) -> tuple[SigmoidNegatives, tuple[LogitFactors | None, LogitFactors | None]]:
    def local(images: LogitFactors, texts: LogitFactors) -> Any:
        def tile(carry: Any, block: Any, logits: Float[Array, "images texts"]) -> tuple[Any, Any]:
            losses, best, gradient = carry
            losses += jnp.sum(jax.nn.softplus(logits), axis=1)
            best = jnp.maximum(best, jnp.max(logits, axis=1))
            if not gradients:
                return (losses, best, None), None
            image, text = _factor_cotangents(jax.nn.sigmoid(logits), images, block[0])
            return (losses, best, _plus(gradient, image)), text

        none = jnp.full_like(images.offset, -jnp.inf)
        carry = _zeros(none), none, _zeros(images) if gradients else None
        return _scan_tiles(tile, carry, images, (texts, None), _plus, tiling)

    (losses, best, image), text = on_batch_shards(local, tiling.mesh)(images, texts)
    return SigmoidNegatives(jnp.sum(losses), best), (image, text)


def _sigmoid_forward(
    images: LogitFactors, texts: LogitFactors, tiling: Tiling
) -> tuple[SigmoidNegatives, tuple[LogitFactors | None, LogitFactors | None]]:
    # The only result with a gradient is a scalar. So the forward pass, which has the logits at
    # hand, computes the gradients as well, and the backward pass only scales them.
    return _sigmoid(images, texts, tiling, gradients=True)


def _sigmoid_backward(
    tiling: Tiling, residuals: tuple[LogitFactors, LogitFactors], cotangent: SigmoidNegatives
) -> tuple[LogitFactors, LogitFactors]:
    return jax.tree.map(lambda x: cotangent.total * x, residuals)


sigmoid_negatives.defvjp(_sigmoid_forward, _sigmoid_backward)
