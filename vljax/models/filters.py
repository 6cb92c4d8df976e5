"""Filters of streams: what a stream is changed to before any node reads it."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from vljax.config import Component
from vljax.models.compute import Call, Compute
from vljax.models.layers.basic import Linear
from vljax.models.layers.pooling import mean
from vljax.models.node import Encoded
from vljax.models.numerics import widened


class StreamFilter(Component, abc.ABC):
    """Base class of filters; `ModelConfig.filters` names them by stream.

    They balance modalities in any model: its nodes do not know of them. On the command line,
    `--model.filters.+image modality_dropout` adds one. A stream that is given (`given=`) is taken
    as it is. A new filter implements `module`:

    >>> @dataclass(frozen=True)
    ... class Half(StreamFilter, name="half"):
    ...     def module(self, compute, name):
    ...         return HalfModule(name=name)
    >>> class HalfModule(nn.Module):
    ...     def __call__(self, stream, call):
    ...         return scaled(stream, jnp.full(len(stream.tokens), 0.5))
    >>> stream = Encoded(jnp.ones((1, 2, 3)), jnp.ones((1, 2), bool))
    >>> HalfModule().apply({}, stream, Call()).tokens[0].tolist()
    [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
    >>> del StreamFilter.members["half"]
    """

    learned: ClassVar[bool] = False
    """Whether it has parameters, which are stored under `filter_STREAM`."""

    @abc.abstractmethod
    def module(self, compute: Compute, name: str) -> nn.Module:
        """The Flax module, called as `(stream, call) -> Encoded`; shapes stay the same."""


def filter_name(stream: str) -> str:
    """The name under which the parameters of a stream's filter are stored.

    >>> filter_name("fusion.question")
    'filter_fusion_question'
    """
    return f"filter_{stream.replace('.', '_')}"


def scaled(stream: Encoded, factor: Float[Array, "rows"] | Float[Array, "rows embed"]) -> Encoded:
    """The stream with all features multiplied, by row or by row and feature; the mask stays."""
    by_row = factor if factor.ndim == 2 else factor[:, None]
    pooled = stream.pooled
    return stream._replace(
        tokens=stream.tokens * by_row[:, None].astype(stream.tokens.dtype),
        pooled=None if pooled is None else pooled * by_row.astype(pooled.dtype),
    )


def zeros_of(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of streams with tokens and pooled vectors of zero; masks and positions stay.

    >>> made = {"image/tokens": jnp.ones((1, 2, 3)), "image/mask": jnp.ones((1, 2), bool)}
    >>> found = zeros_of(made)
    >>> float(found["image/tokens"].sum()), int(found["image/mask"].sum())
    (0.0, 2)
    """
    return {
        name: jnp.zeros_like(array) if name.endswith(("/tokens", "/pooled")) else array
        for name, array in outputs.items()
    }


@dataclass(frozen=True)
class ModalityDropout(StreamFilter, name="modality_dropout"):
    """In training, set the whole stream to zero for a random share of the examples.

    As ModDrop (Neverova et al. 2016, section 4.4): a model that cannot rely on one modality learns
    from the others too. The other examples are not scaled up, so that evaluation sees what most of
    training saw. Several texts of an image are drawn one by one. Streams are drawn independently.

    >>> ModalityDropout(0.2).module(Compute(), "filter_image").config.rate
    0.2
    """

    rate: float = 0.1
    """Probability that an example loses the stream, in [0, 1)."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if not 0 <= self.rate < 1:
            yield "rate", f"must be in [0, 1), not {self.rate}"

    def module(self, compute: Compute, name: str) -> nn.Module:
        return ModalityDropoutModule(self, name=name)


class ModalityDropoutModule(nn.Module):
    """A mask for each row, from a key and the example's index in the global batch."""

    config: ModalityDropout

    @nn.compact
    def __call__(self, stream: Encoded, call: Call) -> Encoded:
        if not call.train or self.config.rate == 0:
            return stream
        key, call = self.make_rng("dropout"), call.for_rows(stream.tokens.shape[0])
        index = call.example_index
        if index is None:
            index = jnp.arange(stream.tokens.shape[0])
        keep = 1 - self.config.rate
        kept = jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(key, i), keep))(index)
        return _only(stream, kept)


def _only(stream: Encoded, kept: Bool[Array, "rows"]) -> Encoded:
    """Zeros in the rows that are not kept, whatever they held."""
    pooled = stream.pooled
    return stream._replace(
        tokens=jnp.where(kept[:, None, None], stream.tokens, 0),
        pooled=None if pooled is None else jnp.where(kept[:, None], pooled, 0),
    )


@dataclass(frozen=True)
class Gate(StreamFilter, name="gate"):
    """Multiply each feature of the stream by a learned gate in (0, 1), which the stream decides.

    `x * sigmoid(W v + b + opening)`, where v is the pooled vector, or the mean of the tokens
    (squeeze and excitation, Hu et al. 2018, eq. 3 and 4, with one layer). W and b are stored as
    `filter_STREAM/gate`.

    >>> Gate().module(Compute(), "filter_image").config.opening
    2.0
    """

    opening: float = 2.0
    """Added to the logits of the gates. With 2, training begins with gates of about 0.88."""
    learned: ClassVar[bool] = True

    def module(self, compute: Compute, name: str) -> nn.Module:
        return GateModule(self, compute, name=name)


class GateModule(nn.Module):
    """One linear map, and its logistic function in at least float32."""

    config: Gate
    compute: Compute

    @nn.compact
    def __call__(self, stream: Encoded, call: Call) -> Encoded:
        vector = stream.pooled
        if vector is None:
            vector = mean(stream.tokens, stream.mask)
        linear = Linear((vector.shape[-1],), ("embed", "none"), self.compute, name="gate")
        return scaled(stream, jax.nn.sigmoid(widened(linear(vector)) + self.config.opening))


# --- Gradients ------------------------------------------------------------------------------------


@jax.custom_vjp
def modulated(
    x: Float[Array, "rows ..."], factor: Float[Array, ""], noise: Float[Array, ""], keys: Array
) -> Float[Array, "rows ..."]:
    """The same values, with a cotangent that is scaled and made noisy.

    The cotangent g becomes `factor * g + noise * std(g) * n`, where n is drawn from a normal
    distribution, for each row from its key, and std is over the whole of g.

    >>> def loss(x):
    ...     y = modulated(x, jnp.float32(0.5), jnp.float32(0), jax.random.split(jax.random.key(0)))
    ...     return jnp.sum(y**2)
    >>> x = jnp.array([[1.0], [2.0]])
    >>> float(loss(x)), jax.grad(loss)(x).tolist()
    (5.0, [[1.0], [2.0]])
    """
    return x


def _modulated_forward(
    x: Array, factor: Array, noise: Array, keys: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    return x, (factor, noise, keys)


def _modulated_backward(
    saved: tuple[Array, Array, Array], g: Array
) -> tuple[Array, None, None, None]:
    factor, noise, keys = saved
    wide = widened(g)
    drawn = jax.vmap(lambda key: jax.random.normal(key, g.shape[1:], wide.dtype))(keys)
    noisy = factor * wide + noise * jnp.std(wide) * drawn
    return noisy.astype(g.dtype), None, None, None


modulated.defvjp(_modulated_forward, _modulated_backward)
