"""The parts of a checkpoint that become programs, as functions of weights and inputs.

An encoder with its part of the embedding head is one program: images or texts in, embeddings out.
The head that answers questions is another one: images and questions in, logits of answers out.
"""

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
from vljax.models.filters import filter_name
from vljax.models.layers.transformer import TransformerConfig
from vljax.models.node import Encoder, Node, makers, plan, stream_of
from vljax.models.parameters import leaves
from vljax.run import Run

Specs = Mapping[str, jax.ShapeDtypeStruct]

_ANSWERING = ("image", "question", "question_mask")
"""The batch entries that the exported pipeline makes for a program that answers questions."""


@dataclass(frozen=True)
class ProgramFunction:
    """A function from named weights and batch entries to one output of the model."""

    name: str
    """The name of the program: the encoder, such as `image`, or the head, such as `answer`."""
    output: str
    """The output of the model: `image/embedding`, `answer/logits`."""
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
        outputs, _ = self.model.apply(Variables(params, state), inputs, want=(self.output,))
        return outputs[self.output]

    @property
    def _parameters(self) -> frozenset[str]:
        return frozenset(self.weights) - {n for n in self.weights if n.startswith("batch_stats/")}

    @property
    def output_name(self) -> str:
        """The name of the output in the program: `embedding`, `logits`."""
        return self.output.rsplit("/", 1)[-1]

    def batch(self, size: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """The inputs for a batch size, which may be a symbolic dimension."""
        return {
            name: jax.ShapeDtypeStruct((size, *spec.shape[1:]), spec.dtype)
            for name, spec in self.inputs.items()
        }

    @property
    def result(self) -> jax.ShapeDtypeStruct:
        """The output for a batch of 1."""
        return jax.eval_shape(self, self.weights, self.inputs)


def program_functions(
    trained: TrainedModel, issues: ExportIssues, compute: Compute, dtype: Any
) -> list[ProgramFunction]:
    """Each encoder of a checkpoint with an embedding, and its question-answering head, if any.

    Args:
      trained: the checkpoint.
      issues: refuses what no program can use or feed, and notes the outputs without a program.
      compute: how the programs compute.
      dtype: the data type of the weights; programs convert them to float32 first.

    Raises:
      ExportRefused: if an encoder has no embedding and takes no part in answering questions, or if
        answering needs other inputs than an image and a question.
    """
    run = trained.run
    made = makers(run.model.nodes)
    answering = run.question_answering()
    outputs, used = dict[str, str](), set[str]()
    if answering is not None:
        used = set(_visited(run, answering.logits))
        entries = {e for name in used for e in run.model.nodes[name].example(name, 1)}
        if not entries <= {*_ANSWERING}:
            head = f"the inputs of model.nodes.{stream_of(answering.logits)}"
            issues.refuse(head, sorted(entries), ", ".join(_ANSWERING))
    for stream, encoder in run.model.encoders.items():
        if f"{stream}/embedding" in made:
            outputs[stream] = f"{stream}/embedding"
        elif stream not in used:
            has = "encoders with an embedding, or that answer questions"
            issues.refuse(f"model.nodes.{stream}", encoder.type_name, has)
    issues.stop()
    if answering is not None:
        outputs[stream_of(answering.logits)] = answering.logits
    for output in _named_outputs(run, made):
        if output not in outputs.values():
            issues.notes.append(f"no program computes {output}; its weights are in the folder")
    return [_function(trained, name, of, compute, dtype) for name, of in outputs.items()]


def _named_outputs(run: Run, made: Mapping[str, str]) -> list[str]:
    """The outputs of heads: all but streams and what is computed only if asked for."""
    nodes = run.model.nodes
    extra = {output for name, node in nodes.items() for output in node.made_if_wanted(name)}
    return [output for output in made if "/" in output and output not in extra]


def _visited(run: Run, output: str) -> list[str]:
    """The nodes that an output needs."""
    nodes = run.model.nodes
    entries = {entry for name, node in nodes.items() for entry in node.example(name, 1)}
    return [visit.node for visit in plan(nodes, entries, want=[output])]


def _function(
    trained: TrainedModel, name: str, output: str, compute: Compute, dtype: Any
) -> ProgramFunction:
    run, visited = trained.run, _visited(trained.run, output)
    nodes = {name: _unrolled(node) for name, node in run.model.nodes.items()}
    filters = run.model.filters
    model = build(ModelConfig(nodes, filters), compute)
    given = run.data.batch_spec(1)
    inputs = {
        entry: jax.ShapeDtypeStruct(_one(nodes[node], spec.shape, given[entry][0]), given[entry][1])
        for node in visited
        for entry, spec in nodes[node].example(node, 1).items()
    }
    shapes = model.shapes
    made = makers(run.model.nodes)
    read = {*visited, *(filter_name(s) for s in filters if made[s] in visited)}
    needed = {"/".join(keys) for keys, _ in leaves(shapes.params) if keys[0] in read}
    needed |= {"/".join(keys) for keys, _ in leaves(shapes.state) if keys[1] in visited}
    known = {**trained.parameters, **trained.statistics}
    weights = {
        path: jax.ShapeDtypeStruct(array.shape, dtype)
        for path, array in known.items()
        if path in needed
    }
    return ProgramFunction(name, output, model, inputs, weights)


def _unrolled(node: Node) -> Node:
    """Exported weights have unrolled names, even if the stack was scanned in training."""
    if not isinstance(node, TransformerConfig):
        return node
    return cast("Node", dataclasses.replace(cast("Any", node), scan=False, remat="none"))


def _one(node: Node, wanted: tuple[int, ...], given: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an input for one example, which training may give several of, as questions."""
    several = isinstance(node, Encoder) and node.several and len(given) == len(wanted) + 1
    return (1, *given[2:]) if several else given


def _put(tree: dict[str, Any], path: str, array: Array) -> None:
    *parents, name = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[name] = array
