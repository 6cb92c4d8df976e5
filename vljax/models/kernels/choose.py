"""The one place where operations get their implementation for a platform.

platform   attention                        layer norm        linear maps       depthwise
cpu        attention.reference              sums              2-D matmul (one   sum of shifted
                                                              device)           images
gpu        attention.cudnn                  sums              tensordot         XLA
tpu        attention.tpu: dense up to       products with     tensordot         XLA
           1,023 keys, then splash          ones (bfloat16)

Every attention obeys the masks and the causal order of `attention.reference`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float

from vljax.config import UserError
from vljax.models.kernels import depthwise, layer_norm, linear
from vljax.models.kernels.attention import cudnn, reference, tpu
from vljax.models.kernels.attention.reference import Mask
from vljax.models.kernels.attention.tpu import OnEachDevice, on_one_device

AttentionKind = Literal["auto", "xla", "cpu", "cudnn", "splash"]


@runtime_checkable
class Attention(Protocol):
    """Computes `attention.reference.reference_attention`."""

    def __call__(
        self,
        query: Float[Array, "batch queries heads head_dim"],
        key: Float[Array, "batch keys heads head_dim"],
        value: Float[Array, "batch keys heads head_dim"],
        mask: Mask = None,
        causal: bool = False,
    ) -> Float[Array, "batch queries heads head_dim"]: ...


@runtime_checkable
class LayerNormKernel(Protocol):
    """Computes `layer_norm.normalise`."""

    def __call__(
        self, x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
    ) -> jax.Array: ...


@runtime_checkable
class DepthwiseConvolution(Protocol):
    """Computes `depthwise.grouped_convolution`."""

    def __call__(self, x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array: ...


@dataclass(frozen=True)
class Kernels:
    """How each operation is computed; the defaults work on every platform."""

    attention: Attention = reference.reference_attention
    layer_norm: LayerNormKernel = layer_norm.normalise
    linear: linear.LinearKernel = linear.tensordot
    depthwise_convolution: DepthwiseConvolution = depthwise.grouped_convolution


def choose(
    platform: str,
    devices: int = 1,
    attention: AttentionKind = "auto",
    on_each_device: OnEachDevice = on_one_device,
) -> Kernels:
    """The implementations that are fastest on a platform.

    Args:
      platform: what the mesh targets: "cpu", "gpu" or "tpu".
      devices: number of devices of the mesh.
      attention: as the recipe says.
      on_each_device: runs a kernel that the compiler cannot split on each device's part.

    Raises:
      UserError: if the platform does not have the attention that the recipe asks for.

    >>> choose("cpu").attention.__name__
    'cpu_attention'
    >>> choose("cpu", attention="xla").attention.__name__
    'reference_attention'
    """
    return Kernels(
        _attention(attention, platform, on_each_device),
        # A TPU sums over lanes slowly, and its matrix unit is free while the vector unit works.
        layer_norm.normalise_by_matmul if platform == "tpu" else layer_norm.normalise,
        # On several devices XLA would have to split the merged axes, and would gather them.
        linear.matmul_2d if platform == "cpu" and devices == 1 else linear.tensordot,
        depthwise.shifted_sum if platform == "cpu" else depthwise.grouped_convolution,
    )


def _attention(kind: AttentionKind, platform: str, on_each_device: OnEachDevice) -> Attention:
    needed = {"cudnn": "gpu", "splash": "tpu"}.get(kind, platform)
    if needed != platform:
        raise UserError(
            f"attention: {kind} needs a {needed}, and the mesh is of {platform}; use auto"
        )
    if kind == "cpu" or (kind == "auto" and platform == "cpu"):
        return reference.cpu_attention
    if kind == "cudnn" or (kind == "auto" and platform == "gpu"):
        return cudnn.gpu_attention
    if kind == "splash":
        return functools.partial(tpu.splash_attention, on_each_device=on_each_device)
    if kind == "auto":
        return functools.partial(tpu.tpu_attention, on_each_device=on_each_device)
    return reference.reference_attention
