"""Scores of classes from a stream, such as the answers to a question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from flax import linen as nn
from jaxtyping import Array, Float

from vljax.models.compute import Call, Compute
from vljax.models.layers.basic import ACTIVATIONS, Linear, epsilon_problems, layer_norm
from vljax.models.node import Inputs, Node
from vljax.models.numerics import widened


@dataclass(frozen=True, kw_only=True)
class Classifier(Node, name="classifier"):
    """A linear map, or an MLP, from pooled features or from each token to `NAME/logits`.

    >>> Classifier(stream="fusion", classes=3129, hidden=1536).makes("answer")
    {'answer/logits': ('fusion',)}
    """

    stream: str
    """The stream that it reads."""
    classes: int
    """Number of classes."""
    features: Literal["pooled", "tokens"] = "pooled"
    """Whether it classifies each example, or each of its tokens."""
    hidden: int | None = None
    """Size of a hidden layer with GELU and a layer norm, as in LXMERT and ViLT; None for none."""
    norm: Literal["after", "before"] = "after"
    """Whether the layer norm of the hidden layer follows GELU (LXMERT) or precedes it (ViLT)."""
    activation: Literal["gelu", "gelu_tanh"] = "gelu_tanh"
    """The activation of the hidden layer: exact GELU, or its approximation."""
    norm_epsilon: float = 1e-6
    """Added to the variance in the layer norm of the hidden layer."""

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in ("classes", "hidden"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield name, f"must be at least 1, not {value}"
        yield from epsilon_problems(self.norm_epsilon)

    def makes(self, name: str) -> dict[str, tuple[str, ...]]:
        return {f"{name}/logits": (self.stream,)}

    def module(self, compute: Compute, name: str) -> nn.Module:
        return ClassifierModule(self, compute, name=name)


class ClassifierModule(nn.Module):
    """Features to logits in at least float32."""

    config: Classifier
    compute: Compute

    @nn.compact
    def __call__(self, inputs: Inputs, call: Call) -> dict[str, Float[Array, "... classes"]]:
        config = self.config
        x = getattr(inputs[config.stream], config.features)
        if config.hidden is not None:
            hidden = Linear((config.hidden,), ("embed", "mlp"), self.compute, name="hidden")
            activation = ACTIVATIONS[config.activation]
            norm = layer_norm(self.compute, config.norm_epsilon, "norm")
            x = hidden(x)
            x = norm(activation(x)) if config.norm == "after" else activation(norm(x))
        axes = ("embed" if config.hidden is None else "mlp", "classes")
        logits = Linear((config.classes,), axes, self.compute, name="logits")(x)
        return {f"{self.name}/logits": widened(logits)}
