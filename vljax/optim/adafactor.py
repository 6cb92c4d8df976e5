"""Adafactor, in the variant of big_vision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vljax.optim.optimizer import MomentType, Optimizer, Tree, decay_problems


@dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer, name="adafactor"):
    """Factored mean squares (Shazeer & Stern 2018), with momentum.

    The variant of Zhai et al. 2022 (Scaling Vision Transformers, section 3.4) in big_vision: no
    step size relative to the parameter, and a limit to the decay of mean squares. Steps have the
    size of Adam's, so the same learning rate and weight decay can be used.

    >>> Adafactor(learning_rate=1e-3, weight_decay=1e-4).moment_dtype
    'bfloat16'
    """

    b2_cap: float = 0.999
    """Upper limit of the decay of mean squares, which is 1 - t^-decay_exponent in step t."""
    decay_exponent: float = 0.8
    """Exponent of that decay; 0.8 in the paper."""
    factor_from: int = 32
    """Mean squares are factored where the second-largest dimension of an array is at least this."""
    clip_rms: float | None = None
    """Maximum root mean square of an array's scaled gradient; larger ones are scaled down."""
    momentum: float = 0.9
    """Decay of the mean of scaled gradients; at 0, none is stored."""
    moment_dtype: MomentType = "bfloat16"
    """Type that this mean is stored in; None: the type of the parameters."""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        yield from decay_problems(self, "b2_cap", "momentum")
        if self.decay_exponent <= 0:
            yield "decay_exponent", f"must be positive, not {self.decay_exponent}"
        if self.factor_from < 2:
            yield "factor_from", f"must be at least 2, not {self.factor_from}"
        if self.clip_rms is not None and self.clip_rms <= 0:
            yield "clip_rms", f"must be positive, or None for no clipping, not {self.clip_rms}"

    def direction(self, axes: Tree) -> optax.GradientTransformation:
        scaled = optax.scale_by_factored_rms(
            min_dim_size_to_factor=self.factor_from, decay_rate_fn=self._decay
        )
        if self.clip_rms is not None:
            scaled = optax.chain(scaled, optax.clip_by_block_rms(self.clip_rms))
        if not self.momentum:
            return per_layer(scaled, axes)
        mean = optax.ema(self.momentum, debias=False, accumulator_dtype=self.moment_dtype)
        return optax.chain(per_layer(scaled, axes), mean)

    def _decay(self, step: Any, exponent: Any) -> Float[Array, ""]:
        """The decay of mean squares in step `step` (from 0); optax's `exponent` is not used."""
        return jnp.minimum(self.b2_cap, 1 - (jnp.asarray(step, float) + 1) ** -self.decay_exponent)


def per_layer(
    inner: optax.GradientTransformation, axes: Tree
) -> optax.GradientTransformationExtraArgs:
    """Applies a transformation to each array by itself, and to each layer of a scanned array.

    Otherwise the axis of layers could be taken for a dimension of a matrix. The state mirrors the
    parameters with a state of `inner` for each array.

    Args:
      inner: what to apply.
      axes: mirrors the parameters with tuples of logical axis names.
    """

    def init(params: Any) -> Any:
        if not isinstance(params, Mapping):
            return params  # optax.tree.map_params asks by a placeholder where parameters are
        return jax.tree.map(lambda leaf, names: _layered(inner.init, names)(leaf), params, axes)

    def update(updates: Tree, state: Any, params: Any = None, **extra: Any) -> tuple[Tree, Any]:
        results = jax.tree.map(
            lambda leaf, own, param, names: _layered(inner.update, names)(leaf, own, param),
            *(updates, state, params, axes),
        )
        # `results` has a pair where `updates` has an array.
        moved, states = (
            jax.tree.map(lambda _, pair, i=i: pair[i], updates, results) for i in range(2)
        )
        return moved, states

    return optax.GradientTransformationExtraArgs(init, update)


def _layered(function: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    return jax.vmap(function) if names[:1] == ("layers",) else function
