"""A third modality: what makes `audio`, and what encodes it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vljax.models.compute import Compute
from vljax.models.layers.basic import Linear
from vljax.models.node import Encoded, Encoder
from vljax.recipes import Transform

TIME, BANDS, WIDTH = 6, 4, 32


@dataclass(frozen=True)
class Sound(Transform, name="test_sound"):
    """Makes a noisy sound for each class."""

    def reads(self):
        return ("record",)

    def makes(self):
        return ("audio",)

    def arrays(self, context):
        return {"audio": ((TIME, BANDS), np.dtype(np.float32))}

    def __call__(self, example, rng):
        sound = np.random.default_rng(example["record"].label).normal(size=(TIME, BANDS))
        return {**example, "audio": np.float32(sound + 0.1 * rng.normal(size=(TIME, BANDS)))}


# Other tests go over all transforms that recipes can name; this one is named for its own test only.
del Transform.members["test_sound"]


@dataclass(frozen=True, kw_only=True)
class Audio(Encoder, name="test_audio"):
    """A linear map of each time step."""

    def roles(self, batch_size):
        return {"inputs": jax.ShapeDtypeStruct((batch_size, TIME, BANDS), jnp.float32)}

    def module(self, compute, name):
        return AudioModule(compute, name=name)


class AudioModule(nn.Module):
    compute: Compute

    @nn.compact
    def __call__(self, audio, mask, call):
        tokens = Linear((WIDTH,), ("none", "embed"), self.compute, name="frames")(audio)
        return Encoded(tokens, jnp.ones(tokens.shape[:2], bool), jnp.mean(tokens, axis=1))
