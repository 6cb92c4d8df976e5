"""The encoders of a checkpoint as functions of weights, for programs that run elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vljax.interop.export_issues import Losses
from vljax.interop.format import Trained
from vljax.models.assembly import Model, ModelConfig, Variables, build, example_batch
from vljax.models.compute import Compute
from vljax.models.encoder import Encoder
from vljax.models.layers.transformer import TransformerConfig
from vljax.models.parameters import leaves

Specs = Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class EncoderFunction:
    """From the inputs of one modality, and weights by their names, to its embeddings."""

    stream: str
    """The modality: `image` or `text`."""
    model: Model
    inputs: Specs
    """By the names of batch entries; the batch is 1."""
    weights: Specs
    """What it reads, in the order of a checkpoint's arrays."""

    def __call__(
        self, weights: Mapping[str, Array], inputs: Mapping[str, Array]
    ) -> Float[Array, "batch dim"]:
        wide = {name: array.astype(jnp.float32) for name, array in weights.items()}
        params: dict[str, Any] = {}
        state: dict[str, Any] = {}
        for path, array in wide.items():
            _put(params if path in self._parameters else state, path, array)
        outputs, _ = self.model.apply(Variables(params, state), inputs, None, train=False)
        return outputs[f"{self.stream}/embedding"]

    @property
    def _parameters(self) -> frozenset[str]:
        return frozenset(self.weights) - {n for n in self.weights if n.startswith("batch_stats/")}

    def batch(self, size: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """The inputs for a batch of a size, which may be a symbol."""
        return {
            name: jax.ShapeDtypeStruct((size, *spec.shape[1:]), spec.dtype)
            for name, spec in self.inputs.items()
        }

    @property
    def output(self) -> jax.ShapeDtypeStruct:
        """The embeddings of a batch of 1."""
        return jax.eval_shape(self, self.weights, self.inputs)


def encoder_functions(
    trained: Trained, losses: Losses, compute: Compute, dtype: Any
) -> list[EncoderFunction]:
    """Every encoder of a checkpoint, with its part of the embedding head.

    Args:
      trained: the checkpoint.
      losses: is asked where an encoder has no embedding.
      compute: how it is computed.
      dtype: of the weights; they are widened to float32 before anything else.

    Raises:
      UserError: if an encoder has no embedding.
    """
    known = {**trained.parameters, **trained.statistics}
    return [
        _function(trained, stream, losses, compute, dtype, known)
        for stream in trained.run.model.encoders
    ]


def _function(
    trained: Trained, stream: str, losses: Losses, compute: Compute, dtype: Any, known: Any
) -> EncoderFunction:
    run = trained.run
    encoder = run.model.encoders[stream]
    if not any(stream in head.reads() for head in run.model.heads.values()):
        losses.refuse(f"model.encoders.{stream}", encoder.type_name, "encoders with an embedding")
    if isinstance(encoder, TransformerConfig):
        # Weights go under their unrolled names, layer by layer, whatever the stack was trained as.
        encoder = cast("Encoder", dataclasses.replace(encoder, scan=False, remat="none"))
    alone = ModelConfig({stream: encoder}, run.model.heads)
    model = build(alone, compute)
    given = run.data.batch_spec(1)
    inputs = {name: jax.ShapeDtypeStruct(*given[name]) for name in example_batch(alone)}
    zeros = {name: jnp.zeros(spec.shape, spec.dtype) for name, spec in inputs.items()}
    shapes = jax.eval_shape(lambda key: model.init(key, zeros), jax.random.key(0))
    needed = {"/".join(keys) for part in shapes for keys, _ in leaves(part)}
    weights = {
        name: jax.ShapeDtypeStruct(array.shape, dtype)
        for name, array in known.items()
        if name in needed
    }
    return EncoderFunction(stream, model, inputs, weights)


def _put(tree: dict[str, Any], path: str, array: Array) -> None:
    *parents, name = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[name] = array
