"""A model from its configuration: encoders and heads as pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import meta
from jaxtyping import Array

from vljax.models.compute import Call, Compute
from vljax.models.encoder import Encoder
from vljax.models.heads.embedding import Embedding, Head
from vljax.models.parameters import with_axes

Batch = Mapping[str, Any]
Outputs = dict[str, Array]

_POSITIONAL = ("inputs", "mask")
"""Entries of `Encoder.example` that the module takes as positional arguments."""


class Variables(NamedTuple):
    """All arrays of a model."""

    params: dict[str, Any]
    """Nested dicts of arrays that are optimized."""
    state: dict[str, Any]
    """Collections of arrays that are not optimized, such as batch statistics; often empty."""


class Apply(Protocol):
    """The forward pass of a model."""

    def __call__(
        self, variables: Variables, batch: Batch, rngs: dict[str, Array] | None, *, train: bool
    ) -> tuple[Outputs, dict[str, Any]]:
        """Outputs by name, and the new state. Modalities that the batch lacks are not computed.

        If the batch is a part of the global one, its entry `example_index` has the index of each
        example there; dropout depends on it.
        """


class Model(NamedTuple):
    """A model as pure functions."""

    init: Callable[[Array, Batch], Variables]
    apply: Apply
    axes: dict[str, Any]
    """A tree like the parameters, with a tuple of logical axis names for each array."""


@dataclass(frozen=True)
class ModelConfig:
    """The encoders and heads of a model.

    >>> from vljax.models.heads import Embedding
    >>> from vljax.models.presets import text, vit
    >>> image = vit("S/16", image_size=224)
    >>> words = text("S", vocab_size=32_000, context_length=64)
    >>> config = ModelConfig({"image": image, "text": words}, {"embedding": Embedding(384)})
    >>> example_batch(config, 8)["image"].shape
    (8, 224, 224, 3)
    """

    encoders: dict[str, Encoder]
    """By the batch entry that they read: `image`, `text`."""
    heads: dict[str, Head]
    """By a name that you choose; parameters are stored under it."""

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in self.encoders.keys() & self.heads.keys():
            yield f"heads.{name}", "an encoder has this name; rename the head"
        for name, head in self.heads.items():
            for stream in head.reads():
                if stream not in self.encoders:
                    yield f"heads.{name}", f"reads {stream!r}, which no encoder makes"
            if isinstance(head, Embedding):
                yield from self._unprojected(name, head)

    def _unprojected(self, name: str, head: Embedding) -> Iterator[tuple[str, str]]:
        for stream, projection in head.projections.items():
            width = getattr(self.encoders.get(stream), "width", head.dim)
            if projection == "none" and width != head.dim:
                sizes = f"{stream!r} is {width} wide but dim is {head.dim}"
                yield f"heads.{name}.projections", f"{sizes}; use linear or affine, or equal sizes"


class AssembledModule(nn.Module):
    """The whole model; it returns a flat dict of all useful intermediates."""

    config: ModelConfig
    compute: Compute
    scalars: Mapping[str, float]

    @nn.compact
    def __call__(self, batch: Batch, train: bool) -> Outputs:
        outputs: Outputs = {}
        streams = {}
        for name, encoder in self.config.encoders.items():
            if name not in batch:
                continue
            module = encoder.module(self.compute, name)
            mask = batch.get(f"{name}_mask")
            call = Call(train, batch.get("example_index"))
            rest = {k: batch[f"{name}_{k}"] for k in encoder.example(1) if k not in _POSITIONAL}
            encoded = module(batch[name], mask, call, **rest)
            streams[name] = encoded
            outputs |= {f"{name}/{k}": v for k, v in encoded._asdict().items() if v is not None}
        for name, head in self.config.heads.items():
            outputs |= head.module(self.compute, name)(streams)
        for name, initial in self.scalars.items():
            init = with_axes(nn.initializers.constant(initial))
            outputs[name] = self.param(name, init, (), self.compute.param_dtype)
        return outputs


def build(
    config: ModelConfig, compute: Compute, scalars: Mapping[str, float] | None = None
) -> Model:
    """The model as pure functions.

    Args:
      config: encoders and heads.
      compute: number formats, kernels and sharding of activations.
      scalars: learned scalars that objectives need, with their initial values. They become
        top-level parameters, and outputs with the same name (`logit_scale`).
    """
    module = AssembledModule(config, compute, dict(scalars or {}))

    def init(key: Array, batch: Batch) -> Variables:
        return _split(meta.unbox(module.init({"params": key}, batch, train=False)))

    def apply(
        variables: Variables, batch: Batch, rngs: dict[str, Array] | None, *, train: bool
    ) -> tuple[Outputs, dict[str, Any]]:
        collections = {"params": variables.params, **variables.state}
        outputs, state = module.apply(
            collections, batch, train=train, rngs=rngs, mutable=list(variables.state)
        )
        return outputs, dict(state)

    def boxed() -> Any:
        return module.init(
            {"params": jax.random.key(0)}, _zeros(example_batch(config)), train=False
        )

    return Model(init, apply, _axes(jax.eval_shape(boxed)["params"]))


def example_batch(config: ModelConfig, batch_size: int = 1) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch with every modality."""
    batch = {}
    for name, encoder in config.encoders.items():
        for role, spec in encoder.example(batch_size).items():
            batch[name if role == "inputs" else f"{name}_{role}"] = spec
    return batch


def parameter_shapes(model: Model, config: ModelConfig) -> Variables:
    """Shapes and types of all variables; nothing is computed."""
    return jax.eval_shape(
        lambda key: model.init(key, _zeros(example_batch(config))), jax.random.key(0)
    )


def _zeros(specs: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Array]:
    return {name: jnp.zeros(spec.shape, spec.dtype) for name, spec in specs.items()}


def _split(collections: Mapping[str, Any]) -> Variables:
    params = collections["params"]
    return Variables(params, {k: v for k, v in collections.items() if k != "params"})


def _axes(boxed: Any) -> dict[str, Any]:
    def names(leaf: Any) -> tuple[str, ...]:
        if not isinstance(leaf, meta.AxisMetadata):
            raise TypeError("a parameter was made without logical axis names")
        return tuple(leaf.names)  # type: ignore[attr-defined]

    return jax.tree.map(names, boxed, is_leaf=lambda x: isinstance(x, meta.AxisMetadata))
