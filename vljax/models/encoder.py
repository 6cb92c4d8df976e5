"""The Encoder interface: one modality in, tokens and a pooled vector out."""

from __future__ import annotations

import abc
from typing import ClassVar, NamedTuple

import jax
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from vljax.config import Component
from vljax.models.compute import Compute


class Encoded(NamedTuple):
    """The outputs of an encoder for a batch."""

    tokens: Float[Array, "batch length embed"]
    mask: Bool[Array, "batch length"]
    """False for padding."""
    pooled: Float[Array, "batch embed"]
    positions: Float[Array, "batch length 2"] | None = None
    """Centres of image tokens as (y, x) in [0, 1]; -1 for tokens without a position."""


class Encoder(Component, abc.ABC):
    """Base class of encoders: components that encode one modality.

    Its module is called as `(inputs, mask or None, *, train, example_index, ...) -> Encoded`. An
    encoder named `image` in a model reads the batch entries `image` and `image_mask`; its other
    entries in `example` are passed as keyword arguments. `example_index` is the index of each
    example in the global batch, or None; see `layers.basic.Dropout`.
    """

    any_length: ClassVar[bool] = False
    """Whether sequences may be longer or shorter than in `example`."""

    @abc.abstractmethod
    def module(self, compute: Compute, name: str) -> nn.Module:
        """The Flax module; its parameters are stored under `name`."""

    @property
    def updates_state(self) -> bool:
        """Whether training changes state that is not optimized, such as batch statistics."""
        return False

    def preprocessing(self) -> dict[str, list[float]]:
        """How the module normalises its raw inputs, for `preprocess.json` of exported models."""
        return {}

    @abc.abstractmethod
    def example(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of `inputs`, of `mask` if the encoder reads one, and of other inputs."""
