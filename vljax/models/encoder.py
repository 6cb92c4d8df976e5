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
    """What an encoder makes of a batch."""

    tokens: Float[Array, "batch length embed"]
    mask: Bool[Array, "batch length"]
    """False for padding."""
    pooled: Float[Array, "batch embed"]
    positions: Float[Array, "batch length 2"] | None = None
    """Centres of image tokens as (y, x) in [0, 1]; -1 for tokens that stand nowhere."""


class Encoder(Component, abc.ABC):
    """Kind of components that encode one modality.

    The module is called as `(inputs, mask or None, *, train, places, ...) -> Encoded`. An encoder
    named `image` in a model reads the batch entries `image` and `image_mask`, and passes on as
    keyword arguments what else it has in `example`; `places` are the examples' places in the global
    batch, or None, for `layers.Dropout`.
    """

    any_length: ClassVar[bool] = False
    """Whether sequences may have another length than in `example`."""

    @abc.abstractmethod
    def module(self, compute: Compute, name: str) -> nn.Module:
        """The Flax module, under the name that its parameters get."""

    @property
    def updates_state(self) -> bool:
        """Whether training changes state that is not optimized, as moving statistics."""
        return False

    def preprocessing(self) -> dict[str, list[float]]:
        """What the module does to its raw inputs first, for readers of `preprocess.json`."""
        return {}

    @abc.abstractmethod
    def example(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of `inputs`, of `mask` where the encoder reads one, and of the rest."""
