"""How a model is computed, apart from what it computes: precision, kernels, activation sharding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from vljax.config import UserError

Constrain = Callable[[jax.Array, tuple[str, ...]], jax.Array]
AttentionKind = Literal["auto", "xla", "heads_first", "cudnn", "splash"]


class OnEachDevice(Protocol):
    """Runs a function on each device's part of its arguments, and puts the results together."""

    def __call__(
        self,
        function: Callable[..., jax.Array],
        arguments: Sequence[jax.Array | None],
        axes: Sequence[tuple[str, ...]],
        out: tuple[str, ...],
    ) -> jax.Array:
        """`axes` and `out` name the logical axes of the arguments and of the result."""


def _on_one_device(function: Any, arguments: Any, axes: Any, out: Any) -> jax.Array:
    result: jax.Array = function(*arguments)
    return result


@dataclass(frozen=True)
class Precision:
    """Number formats of a run; reductions in norms, softmax and losses are at least float32."""

    compute: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """Matrix products and activations; auto: bfloat16 on TPU and GPU, float32 on CPU."""
    params: Literal["float32", "float64"] = "float32"
    """Parameters and optimizer state; float64 (JAX_ENABLE_X64=1) is for comparisons."""

    def problems(self) -> Any:
        if "float64" in (self.compute, self.params) and not jax.config.read("jax_enable_x64"):
            field = "compute" if self.compute == "float64" else "params"
            yield field, "float64 is off in JAX; set the environment variable JAX_ENABLE_X64=1"

    def resolve(self, platform: str) -> Precision:
        """The policy for the platform that the mesh targets ("cpu", "gpu", "tpu"), without auto."""
        if self.compute != "auto":
            return self
        return Precision("float32" if platform == "cpu" else "bfloat16", self.params)


def resolve_attention(kind: AttentionKind, platform: str) -> AttentionKind:
    """The attention implementation for a platform, without auto on CPU and GPU.

    On TPU, auto is left to each layer, which knows its length (`attention.attend`).

    Args:
      kind: as the recipe says.
      platform: what the mesh targets: "cpu", "gpu" or "tpu".

    Raises:
      UserError: if the platform does not have what the recipe asks for.
    """
    wanted = {"cudnn": "gpu", "splash": "tpu"}.get(kind, platform)
    if wanted != platform:
        raise UserError(
            f"attention: {kind} needs a {wanted}, and the mesh is of {platform}; use auto"
        )
    if kind == "auto" and platform != "tpu":
        return "cudnn" if platform == "gpu" else "heads_first"
    return kind


@dataclass(frozen=True)
class Compute:
    """What every module is told about its computation."""

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    constrain: Constrain = lambda x, axes: x
    """Places an activation by the logical names of its axes; the identity off a mesh."""
    on_each_device: OnEachDevice = _on_one_device
    """For kernels that the compiler cannot split over devices."""
    attention: AttentionKind = "xla"
    sums_by_matmul: bool = False
    """Whether bfloat16 features are summed by a product with ones: cheaper on TPU."""
    products_by_rows: bool = False
    """Whether a linear map is a product of two matrices, gradients too: cheaper on CPU."""
    depthwise_by_shifts: bool = False
    """Whether a depthwise convolution is a sum of shifted images: cheaper on CPU."""

    @property
    def reduction_dtype(self) -> Any:
        """The format of sums and of what leaves the towers."""
        return jnp.promote_types(self.dtype, jnp.float32)


def widened(x: jax.Array) -> jax.Array:
    """The array in at least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
