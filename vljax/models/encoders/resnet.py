"""ResNet (He et al. 2016): version 1.5, and version 2 with pre-activation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, UInt8

from vljax.models.compute import Call, Compute
from vljax.models.encoders.cnn import grid_problems, of_grid
from vljax.models.layers.basic import BatchNorm, GroupNorm, epsilon_problems
from vljax.models.layers.convolution import Convolution, max_pool
from vljax.models.layers.inputs import normalised, pixel_problems
from vljax.models.node import Encoded, Encoder

_EXPANSION = {"bottleneck": 4, "basic": 1}
"""Channels of a block's output for each channel of its 3 x 3 convolutions."""


@dataclass(frozen=True, kw_only=True)
class ResNet(Encoder, name="resnet"):
    """A residual convolutional network with a grid of tokens, pooled by the mean.

    Version 1.5 is He et al. 2016 (Deep residual learning, table 1) with the stride of a bottleneck
    in its 3 x 3 convolution, as PyTorch and transformers have it. Version 2 has norm and ReLU
    before each convolution (He et al. 2016, Identity mappings, fig. 4e) and a norm at the end. With
    `group` norms and standardized weights it is BiT (Kolesnikov et al. 2020). `presets.resnet` has
    the sizes of the papers.

    >>> tower = ResNet(image_size=224, repeats=(3, 4, 6, 3), grid=(7, 7))
    >>> tower.width, tower.side
    (2048, 7)
    """

    image_size: int = 224
    """Height and width of images, in pixels."""
    repeats: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks of each stage. A stage after the first halves the sides and doubles the channels."""
    block: Literal["bottleneck", "basic"] = "bottleneck"
    """bottleneck: convolutions of 1 x 1, 3 x 3 and 1 x 1, the last to 4 times the channels; basic:
    two of 3 x 3."""
    version: Literal["v1.5", "v2"] = "v1.5"
    """v1.5: a norm after each convolution; v2: before each convolution (pre-activation)."""
    stem_width: int = 64
    """Channels of the first convolution, and of the 3 x 3 convolutions of the first stage."""
    norm: Literal["batch", "group"] = "batch"
    """batch: by the statistics of the whole batch (Ioffe & Szegedy 2015), for large batches; group:
    of each image alone (Wu & He 2018), for batches of any size."""
    groups: int = 32
    """Groups of channels of a group norm; they divide `stem_width`."""
    standardized_weights: bool = False
    """Whether each output channel's weights are used with a mean of 0 and a variance of 1 (Qiao et
    al. 2019), as in BiT."""
    grid: tuple[int, int] | None = None
    """Rows and columns of tokens, means over the cells of such a grid (`adaptive_mean`); None for a
    token of each cell of the last features."""
    stored_statistics: bool = False
    """Whether training normalises by the stored statistics of batch norms too, and does not change
    them; for a frozen tower."""
    norm_epsilon: float = 1e-5
    """Added to the variance in norms."""
    norm_momentum: float = 0.9
    """Weight of the old value in an update of the moving statistics of batch norms."""
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of pixels in [0, 1] by channel; subtracted on the device."""
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of pixels by channel; they are divided by it."""

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in ("image_size", "stem_width", "groups"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, not {getattr(self, name)}"
                return
        if not self.repeats or min(self.repeats) < 1:
            yield "repeats", f"must have at least 1 block in each stage, not {list(self.repeats)}"
        if self.norm == "group" and self.stem_width % self.groups:
            sizes = f"{self.groups} groups do not divide a stem_width of {self.stem_width}"
            yield "groups", f"{sizes}; {math.gcd(self.groups, self.stem_width)} would"
        if self.norm == "group" and self.stored_statistics:
            yield "stored_statistics", "group norms store no statistics; set norm to batch"
        yield from grid_problems(self.grid)
        if not 0 <= self.norm_momentum < 1:
            yield "norm_momentum", f"must be in [0, 1), not {self.norm_momentum}"
        yield from epsilon_problems(self.norm_epsilon)
        yield from pixel_problems(self.pixel_std)

    @property
    def width(self) -> int:
        """Size of a token and of the pooled vector."""
        return self.stem_width * 2 ** (len(self.repeats) - 1) * _EXPANSION[self.block]

    @property
    def side(self) -> int:
        """Rows and columns of the last features."""
        return -(-self.image_size // 2 ** (len(self.repeats) + 1))

    @property
    def updates_state(self) -> bool:
        return self.norm == "batch" and not self.stored_statistics

    def module(self, compute: Compute, name: str) -> nn.Module:
        return ResNetModule(self, compute, name=name)

    def preprocessing(self) -> dict[str, list[float]]:
        return {"mean": list(self.pixel_mean), "std": list(self.pixel_std)}

    def roles(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        shape = (batch_size, self.image_size, self.image_size, 3)
        return {"inputs": jax.ShapeDtypeStruct(shape, jnp.uint8)}


class ResNetModule(nn.Module):
    """Images to tokens; see `ResNet` for the options."""

    config: ResNet
    compute: Compute

    @nn.compact
    def __call__(
        self,
        image: UInt8[Array, "batch height width 3"] | Float[Array, "batch height width 3"],
        mask: Bool[Array, "batch tokens"] | None = None,
        call: Call = Call(),
    ) -> Encoded:
        """Encodes images: uint8, or floats that are already normalised; `mask` is ignored.

        In training, the statistics of batch norms are of the whole batch over all devices. Examples
        that could not be read are in them as black images.
        """
        config, compute = self.config, self.compute
        update = call.train and not config.stored_statistics
        x = normalised(image, config.pixel_mean, config.pixel_std, compute)
        x = _convolution(config, compute, config.stem_width, 7, 2, "stem")(x)
        if config.version == "v1.5":
            x = jax.nn.relu(_norm(config, compute, "stem_norm", x, update=update))
        x = max_pool(x)
        for stage, repeats in enumerate(config.repeats):
            for i in range(repeats):
                stride = 2 if i == 0 and stage > 0 else 1
                name = f"stage{stage}_{i}"
                block = Block(config, config.stem_width * 2**stage, stride, compute, name=name)
                x = block(x, update=update)
        if config.version == "v2":
            x = jax.nn.relu(_norm(config, compute, "norm", x, update=update))
        return of_grid(x, config.grid, compute)


class Block(nn.Module):
    """A residual block: the input, projected where its shape changes, plus convolutions."""

    config: ResNet
    channels: int
    """Of the 3 x 3 convolutions."""
    stride: int
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, update: bool
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        config, compute = self.config, self.compute
        width = self.channels * _EXPANSION[config.block]
        sizes = [(self.channels, 3, self.stride), (width, 3, 1)]
        if config.block == "bottleneck":
            sizes = [(self.channels, 1, 1), (self.channels, 3, self.stride), (width, 1, 1)]
        before = config.version == "v2"

        def convolution(y: Array, features: int, size: int, stride: int, name: str) -> Array:
            return _convolution(config, compute, features, size, stride, name)(y)

        def norm(y: Array, name: str) -> Array:
            return _norm(config, compute, f"{name}_norm", y, update=update)

        y = x
        for i, (features, size, stride) in enumerate(sizes):
            name = f"convolution{i}"
            if before:
                y = jax.nn.relu(norm(y, name))
                if i == 0 and (x.shape[-1] != width or self.stride != 1):
                    x = convolution(y, width, 1, self.stride, "shortcut")
                y = convolution(y, features, size, stride, name)
            else:
                y = norm(convolution(y, features, size, stride, name), name)
                y = jax.nn.relu(y) if i + 1 < len(sizes) else y
        if not before and (x.shape[-1] != width or self.stride != 1):
            x = norm(convolution(x, width, 1, self.stride, "shortcut"), "shortcut")
        y = x + y if before else jax.nn.relu(x + y)
        return compute.constrain(y, ("batch", "patch", "patch", "conv_out"))


def _convolution(
    config: ResNet, compute: Compute, features: int, size: int, stride: int, name: str
) -> Convolution:
    return Convolution(
        features,
        size,
        compute,
        stride=stride,
        symmetric=True,
        standardized=config.standardized_weights,
        name=name,
    )


def _norm(config: ResNet, compute: Compute, name: str, x: Array, *, update: bool) -> Array:
    if config.norm == "group":
        return GroupNorm(compute, config.norm_epsilon, config.groups, name=name)(x)
    norm = BatchNorm(compute, config.norm_epsilon, config.norm_momentum, name=name)
    return norm(x, update=update)
