"""EfficientNet-Lite (Liu 2020): EfficientNet (Tan & Le 2019) without squeeze-and-excitation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, UInt8

from vljax.models.compute import Call, Compute
from vljax.models.layers.basic import BatchNorm, epsilon_problems
from vljax.models.layers.convolution import Convolution
from vljax.models.layers.inputs import centres, normalised, pixel_problems
from vljax.models.layers.pooling import adaptive_mean
from vljax.models.node import Encoded, Encoder


class Stage(NamedTuple):
    """Blocks of one width."""

    repeats: int
    kernel: int
    stride: int
    """Stride of the first block; the others have 1."""
    expansion: int
    width: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
"""EfficientNet-B0 (Tan & Le 2019, table 1)."""
STEM, HEAD = 32, 1280
"""Widths of the first and the last convolution, which Lite does not scale."""


@dataclass(frozen=True, kw_only=True)
class EfficientNetLite(Encoder, name="efficientnet_lite"):
    """EfficientNet-Lite: mobile inverted bottlenecks with ReLU6, pooled by the mean.

    >>> EfficientNetLite(image_size=240, depth_factor=1.1).width
    1280
    """

    image_size: int = 224
    """Height and width of the images, in pixels; 224 to 300 for Lite0 to Lite4."""
    width_factor: float = 1.0
    """Factor of the widths of blocks: 1, 1, 1.1, 1.2, 1.4 for Lite0 to Lite4."""
    depth_factor: float = 1.0
    """Factor of the number of blocks: 1, 1.1, 1.2, 1.4, 1.8 for Lite0 to Lite4."""
    grid: tuple[int, int] | None = None
    """Rows and columns of tokens, means over the cells of such a grid (`adaptive_mean`); None for a
    token of each cell of the last features."""
    stored_statistics: bool = False
    """Whether training normalises by the stored statistics too, and does not change them; for a
    frozen tower."""
    norm_epsilon: float = 1e-3
    """Added to the variance in batch norms."""
    norm_momentum: float = 0.99
    """Weight of the old value in an update of the moving statistics."""
    pixel_mean: tuple[float, float, float] = (127 / 255,) * 3
    """Mean of pixels in [0, 1] by channel; subtracted on the device."""
    pixel_std: tuple[float, float, float] = (128 / 255,) * 3
    """Standard deviation of pixels by channel; they are divided by it."""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.image_size < 1:
            yield "image_size", f"must be at least 1, not {self.image_size}"
        for name in ("width_factor", "depth_factor"):
            if getattr(self, name) <= 0:
                yield name, f"must be above 0, not {getattr(self, name)}"
        yield from grid_problems(self.grid)
        if not 0 <= self.norm_momentum < 1:
            yield "norm_momentum", f"must be in [0, 1), not {self.norm_momentum}"
        yield from epsilon_problems(self.norm_epsilon)
        yield from pixel_problems(self.pixel_std)

    @property
    def width(self) -> int:
        """Size of a token and of the pooled vector."""
        return HEAD

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages at this width and depth; the repeats of the first and the last stay."""
        last = len(STAGES) - 1
        return tuple(
            stage._replace(
                width=rounded(stage.width * self.width_factor),
                repeats=stage.repeats
                if i in (0, last)
                else math.ceil(stage.repeats * self.depth_factor),
            )
            for i, stage in enumerate(STAGES)
        )

    @property
    def updates_state(self) -> bool:
        return not self.stored_statistics

    def module(self, compute: Compute, name: str) -> nn.Module:
        return EfficientNetLiteModule(self, compute, name=name)

    def preprocessing(self) -> dict[str, list[float]]:
        return {"mean": list(self.pixel_mean), "std": list(self.pixel_std)}

    def roles(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        shape = (batch_size, self.image_size, self.image_size, 3)
        return {"inputs": jax.ShapeDtypeStruct(shape, jnp.uint8)}


def rounded(width: float) -> int:
    """The nearest multiple of 8, not smaller by more than a tenth (code of Tan & Le 2019).

    >>> rounded(35.2)
    32
    """
    near = max(8, int(width + 4) // 8 * 8)
    return near + 8 if near < 0.9 * width else near


class EfficientNetLiteModule(nn.Module):
    """Images to tokens; see `EfficientNetLite` for the options."""

    config: EfficientNetLite
    compute: Compute

    @nn.compact
    def __call__(
        self,
        image: UInt8[Array, "batch height width 3"] | Float[Array, "batch height width 3"],
        mask: Bool[Array, "batch patches"] | None = None,
        call: Call = Call(),
    ) -> Encoded:
        """Encodes images: uint8, or floats that are already normalised; `mask` is ignored.

        In training, statistics are of the whole batch over all devices. Examples that could not be
        read are in them as black images.
        """
        config, compute = self.config, self.compute
        update = call.train and not config.stored_statistics
        x = normalised(image, config.pixel_mean, config.pixel_std, compute)
        x = Convolution(STEM, 3, compute, stride=2, name="stem")(x)
        x = _relu6(_norm(config, compute, "stem_norm")(x, update=update))
        for i, stage in enumerate(config.stages):
            x = StageModule(config, stage, compute, name=f"stage{i}")(x, update=update)
        x = Convolution(HEAD, 1, compute, name="head")(x)
        x = _relu6(_norm(config, compute, "head_norm")(x, update=update))
        return of_grid(x, config.grid, compute)


def grid_problems(grid: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    """For `problems` of encoders with a field `grid`."""
    if grid is not None and min(grid) < 1:
        yield "grid", f"must have at least 1 row and 1 column, not {grid[0]} and {grid[1]}"


def of_grid(
    x: Float[Array, "batch height width channels"],
    grid: tuple[int, int] | None,
    compute: Compute,
) -> Encoded:
    """The stream of the last features of a convolutional network.

    Tokens are the features, or their means over the cells of a grid, row-major. The pooled vector
    is the mean of the features.
    """
    pooled = jnp.mean(x, axis=(1, 2), dtype=compute.reduction_dtype).astype(compute.dtype)
    x = x if grid is None else adaptive_mean(x, *grid)
    batch, rows, columns, width = x.shape
    tokens = compute.constrain(
        x.reshape(batch, rows * columns, width), ("batch", "length", "embed")
    )
    positions = jnp.broadcast_to(centres(rows, columns), (batch, rows * columns, 2))
    return Encoded(tokens, jnp.ones(tokens.shape[:2], bool), pooled, positions)


class StageModule(nn.Module):
    """Blocks of one width; parameters under `0`, `1`, ..."""

    config: EfficientNetLite
    stage: Stage
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, update: bool
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        for i in range(self.stage.repeats):
            stride = self.stage.stride if i == 0 else 1
            stage = self.stage._replace(stride=stride)
            x = InvertedBottleneck(self.config, stage, self.compute, name=str(i))(x, update=update)
        return x


class InvertedBottleneck(nn.Module):
    """Expansion, depthwise convolution, projection (Sandler et al. 2018, MobileNetV2)."""

    config: EfficientNetLite
    stage: Stage
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, update: bool
    ) -> Float[Array, "batch new_height new_width new_channels"]:
        stage, compute = self.stage, self.compute
        inputs = x.shape[-1]

        def norm(y: Array, name: str) -> Array:
            return _norm(self.config, compute, f"{name}_norm")(y, update=update)

        y = x
        if stage.expansion != 1:
            y = Convolution(inputs * stage.expansion, 1, compute, name="expand")(y)
            y = _relu6(norm(y, "expand"))
        depthwise = Convolution(
            y.shape[-1],
            stage.kernel,
            compute,
            stride=stage.stride,
            depthwise=True,
            name="depthwise",
        )
        y = _relu6(norm(depthwise(y), "depthwise"))
        y = norm(Convolution(stage.width, 1, compute, name="project")(y), "project")
        y = x + y if stage.stride == 1 and inputs == stage.width else y
        return compute.constrain(y, ("batch", "patch", "patch", "conv_out"))


def _norm(config: EfficientNetLite, compute: Compute, name: str) -> BatchNorm:
    return BatchNorm(compute, config.norm_epsilon, config.norm_momentum, name=name)


def _relu6(x: Array) -> Array:
    return jnp.clip(x, 0, 6)
