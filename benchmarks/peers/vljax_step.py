"""vljax's own step, as `vljax train` runs it."""

# ruff: noqa: E402
from __future__ import annotations

from vljax.host_process import keep_freed_memory

keep_freed_memory()  # as the command does, before NumPy and JAX start threads

import dataclasses
import itertools
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import gemm, inputs
from benchmarks.peers.worker import ROOT, Spec, Workloads, serve
from vljax import config
from vljax.models.assembly import Variables
from vljax.models.compute import Call
from vljax.parallel.rules import batch_sharding
from vljax.programs import compile_step, hyper, initial_state, make_predictor, trace_step
from vljax.run import Prepared, Run, prepare
from vljax.training.checkpoint import Checkpointer


def recipe(spec: Spec) -> Run:
    """`clip_vit_b16.py` with the size, batch and activation of the comparison."""
    run = config.load(str(ROOT / "configs/clip_vit_b16.py"), Run)
    encoders: dict[str, Any] = {
        name: dataclasses.replace(encoder, activation=spec.activation, scan=False)
        for name, encoder in run.model.encoders.items()
    }
    encoders["image"] = dataclasses.replace(encoders["image"], patch_size=spec.patch_size)
    model = dataclasses.replace(run.model, nodes={**run.model.nodes, **encoders})
    return dataclasses.replace(run, model=model, global_batch=spec.batch)


def make(spec: Spec) -> Workloads:
    """Compiles the step, its forward pass, each tower's training alone, and encoding."""
    prepared = prepare(recipe(spec))
    arrays = inputs.batch(spec)
    arrays["example_id"] = np.zeros((spec.batch, 2), np.uint32)
    arrays["valid"] = np.ones(spec.batch, bool)
    batch = jax.device_put(arrays, batch_sharding(prepared.mesh))
    step, values = compile_step(prepared), hyper(prepared)
    held = {"state": initial_state(prepared)}

    def train() -> None:
        held["state"], metrics = step(held["state"], batch, values)
        jax.block_until_ready((held["state"], metrics))

    def encode() -> None:
        # As evaluators do, from the host and back.
        bound(held["state"]).run(["image/embedding"], {"image": arrays["image"]})

    predictor_of = make_predictor(prepared)

    def bound(state: Any) -> Any:
        return predictor_of(Variables(state.params, state.state))

    def on_params(function: Any) -> Any:
        return lambda: jax.block_until_ready(function(held["state"].params, batch))

    towers = {
        f"{name} tower": on_params(tower_gradient(prepared, name)) for name in ("image", "text")
    }
    return {
        "step": train,
        "forward": on_params(forward(prepared)),
        **towers,
        "encode images": encode,
        **checkpoints(held),
        "compile unrolled": lambda: compile_again(spec, scan=False),
        "compile scanned": lambda: compile_again(spec, scan=True),
        **gemm.workloads("xla", jnp.asarray, product),
        **gemm.workloads("numpy", np.asarray, lambda a, b: a @ b.T),
    }


def checkpoints(held: dict[str, Any]) -> Workloads:
    """Workloads: save a checkpoint and its digests, and restore it after verifying them."""
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    saver, numbers = Checkpointer(folder.name, keep=1, report=print), itertools.count(1)
    kept = [folder]

    def save() -> None:
        saver.save(next(numbers), held["state"], {})
        saver.wait()

    def restore() -> None:
        assert kept
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), held["state"]
        )
        jax.block_until_ready(saver.restore(shapes).state)

    return {"save checkpoint": save, "restore checkpoint": restore}


@jax.jit
def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return left @ right.T


def product(left: jax.Array, right: jax.Array) -> None:
    """The product of the first matrix and the transposed second one."""
    _product(left, right).block_until_ready()


def compile_again(spec: Spec, *, scan: bool) -> None:
    """Lowers and compiles the step; nothing is cached."""
    run = recipe(spec)
    encoders: dict[str, Any] = dict(run.model.encoders)
    encoders = {name: dataclasses.replace(e, scan=scan) for name, e in encoders.items()}
    model = dataclasses.replace(run.model, nodes={**run.model.nodes, **encoders})
    trace_step(prepare(dataclasses.replace(run, model=model))).lower().compile()


def forward(prepared: Prepared) -> Any:
    """Both towers, without gradients."""

    @jax.jit
    def embeddings(params: Any, batch: Any) -> Any:
        outputs, _ = prepared.model.apply(Variables(params, {}), batch)
        return outputs["image/embedding"], outputs["text/embedding"]

    return embeddings


def tower_gradient(prepared: Prepared, name: str) -> Any:
    """Forward and backward pass of one tower."""

    @jax.jit
    def gradient(params: Any, batch: Any) -> Any:
        own = {key: value for key, value in batch.items() if key.startswith(name)}

        def weighted_sum(params: Any) -> Any:
            outputs, _ = prepared.model.apply(Variables(params, {}), own, Call(train=True))
            embedding = outputs[f"{name}/embedding"]
            return jnp.sum(embedding * jnp.arange(embedding.shape[-1]))

        return jax.grad(weighted_sum)({k: v for k, v in params.items() if k != other})

    other = {"image": "text", "text": "image"}[name]
    return gradient


if __name__ == "__main__":
    serve(make)
