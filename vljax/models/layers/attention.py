"""Multi-head attention, and its keys and values between the steps of decoding."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from vljax.config import UserError
from vljax.models.compute import Call, Compute
from vljax.models.kernels.attention.reference import Mask, attention_weights
from vljax.models.layers.basic import NORMS, Linear

ContextMask = Bool[Array, "#contexts #queries keys"] | Bool[Array, "#contexts keys"] | None


class KeyValue(NamedTuple):
    """Projected keys and values of tokens, and room for more."""

    key: Float[Array, "batch capacity heads head_dim"]
    value: Float[Array, "batch capacity heads head_dim"]
    length: Int[Array, "batch"]
    """Number of filled entries of each row; they come first."""


class Attention(nn.Module):
    """Multi-head attention of `x` to itself or to a context (Vaswani et al. 2017, section 3.2.2).

    `compute.kernels.attention` mixes the values; see
    `kernels.attention.reference.reference_attention` for its formula.

    >>> attention = Attention(16, 2, Compute(), causal=True)
    >>> variables = attention.init(jax.random.key(0), jnp.ones((1, 3, 16)))
    >>> attention.apply(variables, jnp.ones((1, 5, 16))).shape
    (1, 5, 16)
    """

    width: int
    """Size of a token of `x` and of the result."""
    heads: int
    compute: Compute
    causal: bool = False
    """Whether a token attends only to itself and earlier ones."""
    use_bias: bool = True
    """Whether the four linear maps have biases."""
    query_key_norm: Literal["none", "layer", "rms"] = "none"
    """A norm of each head's queries and keys (Henry et al. 2020), with learned parameters."""
    epsilon: float = 1e-6
    """Added to the variance in norms of queries and keys."""

    def setup(self) -> None:
        inward = (self.heads, self.width // self.heads), ("embed", "heads", "head_dim")
        rest: dict[str, Any] = {"compute": self.compute, "use_bias": self.use_bias}
        self.query = Linear(*inward, **rest)
        self.key = Linear(*inward, **rest)
        self.value = Linear(*inward, **rest)
        self.output = Linear((self.width,), ("heads", "head_dim", "embed"), inputs=2, **rest)
        if self.query_key_norm != "none":
            norm = NORMS[self.query_key_norm]
            self.query_norm = norm(self.compute, self.epsilon, "head_dim")
            self.key_norm = norm(self.compute, self.epsilon, "head_dim")

    @overload
    def __call__(
        self,
        x: Array,
        context: Array | KeyValue | None = None,
        mask: Mask = None,
        cache: None = None,
        call: Call = Call(),
    ) -> Array: ...

    @overload
    def __call__(
        self,
        x: Array,
        context: None = None,
        mask: Mask = None,
        *,
        cache: KeyValue,
        call: Call = Call(),
    ) -> tuple[Array, KeyValue]: ...

    def __call__(
        self,
        x: Float[Array, "batch queries embed"],
        context: Float[Array, "contexts keys context_embed"] | KeyValue | None = None,
        mask: ContextMask = None,
        cache: KeyValue | None = None,
        call: Call = Call(),
    ) -> Float[Array, "batch queries embed"] | tuple[Array, KeyValue]:
        """The tokens of `x` with what they attend to.

        Args:
          x: tokens that attend.
          context: tokens that they attend to, or what `project` made of these; None for `x`. It
            may have fewer rows than `x`: then each is for as many consecutive rows of `x`.
          mask: the keys that may be attended to. With a cache: which tokens of `x` are not padding,
            shape (batch, queries); padding comes last.
          cache: keys and values of earlier tokens. Those of `x` are written behind them, and `x`
            attends to all of them, in causal order if `causal`. There must be room for all tokens
            of `x`, padding too: if there is not, earlier ones are overwritten.
          call: how the pass is made.

        Returns:
          The result; with a cache, the result and the new cache.

        Raises:
          ValueError: if a cache meets a context, or a mask with a row for each query.
          UserError: if the rows of `x` are not a multiple of those of the context.
        """
        query = self._projected(self.query, x, "query")
        if self.query_key_norm != "none":
            query = self.query_norm(query)
        causal = self.causal
        if cache is not None:
            if context is not None or (mask is not None and mask.ndim == 3):
                raise ValueError("a cache takes neither a context nor a mask by queries and keys")
            cache = _appended(cache, self.project(x), mask)
            mask, causal = _visible(cache, x.shape[1], mask, causal), False
            key, value = cache.key, cache.value
        elif isinstance(context, KeyValue):
            key, value = context.key, context.value
        else:
            key, value = self._key_value(x if context is None else context)
        key, value = (y.astype(query.dtype) for y in (key, value))
        # Rows of `x` with the same context are one row of queries, which do not see each other.
        rows, shared = x.shape[0], x.shape[0] // key.shape[0]
        if rows % key.shape[0]:
            raise UserError(
                f"the rows that attend ({rows}) are not a multiple of those of their context "
                f"({key.shape[0]}); let the stream with more rows attend, such as several texts of "
                "each image"
            )
        if shared > 1 and mask is not None and mask.ndim == 3 and mask.shape[1] > 1:
            raise ValueError("a mask by queries and keys needs as many rows of the context as of x")
        if shared > 1:
            query = query.reshape(key.shape[0], -1, *query.shape[2:])
        if call.attention:
            weights = attention_weights(query, key, mask, causal)
            weights = rearrange(weights, "b h (r q) k -> (b r) h q k", r=shared)
            self.sow("intermediates", "attention", weights)
        mixed = self.compute.kernels.attention(query, key, value, mask, causal)
        if shared > 1:
            mixed = mixed.reshape(rows, -1, *mixed.shape[2:])
        y = self.output(checkpoint_name(mixed, "attention_mixed"))
        return y if cache is None else (y, cache)

    def project(self, context: Float[Array, "batch keys context_embed"]) -> KeyValue:
        """Keys and values of a context, for many calls that attend to it."""
        length = jnp.full(context.shape[:1], context.shape[1], jnp.int32)
        return KeyValue(*self._key_value(context), length)

    def _key_value(self, context: Array) -> tuple[Array, Array]:
        key = self._projected(self.key, context, "key")
        if self.query_key_norm != "none":
            key = self.key_norm(key)
        return key, self._projected(self.value, context, "value")

    def _projected(self, linear: Linear, tokens: Array, name: str) -> Array:
        y = self.compute.constrain(linear(tokens), ("batch", "length", "heads", "head_dim"))
        return checkpoint_name(y, f"attention_{name}")


def _appended(cache: KeyValue, new: KeyValue, mask: Bool[Array, "batch new"] | None) -> KeyValue:
    """The cache with the new keys and values behind the filled entries of each row.

    Padding is written too, but not counted: the next call writes over it.
    """

    @jax.vmap
    def write(row: Array, tokens: Array, start: Array) -> Array:
        return jax.lax.dynamic_update_slice(row, tokens.astype(row.dtype), (start, 0, 0))

    count = new.length if mask is None else jnp.sum(mask, 1)
    return KeyValue(
        write(cache.key, new.key, cache.length),
        write(cache.value, new.value, cache.length),
        cache.length + count.astype(cache.length.dtype),
    )


def _visible(
    filled: KeyValue, queries: int, mask: Bool[Array, "batch queries"] | None, causal: bool
) -> Bool[Array, "batch #queries capacity"]:
    """The entries that queries may attend to, which are the last ones of `filled`."""
    end = filled.length[:, None]
    if causal:
        count = queries if mask is None else jnp.sum(mask, 1, keepdims=True)
        end = end - count + jnp.arange(1, queries + 1)
    return jnp.arange(filled.key.shape[1]) < end[:, :, None]
