"""Recurrent encoders of texts: LSTM and GRU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vljax.models.compute import Call, Compute
from vljax.models.encoders.text import TextEncoder, looked_up, texts_as_rows
from vljax.models.layers.basic import Dropout, Linear
from vljax.models.layers.pooling import mean
from vljax.models.node import Encoded
from vljax.models.numerics import widened
from vljax.models.parameters import with_axes

State = tuple[Float[Array, "rows hidden"], ...]
"""The hidden state, and for an LSTM the cell state."""


@dataclass(frozen=True, kw_only=True)
class Recurrent(TextEncoder):
    """The fields of LSTM and GRU.

    Padding does not change the state, wherever it is: the result is that of PyTorch for packed
    sequences. Tokens are the states of the last layer, zero for padding.
    """

    gates: ClassVar[int]
    """Linear maps of a step."""

    width: int
    """Size of a token and of the pooled vector: of the state, or of both directions' states."""
    depth: int = 1
    """Number of layers."""
    bidirectional: bool = False
    """Whether each layer also reads the text backwards. Its states are half as wide."""
    word_width: int | None = None
    """Size of word embeddings; None for `width`."""
    pooling: Literal["last", "mean"] = "last"
    """last: the last state of the last layer, which is at the last token that is not padding, and
    at the first token of the backward direction; mean: the mean of the tokens that are not
    padding."""
    dropout: float = 0.0
    """Probability that a value of the inputs of a layer is dropped in training (Zaremba et al.
    2014)."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        for name in ("width", "depth", "word_width"):
            if (value := getattr(self, name)) is not None and value < 1:
                yield name, f"must be at least 1, not {value}"
        if self.bidirectional and self.width % 2:
            yield "width", f"must be even for two directions, not {self.width}"
        if not 0 <= self.dropout < 1:
            yield "dropout", f"must be in [0, 1), not {self.dropout}"

    def module(self, compute: Compute, name: str) -> nn.Module:
        return RecurrentModule(self, compute, name=name)


@dataclass(frozen=True, kw_only=True)
class LSTM(Recurrent, name="lstm"):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; Gers et al. 2000 for the forget gate).

    The gates are, in this order, i, f, g, o: c' = f c + i g and h' = o tanh(c'), with g = tanh and
    the others logistic functions of linear maps of the input and h. The bias of f begins at 1
    (Jozefowicz et al. 2015).

    >>> LSTM(vocab_size=2048, context_length=20, width=512, word_width=300).roles(8)["mask"].shape
    (8, 20)
    """

    gates = 4


@dataclass(frozen=True, kw_only=True)
class GRU(Recurrent, name="gru"):
    """Gated recurrent units (Cho et al. 2014, eq. 5 to 8) with the biases of PyTorch and cuDNN.

    The gates are, in this order, r, z, n: n = tanh(W x + b + r (U h + d)) and h' = (1 - z) n + z h.
    The bias d is inside the product with r.

    >>> GRU(vocab_size=2048, context_length=20, width=512, bidirectional=True).depth
    1
    """

    gates = 3


class RecurrentModule(nn.Module):
    """Token ids to tokens; see `Recurrent` for the options."""

    config: Recurrent
    compute: Compute

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "batch *texts length"],
        mask: Bool[Array, "batch *texts length"] | None = None,
        call: Call = Call(),
    ) -> Encoded:
        """Encodes at most `context_length` ids in [0, vocab_size); `mask` is False for padding.

        Several texts of an example become rows, as `texts_as_rows` says.

        Raises:
          ValueError: if the sequence is longer than the context.
        """
        config, compute = self.config, self.compute
        ids, mask, call = texts_as_rows(ids, mask, call, config.context_length)
        x = looked_up(self, ids, config.vocab_size, config.word_width or config.width, compute)
        x, last = x.astype(compute.dtype), x
        directions = ("forward", "backward") if config.bidirectional else ("forward",)
        for i in range(config.depth):
            x = Dropout(name=f"dropout{i}")(x, config.dropout, call) if config.dropout else x
            made = [
                Direction(config, name == "backward", compute, name=f"layer{i}_{name}")(x, mask)
                for name in directions
            ]
            x = jnp.concatenate([tokens for tokens, _ in made], axis=-1)
            x = compute.constrain(x, ("batch", "length", "embed"))
            last = jnp.concatenate([state for _, state in made], axis=-1)
        pooled = mean(x, mask) if config.pooling == "mean" else last
        return Encoded(x, mask, compute.constrain(pooled, ("batch", "embed")))


