"""The encoders of a checkpoint as functions of weights and inputs, to export as programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vljax.interop.export_plan import ExportIssues, TrainedModel
from vljax.models.assembly import Model, ModelConfig, Variables, build
from vljax.models.compute import Compute
from vljax.models.layers.transformer import TransformerConfig
from vljax.models.node import Encoder, makers
from vljax.models.parameters import leaves

Specs = Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class EncoderFunction:
    """A function from named weights and the inputs of one modality to its embeddings."""

    stream: str
    """The modality: `image` or `text`."""
    model: Model
    inputs: Specs
    """By the name of the batch entry, for a batch of 1."""
    weights: Specs
    """The weights that it reads, in the order of the checkpoint's arrays."""

    def __call__(
        self, weights: Mapping[str, Array], inputs: Mapping[str, Array]
    ) -> Float[Array, "batch dim"]:
        wide = {name: array.astype(jnp.float32) for name, array in weights.items()}
        params: dict[str, Any] = {}
        state: dict[str, Any] = {}
        for path, array in wide.items():
            _put(params if path in self._parameters else state, path, array)
        outputs, _ = self.model.apply(
            Variables(params, state), inputs, want=(f"{self.stream}/embedding",)
        )
        return outputs[f"{self.stream}/embedding"]

    @property
    def _parameters(self) -> frozenset[str]:
        return frozenset(self.weights) - {n for n in self.weights if n.startswith("batch_stats/")}

    def batch(self, size: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """The inputs for a batch size, which may be a symbolic dimension."""
        return {
            name: jax.ShapeDtypeStruct((size, *spec.shape[1:]), spec.dtype)
            for name, spec in self.inputs.items()
        }

    @property
    def output(self) -> jax.ShapeDtypeStruct:
        """The embeddings of a batch of 1."""
        return jax.eval_shape(self, self.weights, self.inputs)


def encoder_functions(
    trained: TrainedModel, issues: ExportIssues, compute: Compute, dtype: Any
) -> list[EncoderFunction]:
    """Every encoder of a checkpoint with its part of the embedding head.

    Args:
      trained: the checkpoint.
      issues: refuses encoders without an embedding.
      compute: how the encoders compute.
      dtype: the data type of the weights; programs convert them to float32 first.

    Raises:
      UserError: if an encoder has no embedding.
    """
    known = {**trained.parameters, **trained.statistics}
    return [
        _function(trained, stream, issues, compute, dtype, known)
        for stream in trained.run.model.encoders
    ]


def _function(
    trained: TrainedModel,
    stream: str,
    issues: ExportIssues,
    compute: Compute,
    dtype: Any,
    known: Any,
) -> EncoderFunction:
    run = trained.run
    encoder = run.model.encoders[stream]
    if f"{stream}/embedding" not in makers(run.model.nodes):
        issues.refuse(f"model.nodes.{stream}", encoder.type_name, "encoders with an embedding")
    if isinstance(encoder, TransformerConfig):
        # Exported weights have unrolled names, even if the stack was scanned in training.
        encoder = cast(
            "Encoder", dataclasses.replace(cast("Any", encoder), scan=False, remat="none")
        )
    model = build(ModelConfig({**run.model.nodes, stream: encoder}), compute)
    given = run.data.batch_spec(1)
    inputs = {name: jax.ShapeDtypeStruct(*given[name]) for name in encoder.example(stream, 1)}
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
