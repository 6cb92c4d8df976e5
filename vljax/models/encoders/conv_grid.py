"""A small convolutional encoder of images, cheap to train on CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Bool, Float, UInt8

from vljax.models.compute import Call, Compute
from vljax.models.layers.basic import ACTIVATIONS, Linear, epsilon_problems, layer_norm
from vljax.models.layers.convolution import Convolution
from vljax.models.layers.inputs import centres, normalised, patchify, pixel_problems
from vljax.models.node import Encoded, Encoder
from vljax.models.parameters import with_axes


@dataclass(frozen=True, kw_only=True)
class ConvGrid(Encoder, name="conv_grid"):
    """Patches, an MLP, a merge of neighbouring patches, and residual convolutions of the grid.

    All convolutions are of the small merged grid without strides, which XLA computes fast on CPU.

    >>> ConvGrid(width=96, image_size=64, patch_size=4, merge=2).grid
    8
    """

    width: int
    """Size of a token."""
    image_size: int
    """Height and width of images, in pixels."""
    patch_size: int = 4
    """Height and width of a patch, in pixels; it divides the image."""
    merge: int = 2
    """How many patches in a row and in a column become one token."""
    depth: int = 3
    """Number of residual convolutions."""
    kernel_size: int = 3
    """Rows and columns of their kernels."""
    norm_epsilon: float = 1e-6
    """Added to the variance in layer norms."""
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean of pixels in [0, 1] by channel; subtracted on the device."""
    pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Standard deviation of pixels by channel; they are divided by it."""

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in ("width", "image_size", "patch_size", "merge", "depth", "kernel_size"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, not {getattr(self, name)}"
                return
        if self.image_size % (self.patch_size * self.merge):
            cell = f"{self.patch_size} x {self.merge} pixels"
            yield "image_size", f"{self.image_size} is not a multiple of a cell of {cell}"
        yield from epsilon_problems(self.norm_epsilon)
        yield from pixel_problems(self.pixel_std)

    @property
    def grid(self) -> int:
        """Tokens along a side."""
        return self.image_size // (self.patch_size * self.merge)

    def module(self, compute: Compute, name: str) -> nn.Module:
        return ConvGridModule(self, compute, name=name)

    def preprocessing(self) -> dict[str, list[float]]:
        return {"mean": list(self.pixel_mean), "std": list(self.pixel_std)}

    def roles(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        shape = (batch_size, self.image_size, self.image_size, 3)
        return {"inputs": jax.ShapeDtypeStruct(shape, jnp.uint8)}


class ConvGridModule(nn.Module):
    """Images to a grid of tokens, row-major; see `ConvGrid` for the options."""

    config: ConvGrid
    compute: Compute

    @nn.compact
    def __call__(
        self,
        image: UInt8[Array, "batch height width 3"] | Float[Array, "batch height width 3"],
        mask: Bool[Array, "batch tokens"] | None = None,
        call: Call = Call(),
    ) -> Encoded:
        """Encodes images: uint8, or floats that are already normalised; `mask` is ignored."""
        config, compute = self.config, self.compute
        gelu = ACTIVATIONS["gelu_tanh"]

        def linear(name: str, axes: tuple[str, str], x: Array) -> Array:
            return Linear((config.width,), axes, compute, name=name)(x)

        def norm(name: str, x: Array) -> Array:
            return layer_norm(compute, config.norm_epsilon, name)(x)

        x = normalised(image, config.pixel_mean, config.pixel_std, compute)
        x = rearrange(patchify(x, config.patch_size), "b r c p q d -> b r c (p q d)")
        x = gelu(linear("patch_embedding", ("conv_in", "mlp"), x))
        x = linear("patch_output", ("mlp", "embed"), x)
        x = rearrange(x, "b (r m) (c n) d -> b r c (m n d)", m=config.merge, n=config.merge)
        x = linear("merge", ("mlp", "embed"), norm("merge_norm", x))
        for i in range(config.depth):
            branch = Convolution(config.width, config.kernel_size, compute, name=f"convolution{i}")(
                gelu(norm(f"norm{i}", x))
            )
            x = x + branch
        rows, columns = x.shape[1:3]
        tokens = norm("norm", rearrange(x, "b r c d -> b (r c) d"))
        init = with_axes(nn.initializers.normal(0.02), "positions", "embed")
        shape = (config.grid**2, config.width)
        positions = self.param("positions", init, shape, compute.param_dtype)
        tokens = tokens + positions.astype(compute.dtype)
        tokens = compute.constrain(tokens, ("batch", "length", "embed"))
        pooled = jnp.mean(tokens, axis=1, dtype=compute.reduction_dtype).astype(compute.dtype)
        seen = jnp.broadcast_to(centres(rows, columns), (*tokens.shape[:2], 2))
        return Encoded(tokens, jnp.ones(tokens.shape[:2], bool), pooled, seen)
