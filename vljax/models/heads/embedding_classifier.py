"""Scores of classes by their similarity to a stream in a shared embedding space."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from vljax.models.compute import Call, Compute
from vljax.models.layers.basic import Linear
from vljax.models.node import Inputs, Node
from vljax.models.numerics import unit, widened
from vljax.models.parameters import with_axes

_MAX_SCALE = 100.0


@dataclass(frozen=True, kw_only=True)
class EmbeddingClassifier(Node, name="embedding_classifier"):
    """Semantic embedding: classes, such as answers, are points in the space of a projected stream.

    `NAME/logits` are exp(logit_scale) times the cosine of W v, with v the stream's pooled vector,
    and the learned vector of each class, as in the two-tower space of CLIP (Radford et al. 2021,
    figure 3), with classes in place of texts. `NAME/embedding` are the projected vectors, and
    `NAME/class_embedding` those of the classes, [classes, dim], all of unit length.

    >>> head = EmbeddingClassifier(stream="fusion", classes=3129, dim=300)
    >>> list(head.makes("answer"))
    ['answer/logits', 'answer/embedding', 'answer/class_embedding']
    >>> head.shared_outputs("answer")
    ('answer/class_embedding',)
    """

    stream: str
    """The stream that it reads."""
    classes: int
    """Number of classes."""
    dim: int
    """Size of the shared space."""
    temperature: float = 0.07
    """Initial value; cosines are divided by it. Learned as `logit_scale`, the log of 1/it, and
    never below 0.01 (Radford et al. 2021, section 2.5)."""

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in ("classes", "dim"):
            if getattr(self, name) < 1:
                yield name, f"must be at least 1, not {getattr(self, name)}"
        if self.temperature < 1 / _MAX_SCALE:
            yield "temperature", f"must be at least {1 / _MAX_SCALE}, not {self.temperature}"

    def makes(self, name: str) -> dict[str, tuple[str, ...]]:
        of_stream = (f"{name}/logits", f"{name}/embedding")
        return {**dict.fromkeys(of_stream, (self.stream,)), f"{name}/class_embedding": ()}

    def shared_outputs(self, name: str) -> tuple[str, ...]:
        return (f"{name}/class_embedding",)

    def module(self, compute: Compute, name: str) -> nn.Module:
        return EmbeddingClassifierModule(self, compute, name=name)


class EmbeddingClassifierModule(nn.Module):
    """Pooled features to embeddings and logits, in at least float32."""

    config: EmbeddingClassifier
    compute: Compute

    @nn.compact
    def __call__(self, inputs: Inputs, call: Call) -> dict[str, Array]:
        config, compute = self.config, self.compute
        init = with_axes(nn.initializers.normal(config.dim**-0.5), "classes", "embed")
        shape = (config.classes, config.dim)
        classes = unit(widened(self.param("classes", init, shape, compute.param_dtype)))
        made = {f"{self.name}/class_embedding": classes}
        if config.stream not in inputs:
            return made
        project = Linear((config.dim,), ("embed", "none"), compute, 1, False, name="project")
        embedding = unit(widened(project(inputs[config.stream].pooled)))
        init = with_axes(nn.initializers.constant(-math.log(config.temperature)))
        log_scale = self.param("logit_scale", init, (), compute.param_dtype)
        scale = jnp.exp(_at_most(widened(log_scale), math.log(_MAX_SCALE)))
        made[f"{self.name}/embedding"] = embedding
        # By default a TPU rounds float32 factors of a product to 8 bits, and `scale` is up to 100.
        high = jax.lax.Precision.HIGHEST
        cosine = jnp.einsum("bd,cd->bc", embedding, classes, precision=high)
        made[f"{self.name}/logits"] = scale * cosine
        return made


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _at_most(x: Float[Array, ""], limit: float) -> Float[Array, ""]:
    """The smaller of both, with a gradient that can bring `x` back below the limit.

    That of `jnp.minimum` is zero above it: a parameter that an update has carried past the limit
    would stay there for the rest of the training.
    """
    return jnp.minimum(x, limit)


def _at_most_forward(x: Array, limit: float) -> tuple[Array, Array]:
    return jnp.minimum(x, limit), x


def _at_most_backward(limit: float, x: Array, gradient: Array) -> tuple[Array]:
    # An update subtracts the gradient: above the limit, only a positive one leads back.
    return (jnp.where((x > limit) & (gradient < 0), 0, gradient),)


_at_most.defvjp(_at_most_forward, _at_most_backward)