class Direction(nn.Module):
    """One layer in one direction.

    The maps of the inputs of all steps are one product; a scan over the steps does the rest, with
    states in at least float32.
    """

    config: Recurrent
    backward: bool
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "rows length inputs"], mask: Bool[Array, "rows length"]
    ) -> tuple[Float[Array, "rows length hidden"], Float[Array, "rows hidden"]]:
        """The states at each token, zero for padding, and the last state."""
        config, compute, gates = self.config, self.compute, self.config.gates
        lstm = isinstance(config, LSTM)
        hidden = config.width // 2 if config.bidirectional else config.width
        axes = ("embed", "none", "mlp")
        inputs = Linear((gates, hidden), axes, compute, use_bias=False, name="input")(x)

        def orthogonal(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
            make = nn.initializers.orthogonal()
            each = [make(k, (shape[0], shape[2]), dtype) for k in jax.random.split(key, shape[1])]
            return jnp.stack(each, axis=1)

        def first_bias(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
            zeros = jnp.zeros(shape, dtype)
            return zeros.at[1].set(1) if lstm else zeros

        param, dtype = self.param, compute.param_dtype
        shape = (hidden, gates, hidden)
        kernel = param("recurrent_kernel", with_axes(orthogonal, *axes), shape, dtype)
        bias = param("bias", with_axes(first_bias, "none", "mlp"), (gates, hidden), dtype)
        inputs = widened(inputs) + widened(jnp.asarray(bias))
        inputs = compute.constrain(inputs, ("batch", "length", "none", "mlp"))
        # Gathered over fsdp here, once, and not in each step.
        kernel = compute.constrain(jnp.asarray(kernel, compute.dtype), axes)
        candidate_bias: Array | float = 0.0
        if not lstm:
            zeros = with_axes(nn.initializers.zeros_init(), "mlp")
            candidate_bias = widened(jnp.asarray(param("candidate_bias", zeros, (hidden,), dtype)))

        def step(state: State, step_inputs: tuple[Array, Array]) -> tuple[State, Array]:
            of_input, real = step_inputs
            # On each device all of h, and a part of each gate.
            h = compute.constrain(state[0].astype(compute.dtype), ("batch", "embed"))
            of_state = widened(compute.kernels.linear(h, kernel, 1))
            of_state = compute.constrain(of_state, ("batch", "none", "mlp"))
            if lstm:
                new = _lstm(of_input + of_state, state[1])
            else:
                new = (_gru(of_input, of_state, candidate_bias, state[0]),)
            kept = real[:, None]
            state = tuple(
                compute.constrain(jnp.where(kept, n, old), ("batch", "mlp"))
                for n, old in zip(new, state, strict=True)
            )
            return state, state[0].astype(compute.dtype)

        zero = jnp.zeros((x.shape[0], hidden), inputs.dtype)
        start = tuple(compute.constrain(zero, ("batch", "mlp")) for _ in range(2 if lstm else 1))
        by_step = rearrange(inputs, "b l g h -> l b g h"), mask.T
        # Reversed by hand: jax2onnx has no scan with `reverse`.
        if self.backward:
            by_step = by_step[0][::-1], by_step[1][::-1]
        last, states = jax.lax.scan(step, start, by_step)
        states = rearrange(states[::-1] if self.backward else states, "l b h -> b l h")
        return jnp.where(mask[..., None], states, 0), last[0].astype(compute.dtype)


def _lstm(gates: Float[Array, "rows 4 hidden"], cell: Float[Array, "rows hidden"]) -> State:
    """The new hidden and cell states."""
    i, f, o = (jax.nn.sigmoid(gates[:, k]) for k in (0, 1, 3))
    cell = f * cell + i * jnp.tanh(gates[:, 2])
    return o * jnp.tanh(cell), cell


def _gru(
    of_input: Float[Array, "rows 3 hidden"],
    of_state: Float[Array, "rows 3 hidden"],
    candidate_bias: Float[Array, "hidden"] | float,
    hidden: Float[Array, "rows hidden"],
) -> Float[Array, "rows hidden"]:
    """The new hidden state."""
    r, z = (jax.nn.sigmoid(of_input[:, k] + of_state[:, k]) for k in (0, 1))
    n = jnp.tanh(of_input[:, 2] + r * (of_state[:, 2] + candidate_bias))
    return (1 - z) * n + z * hidden
